-- Each request has the cookie of the next session in the file COOKIES. Every thread starts at another offset, so that
-- threads do not use the same session at the same time.
local threads = 0
function setup(thread)
  thread:set("offset", threads * 137)
  threads = threads + 1
end

function init()
  requests = {}
  for cookie in io.lines(os.getenv("COOKIES")) do
    wrk.headers["Cookie"] = cookie
    requests[#requests + 1] = wrk.format("GET", "/")
  end
  turn = offset
end

function request()
  turn = turn + 1
  return requests[turn % #requests + 1]
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    "RESULT %d %d %d %.4f %.4f\n", summary.requests, errors.status, broken,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
