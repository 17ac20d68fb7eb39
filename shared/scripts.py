"""What Redis runs as one step, in Lua. `shared.store` says what it means."""

from shared import history, queue

CHANGES = "sandboxes:changes"

STEP = """
-- KEYS: record, guard, history, index…
-- ARGV: id, record expected, record wanted, guard's value, number of entries, entry…,
--       score per index…, (id, payload, due time) per job…
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local raw = redis.call('GET', KEYS[1]) or ''
if raw ~= ARGV[2] then return {'raced', raw, now} end
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return {'fenced', raw, now} end
if ARGV[3] == '' then redis.call('DEL', KEYS[1], KEYS[3]) else redis.call('SET', KEYS[1], ARGV[3]) end
local at = 5
for _ = 1, tonumber(ARGV[5]) do
  at = at + 1
  redis.call('RPUSH', KEYS[3], ARGV[at])
end
if at > 5 then redis.call('LTRIM', KEYS[3], -KEPT, -1) end
for i = 4, #KEYS do
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
-- KEYS: record, guard, history. ARGV: guard's value, entry, what of it is the same each time
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'fenced' end
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
for _, known in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  if string.sub(known, -#ARGV[3]) == ARGV[3] then redis.call('LREM', KEYS[3], 1, known) end
end
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('LTRIM', KEYS[3], -KEPT, -1)
return 'done'
"""

MARK = """
-- KEYS: mark, guard. ARGV: guard's value, mark's
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'fenced' end
redis.call('SET', KEYS[1], ARGV[2])
return 'done'
"""


def filled(script: str) -> str:
    """With the names and numbers that others own."""
    for name, value in {
        "JOB_KEY": queue.JOB_KEY,
        "EXPIRES_MS": queue.EXPIRES_MS,
        "QUEUE": queue.QUEUE,
        "NEWS": queue.NEWS,
        "CHANGES": CHANGES,
        "KEPT": history.KEPT,
    }.items():
        script = script.replace(name, str(value))
    return script
