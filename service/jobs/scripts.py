"""The Lua scripts that change jobs in Redis, each atomic. All times are milliseconds since 1970 by Redis' clock.

Times in the future are bounded where they are read: a clock that was set back leaves them further ahead than they can
be, and would otherwise keep leases and heartbeats alive for as long as it went back.
"""

from __future__ import annotations

from service.jobs.event_keys import CHANNEL, GONE, KEPT_MS, MOST_ENTRIES, PREVIEWS_KEPT_MS, EventKind

NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)"
"""`now`, in milliseconds."""

ANNOUNCE = f"""
local function announce(stream, job, kind, data)
  local entry = redis.call('XADD', stream, 'MAXLEN', '~', {MOST_ENTRIES}, '*', 'kind', kind, 'data', data)
  redis.call('PUBLISH', '{CHANNEL}', job)
  return entry
end
"""
"""Append to a job's stream of events and wake its readers."""

COMMIT = f"""
{NOW}
{ANNOUNCE}
local c = cjson.decode(ARGV[1])
local current = redis.call('GET', c.record) or ''
if current == c.new then return 1 end
if current ~= c.old then return 0 end
if c.guarded then
  local lease = tonumber(redis.call('ZSCORE', c.leases, c.id) or 0)
  if lease > now and lease <= now + c.lease then return -1 end
end
redis.call('SET', c.record, c.new)
if not c.held then
  redis.call('DEL', c.attempt)
  redis.call('ZREM', c.leases, c.id)
elseif c.claimed then
  redis.call('DEL', c.attempt, c.previews)
  redis.call('HSET', c.attempt, 'attempt', c.held)
  redis.call('ZADD', c.leases, now + c.lease, c.id)
end
if c.held and c.cancel then redis.call('HSET', c.attempt, 'cancel', 1) end
local function place(key, score)
  if score then redis.call('ZADD', key, score, c.id) else redis.call('ZREM', key, c.id) end
end
place(c.queued, c.turn)
place(c.unclaimed, c.wake and now + c.wake)
place(c.expiry, c.expires)
if c.event then announce(c.events, c.id, c.event, c.new) end
if c.ended then
  redis.call('PEXPIRE', c.events, {KEPT_MS})
  redis.call('PEXPIRE', c.previews, {PREVIEWS_KEPT_MS})
end
if c.deliver then redis.call('ZADD', c.webhooks, now, c.id) end
for _, index in ipairs(c.leave) do redis.call('ZREM', index, c.id) end
for _, index in ipairs(c.enter) do redis.call('ZADD', index, 0, c.id) end
return 1
"""
"""Replace a record by the next one, and bring every index in line with it.

ARGV[1] is one JSON object. `id`; `old` and `new`, the record as read and as it is to be; the keys `record`, `attempt`,
`queued`, `leases`, `unclaimed`, `expiry`, `events`, `previews`, `webhooks`; the indexes to `leave` and to `enter`;
`lease` in milliseconds; and, each absent where it does not apply: `held`, the fencing token of the holder, `claimed`,
whether it is new; `cancel`, a cancel was requested; `turn`, the score in the queue; `wake`, milliseconds until the job
needs another message; `expires`; `event`, the kind of event to announce; `ended`; `deliver`, its webhook is due;
`guarded`, only if the lease has run out.

Returns 1 if the record is the new one now, 0 if it is not the old one any more, -1 if the lease has not run out.
"""

ERASE = f"""
local record, attempt, gone, events, previews, deliveries = unpack(KEYS, 1, 6)
local old, id, remember, owner = unpack(ARGV, 1, 4)
if redis.call('GET', record) ~= old then return 0 end
redis.call('DEL', record, attempt, events, previews, deliveries)
for i = 7, #KEYS do redis.call('ZREM', KEYS[i], id) end
if remember ~= '' then redis.call('SET', gone, owner, 'PX', remember) end
redis.call('PUBLISH', '{CHANNEL}', id .. '{GONE}')
return 1
"""
"""Erase a job. KEYS: six of its own, then every set it may be in. Returns 0 if the record has changed."""

PROGRESS = f"""
{ANNOUNCE}
local token, id, data = unpack(ARGV, 1, 3)
if redis.call('HGET', KEYS[1], 'attempt') ~= token then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
announce(KEYS[2], id, '{EventKind.PROGRESS}', data)
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
"""
"""Report a step. Returns 0 for a stale token, 2 if a cancel was requested."""

RENEW = f"""
{NOW}
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
"""
"""Renew a lease. Returns as PROGRESS."""

DUE = f"""
{NOW}
if ARGV[3] ~= '' then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now + ARGV[3], '+inf')) do
    redis.call('ZADD', KEYS[1], now + ARGV[3], id)
  end
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', ARGV[2], ARGV[1])
"""
"""Members that are due: at most ARGV[1], after the first ARGV[2]. ARGV[3]: how far ahead a time can be, in
milliseconds; one further ahead is moved there. Empty: no bound."""

POSTPONE = f"{NOW} for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end"
"""Members that are still in the set are due ARGV[1] milliseconds from now."""

KEEP = """
if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then redis.call('ZREM', KEYS[2], ARGV[2]) end
"""
"""Remove an id from the expiry set if its record is still as it was read, '' for none."""
