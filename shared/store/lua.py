"""What Redis runs as one step, in Lua. `shared.store.store` says what it means."""

from shared.queue import job
from shared.sandbox import history
from shared.store.update import ANY_VALUE

CHANGES = "sandboxes:changes"
TOMBSTONE_SECONDS = 600
"""How long it is known which life of an id was the last, and whether, when and why its time was over."""
FREED_KEPT = 16
"""Times at which room was made, of which the next is guessed."""

STEP = """
-- KEYS: record, guard, history, tombstone, freed, index…
-- ARGV: id, record expected, record wanted, guard's value ('': no guard),
--       tombstone ('': as it is, '-': none), 1 if this makes room, number of limits,
--       (most, number of indexes, index…) per limit…, number of entries, entry…,
--       score per index…, (id, payload, due time) per job…
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local raw = redis.call('GET', KEYS[1]) or ''
if raw ~= ARGV[2] then return {'raced', raw, now} end
if ARGV[4] ~= '' then
  local held = redis.call('GET', KEYS[2])
  if not held or (ARGV[4] ~= 'ANYTHING' and held ~= ARGV[4]) then return {'fenced', raw, now} end
end
local at = 7
for limit = 1, tonumber(ARGV[7]) do
  local held, indexes = 0, tonumber(ARGV[at + 2])
  for i = 1, indexes do held = held + redis.call('ZCARD', ARGV[at + 2 + i]) end
  if held >= tonumber(ARGV[at + 1]) then return {'full', tostring(limit), now} end
  at = at + 2 + indexes
end
if ARGV[3] == '' then redis.call('DEL', KEYS[1], KEYS[3]) else redis.call('SET', KEYS[1], ARGV[3]) end
if ARGV[5] == '-' then redis.call('DEL', KEYS[4]) end
if #ARGV[5] > 1 then redis.call('SET', KEYS[4], ARGV[5], 'EX', TOMBSTONE_SECONDS) end
if ARGV[6] == '1' then
  redis.call('LPUSH', KEYS[5], now)
  redis.call('LTRIM', KEYS[5], 0, FREED_KEPT - 1)
end
at = at + 1
local entries = tonumber(ARGV[at])
for i = at + 1, at + entries do redis.call('RPUSH', KEYS[3], ARGV[i]) end
if entries > 0 then redis.call('LTRIM', KEYS[3], -KEPT, -1) end
at = at + entries
for i = 6, #KEYS do
  at = at + 1
  if ARGV[at] == '' then redis.call('ZREM', KEYS[i], ARGV[1]) else redis.call('ZADD', KEYS[i], ARGV[at], ARGV[1]) end
end
for i = at + 1, #ARGV, 3 do
  redis.call('SET', 'JOB_KEY' .. ARGV[i], ARGV[i + 1], 'PX', EXPIRES_MS)
  redis.call('ZADD', 'QUEUE', ARGV[i + 2], ARGV[i])
end
if #ARGV > at then redis.call('PUBLISH', 'NEWS', '') end
redis.call('PUBLISH', 'CHANGES', ARGV[1])
return {'done', '', now}
"""

TELL = """
-- KEYS: record, guard, history. ARGV: guard's value, (entry, what of it is the same each time)…
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'fenced' end
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
for i = 2, #ARGV, 2 do
  for _, known in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
    if string.sub(known, -#ARGV[i + 1]) == ARGV[i + 1] then redis.call('LREM', KEYS[3], 1, known) end
  end
  redis.call('RPUSH', KEYS[3], ARGV[i])
end
redis.call('LTRIM', KEYS[3], -KEPT, -1)
return 'done'
"""

MARK = """
-- KEYS: mark, guard. ARGV: guard's value, time, what the data of this Redis are called if they have no name yet
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'fenced' end
local epoch = string.match(redis.call('GET', KEYS[1]) or '', ' (.+)') or ARGV[3]
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. epoch)
return 'done'
"""


RESERVE = """
-- KEYS: the places given out. ARGV: places, seconds between two, now → when the first of them is
-- `last`: until when they reach; `at`: when that was written. A clock that has gone back since takes them along.
local now = tonumber(ARGV[3])
local given = redis.call('HMGET', KEYS[1], 'last', 'at')
local last, at = tonumber(given[1] or '0'), tonumber(given[2] or '0')
local first = math.max(now, math.min(last, now + last - at))
redis.call('HSET', KEYS[1], 'last', string.format('%.6f', first + ARGV[1] * ARGV[2]), 'at', ARGV[3])
redis.call('EXPIRE', KEYS[1], 86400)
return string.format('%.6f', first)
"""

ALLOW = """
-- KEYS: when the bucket is full again. ARGV: seconds a request costs, seconds that may be owed, now
-- (the generic cell rate algorithm) → seconds to wait, as text; '0': go on
local full = math.max(tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[1]) or '0')) + ARGV[1]
local wait = full - ARGV[3] - ARGV[2]
if wait > 0.000002 then return string.format('%.6f', wait) end  -- not what rounding makes
redis.call('SET', KEYS[1], string.format('%.6f', full), 'EX', math.ceil(full - ARGV[3]) + 60)
return '0'
"""


def filled(script: str) -> str:
    """With the names and numbers that others own."""
    for name, value in {
        "JOB_KEY": job.JOB_KEY,
        "EXPIRES_MS": job.EXPIRES_MS,
        "QUEUE": job.QUEUE,
        "NEWS": job.WAKEUP_CHANNEL,
        "CHANGES": CHANGES,
        "ANYTHING": ANY_VALUE,
        "FREED_KEPT": FREED_KEPT,
        "KEPT": history.KEPT,
        "TOMBSTONE_SECONDS": TOMBSTONE_SECONDS,
    }.items():
        script = script.replace(name, str(value))
    return script
