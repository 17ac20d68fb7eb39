-- Reserve the next slots for clean-ups, behind those reserved before.
-- KEYS: the reservations. `last`: the end of the last slot; `at`: when that was written.
-- ARGV: JSON {count, interval, now}; seconds
-- Returns when the first slot begins, seconds as text. A clock that was set back takes the reservations along.
local request = cjson.decode(ARGV[1])
local key = KEYS[1]
local now = tonumber(request.now)

local reserved = redis.call('HMGET', key, 'last', 'at')
local last, at = tonumber(reserved[1] or '0'), tonumber(reserved[2] or '0')
local first = math.max(now, math.min(last, now + last - at))
local reserved_until = string.format('%.6f', first + request.count * request.interval)
redis.call('HSET', key, 'last', reserved_until, 'at', request.now)
redis.call('EXPIRE', key, 86400)
return string.format('%.6f', first)
