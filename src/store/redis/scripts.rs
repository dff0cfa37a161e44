//! Changes of several keys or with a condition: one atomic script each.
//!
//! Lua numbers are floating-point. Times are compared as numbers and written back as the received
//! text or with `%.0f`, because `tostring` would round them.
//!
//! A full Redis (`maxmemory` without eviction) rejects the first write of a script if it may need
//! memory, but no later write. Scripts that end something therefore begin with a `DEL`, so logouts
//! work on a full Redis. Scripts that create or rotate are rejected.
//!
//! Another program may have replaced a key by one of another type. Scripts remove such a key:
//! otherwise it would block every revocation of its user.

use crate::redis::Script;

/// All scripts. Redis caches them by hash, and receives the text if the hash is unknown.
pub(super) struct Scripts {
    pub(super) create: Script,
    pub(super) commit: Script,
    pub(super) touch: Script,
    pub(super) end: Script,
    pub(super) expire: Script,
    pub(super) revoke_user: Script,
    pub(super) restore_cutoff: Script,
    pub(super) revoke_all_users: Script,
    pub(super) advance_time: Script,
    pub(super) swap_history: Script,
    pub(super) charge_login: Script,
    pub(super) refund_login: Script,
    pub(super) clear_login: Script,
    pub(super) is_foreign_index: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        let simple = |body: &str| Script::new(format!("{READ}\n{body}"));
        let script = |body: &str| Script::new(format!("{READ}\n{EXPIRE_LATER}\n{body}"));
        Scripts {
            create: script(CREATE),
            commit: script(COMMIT),
            touch: script(TOUCH),
            end: script(END),
            expire: script(EXPIRE),
            revoke_user: simple(REVOKE_USER),
            restore_cutoff: simple(RESTORE_CUTOFF),
            revoke_all_users: simple(REVOKE_ALL_USERS),
            advance_time: simple(ADVANCE_TIME),
            swap_history: script(SWAP_HISTORY),
            charge_login: Script::new(CHARGE_LOGIN.to_owned()),
            refund_login: Script::new(REFUND_LOGIN.to_owned()),
            clear_login: Script::new(CLEAR_LOGIN.to_owned()),
            is_foreign_index: Script::new(IS_FOREIGN_INDEX.to_owned()),
        }
    }
}

/// Reads a key. Removes it first if it has a type that doorward never writes.
const READ: &str = r"
local function read(command, key, ...)
  local value = redis.pcall(command, key, ...)
  if type(value) ~= 'table' or not value.err then return value end
  if string.find(value.err, 'WRONGTYPE') then redis.call('DEL', key) end
  return redis.call(command, key, ...)
end
";

/// Moves the expiry of a key later, never earlier. It is at least an hour, so that a gateway with a
/// slow clock does not lose its own writes.
const EXPIRE_LATER: &str = r"
local clock = redis.call('TIME')
local function expire_later(key, at)
  local ttl = math.max(at - (clock[1] * 1000 + math.floor(clock[2] / 1000)), 3600000)
  if ttl > redis.call('PTTL', key) then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
end
";

/// KEYS record touch index; ARGV value expiry id created retain_until most forgotten_before.
/// Returns 2 for a session created ahead of Redis' clock.
/// Sweeps the index after it has doubled, so that frequent logins do not grow it and no single
/// login is slow.
const CREATE: &str = r"
local now = read('GET', KEYS[1])
local begun = 1
if tonumber(ARGV[4]) > clock[1] * 1000 + math.floor(clock[2] / 1000) then begun = 2 end
if now then
  if now == ARGV[1] then return begun end
  return 0
end
local entries = read('HLEN', KEYS[3])
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

/// KEYS record index; ARGV expected value expiry id retain_until.
const COMMIT: &str = r"
if read('GETRANGE', KEYS[1], 0, 8) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[3]))
local entry = read('HGET', KEYS[2], ARGV[4])
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
if read('GETRANGE', KEYS[1], 0, 0) ~= '\1' then return 0 end
if tonumber(ARGV[1]) <= (tonumber(read('GET', KEYS[2]) or '0') or 0) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'KEEPTTL')
expire_later(KEYS[2], tonumber(ARGV[2]))
return 1
";

/// KEYS record touch index; ARGV tombstone expiry id. Returns 0 if the session had ended before. The
/// same tombstone is a repetition of the same call.
const END: &str = r"
redis.call('DEL', KEYS[2])
local before, first = read('GETRANGE', KEYS[1], 0, 9), 1
if string.sub(before, 1, 1) ~= '\2' then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
elseif before ~= ARGV[1] then
  first = 0
end
expire_later(KEYS[1], tonumber(ARGV[2]))
read('HDEL', KEYS[3], ARGV[3])
return first
";

/// KEYS record touch index; ARGV expected touched due tombstone expiry id. Ends a session that has
/// not changed, by Redis' own clock: that of the gateway may be wrong.
const EXPIRE: &str = r"
local value = read('GETRANGE', KEYS[1], 0, 9)
if value == ARGV[4] then return 1 end
if string.sub(value, 1, 9) ~= ARGV[1] then return 0 end
if clock[1] * 1000 + math.floor(clock[2] / 1000) < tonumber(ARGV[3]) then return 0 end
if (tonumber(read('GET', KEYS[2]) or '0') or 0) > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[4], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[5]))
read('HDEL', KEYS[3], ARGV[6])
return 1
";

/// KEYS cutoff index; ARGV now except kept_ms. Returns the cutoff and the IDs of the sessions that it
/// revokes, so that exactly one gateway reports each.
const REVOKE_USER: &str = r"
local before, excepted = 0, ''
local at, id = string.match(read('GET', KEYS[1]) or '', '^(%d+) ?(%x*)$')
if at then before, excepted = tonumber(at), id end
at = math.max(tonumber(ARGV[1]), before, tonumber(read('HGET', KEYS[2], 'max') or '0') or 0)
local except = ARGV[2]
if at == before and except ~= excepted then except = '' end
local line = string.format('%.0f', at)
if except ~= '' then line = line .. ' ' .. except end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line, 'PX', ARGV[3])
local reply = {line}
local index = redis.call('HGETALL', KEYS[2])
for i = 1, #index, 2 do
  local created = string.match(index[i + 1], '^(%d+) ')
  if created and index[i] ~= except and tonumber(created) <= at then
    redis.call('HDEL', KEYS[2], index[i])
    reply[#reply + 1] = index[i]
  end
end
return reply
";

/// KEYS cutoff; ARGV at except kept_ms.
const RESTORE_CUTOFF: &str = r"
local before, excepted = 0, ''
local at, id = string.match(read('GET', KEYS[1]) or '', '^(%d+) ?(%x*)$')
if at then before, excepted = tonumber(at), id end
local except = ARGV[2]
at = tonumber(ARGV[1])
if at < before or (at == before and excepted == '') then return 0 end
if at == before and except == excepted then return 0 end
if at == before then except = '' end
local line = ARGV[1]
if except ~= '' then line = line .. ' ' .. except end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line, 'PX', ARGV[3])
return 1
";

/// KEYS time; ARGV time kept_ms. Only moves forward; never expires without `kept_ms`.
const ADVANCE_TIME: &str = r"
local before = read('GET', KEYS[1])
if before and (tonumber(before) or 0) >= tonumber(ARGV[1]) then return before end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return ARGV[1]
";

/// KEYS cutoff ahead; ARGV now. Covers sessions of gateways with fast clocks, also when a gateway
/// with a slow clock revokes.
const REVOKE_ALL_USERS: &str = r"
local clock = redis.call('TIME')
local at = math.max(tonumber(ARGV[1]), clock[1] * 1000 + math.floor(clock[2] / 1000))
for i = 1, 2 do at = math.max(at, tonumber(read('GET', KEYS[i]) or '0') or 0) end
local line = string.format('%.0f', at)
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], line)
return line
";

/// KEYS history; ARGV expected value expiry limit. Compares as much as a read returns; a missing
/// key is empty.
const SWAP_HISTORY: &str = r"
local now = read('GETRANGE', KEYS[1], 0, ARGV[4])
if now ~= ARGV[1] and now ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[3]))
return 1
";

/// KEYS counters; ARGV interval and window of each, in milliseconds. Returns the time to wait, or 0 after
/// all were charged. The rule is that of `Rate::charge`, by the clock of Redis.
const CHARGE_LOGIN: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local wait, full = 0, {}
for i = 1, #KEYS do
  local every, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local at = tonumber(redis.call('GET', KEYS[i]) or '0') or 0
  full[i] = math.min(math.max(at, now), now + window) + every
  wait = math.max(wait, full[i] - now - window)
end
if wait > 0 then return wait end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', string.format('%.0f', full[i] - now))
end
return 0
";

/// KEYS counters; ARGV interval of each, in milliseconds.
const REFUND_LOGIN: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 1, #KEYS do
  local at = tonumber(redis.call('GET', KEYS[i]) or '0') or 0
  local left = at - tonumber(ARGV[i]) - now
  if left > 0 then
    redis.call('SET', KEYS[i], string.format('%.0f', now + left), 'PX', string.format('%.0f', left))
  else
    redis.call('DEL', KEYS[i])
  end
end
return 1
";

/// KEYS place counters; ARGV known_ms.
const CLEAR_LOGIN: &str = r"
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
";

/// KEYS index. Reports whether it has a type that doorward never writes.
const IS_FOREIGN_INDEX: &str = r"
local length = redis.pcall('HLEN', KEYS[1])
if type(length) == 'table' and string.find(length.err, 'WRONGTYPE') then return 1 end
return 0
";
