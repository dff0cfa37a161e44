//! What changes more than one key, or only under a condition: one atomic script each.
//!
//! Numbers in Lua are floating-point: times are compared as numbers and written back as the text that
//! came, or by `%.0f`, since `tostring` would round them.
//!
//! A full Redis (`maxmemory` without eviction) refuses a script's first write where that may need memory, and
//! none that comes after one. What ends something begins with a `DEL` therefore: who wants to be logged out
//! must not wait until somebody has made room. What begins or renews something is refused.

use ::redis::{Cmd, ToRedisArgs, cmd};

/// The scripts. Redis keeps them by their hash and is sent the text when it does not know one.
pub(super) struct Scripts {
    pub(super) create: Script,
    pub(super) commit: Script,
    pub(super) touch: Script,
    pub(super) end: Script,
    pub(super) revoke_user: Script,
    pub(super) restore_line: Script,
    pub(super) revoke_everyone: Script,
    pub(super) raise: Script,
    pub(super) swap_memo: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        let script = |body: &str| Script::new(format!("{LATER}\n{body}"));
        Scripts {
            create: script(CREATE),
            commit: script(COMMIT),
            touch: script(TOUCH),
            end: script(END),
            revoke_user: Script::new(REVOKE_USER.to_owned()),
            restore_line: Script::new(RESTORE_LINE.to_owned()),
            revoke_everyone: Script::new(REVOKE_EVERYONE.to_owned()),
            raise: Script::new(RAISE.to_owned()),
            swap_memo: script(SWAP_MEMO),
        }
    }
}

pub(super) struct Script {
    text: String,
    hash: String,
}

impl Script {
    fn new(text: String) -> Script {
        let hash = ::redis::Script::new(&text).get_hash().to_owned();
        Script { text, hash }
    }

    pub(super) fn call(&self) -> Call<'_> {
        Call { script: self, keys: 0, words: Vec::new() }
    }
}

/// A script with its keys and arguments: keys first.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: usize,
    words: Vec<Vec<u8>>,
}

impl Call<'_> {
    pub(super) fn key(&mut self, key: String) -> &mut Self {
        self.keys += 1;
        self.words.push(key.into_bytes());
        self
    }

    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.words.extend(argument.to_redis_args());
        self
    }

    pub(super) fn by_hash(&self) -> Cmd {
        self.by("EVALSHA", &self.script.hash)
    }

    /// For a server that does not know the script; it does afterwards.
    pub(super) fn by_text(&self) -> Cmd {
        self.by("EVAL", &self.script.text)
    }

    fn by(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys).arg(&self.words);
        command
    }
}

/// Moves a key's expiry later, never earlier; a key without one gets it. Never sooner than in an hour: a
/// gateway whose clock is far behind must not lose what it has just written.
const LATER: &str = r"
local clock = redis.call('TIME')
local function expire_later(key, at)
  local ttl = math.max(at - (clock[1] * 1000 + math.floor(clock[2] / 1000)), 3600000)
  if ttl > redis.call('PTTL', key) then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
end
";

/// KEYS record touch index; ARGV value expiry id created forget_at most forgotten_before. Answers 2 for a
/// session begun ahead of our clock.
/// Sweeps the index when it has doubled since the last sweep, so that a user who logs in for years does
/// not grow it, and no single login pays for it.
const CREATE: &str = r"
local now = redis.call('GET', KEYS[1])
local begun = 1
if tonumber(ARGV[4]) > clock[1] * 1000 + math.floor(clock[2] / 1000) then begun = 2 end
if now then
  if now == ARGV[1] then return begun end
  return 0
end
local entries = redis.call('HLEN', KEYS[3])
if entries > 64 + 2 * tonumber(redis.call('HGET', KEYS[3], 'kept') or '0') then
  local index = redis.call('HGETALL', KEYS[3])
  for i = 1, #index, 2 do
    local forget = string.match(index[i + 1], '^%d+ (%d+)$')
    if forget and tonumber(forget) < tonumber(ARGV[7]) then redis.call('HDEL', KEYS[3], index[i]) end
  end
  entries = redis.call('HLEN', KEYS[3])
  redis.call('HSET', KEYS[3], 'kept', entries)
end
if entries >= tonumber(ARGV[6]) then return -1 end
redis.call('SET', KEYS[1], ARGV[1])
expire_later(KEYS[1], tonumber(ARGV[2]))
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4] .. ' ' .. ARGV[5])
if tonumber(ARGV[4]) > tonumber(redis.call('HGET', KEYS[3], 'max') or '0') then
  redis.call('HSET', KEYS[3], 'max', ARGV[4])
end
expire_later(KEYS[3], tonumber(ARGV[2]))
return begun
";

/// KEYS record index; ARGV expected value expiry id forget_at.
const COMMIT: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 8) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[3]))
local entry = redis.call('HGET', KEYS[2], ARGV[4])
if entry then
  local created, forget = string.match(entry, '^(%d+) (%d+)$')
  if created and tonumber(forget) < tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[2], ARGV[4], created .. ' ' .. ARGV[5])
    expire_later(KEYS[2], tonumber(ARGV[3]))
  end
end
return 1
";

/// KEYS record touch; ARGV at expiry.
const TOUCH: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '\1' then return 0 end
if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[2]) or '0') then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'KEEPTTL')
expire_later(KEYS[2], tonumber(ARGV[2]))
return 1
";

/// KEYS record touch index; ARGV tombstone expiry id.
const END: &str = r"
redis.call('DEL', KEYS[2])
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '\2' then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
end
expire_later(KEYS[1], tonumber(ARGV[2]))
redis.call('HDEL', KEYS[3], ARGV[3])
return 1
";

/// KEYS line index; ARGV now except kept_ms.
const REVOKE_USER: &str = r"
local before, excepted = 0, ''
local line = redis.call('GET', KEYS[1])
if line then
  local at, id = string.match(line, '^(%d+) ?(%x*)$')
  if not at then return redis.error_reply('ERR the line is not a line') end
  before, excepted = tonumber(at), id
end
local at = math.max(tonumber(ARGV[1]), before, tonumber(redis.call('HGET', KEYS[2], 'max') or '0'))
local except = ARGV[2]
if at == before and except ~= excepted then except = '' end
line = string.format('%.0f', at)
if except ~= '' then line = line .. ' ' .. except end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line, 'PX', ARGV[3])
local index = redis.call('HGETALL', KEYS[2])
for i = 1, #index, 2 do
  local created = string.match(index[i + 1], '^(%d+) ')
  if created and index[i] ~= except and tonumber(created) <= at then
    redis.call('HDEL', KEYS[2], index[i])
  end
end
return line
";

/// KEYS line; ARGV at except kept_ms.
const RESTORE_LINE: &str = r"
local before, excepted = 0, ''
local line = redis.call('GET', KEYS[1])
if line then
  local at, id = string.match(line, '^(%d+) ?(%x*)$')
  if not at then return redis.error_reply('ERR the line is not a line') end
  before, excepted = tonumber(at), id
end
local at, except = tonumber(ARGV[1]), ARGV[2]
if at < before or (at == before and excepted == '') then return 0 end
if at == before and except == excepted then return 0 end
if at == before then except = '' end
line = ARGV[1]
if except ~= '' then line = line .. ' ' .. except end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line, 'PX', ARGV[3])
return 1
";

/// KEYS time; ARGV time kept_ms. A time that only moves forward; kept for ever without `kept_ms`.
const RAISE: &str = r"
local before = redis.call('GET', KEYS[1])
if before and tonumber(before) >= tonumber(ARGV[1]) then return before end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return ARGV[1]
";

/// KEYS line ahead; ARGV now. The line passes the sessions of gateways whose clocks are ahead, also when a
/// gateway draws it whose clock is behind.
const REVOKE_EVERYONE: &str = r"
local clock = redis.call('TIME')
local at = math.max(tonumber(ARGV[1]), clock[1] * 1000 + math.floor(clock[2] / 1000))
for i = 1, 2 do at = math.max(at, tonumber(redis.call('GET', KEYS[i]) or '0')) end
local line = string.format('%.0f', at)
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line)
return line
";

/// KEYS memo; ARGV expected value expiry limit. Compared as far as it was read; none is empty.
const SWAP_MEMO: &str = r"
local now = redis.call('GETRANGE', KEYS[1], 0, ARGV[4])
if now ~= ARGV[1] and now ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[3]))
return 1
";
