-- Count one request against a key's rate (generic cell rate algorithm).
-- KEYS: when the key's bucket is full again
-- ARGV: JSON {cost, burst, now}: seconds a request costs, seconds that may be owed, seconds since the epoch
-- Returns the seconds to wait, as text; "0" allows the request.
local request = cjson.decode(ARGV[1])
local key = KEYS[1]
local now = tonumber(request.now)

local full_at = math.max(now, tonumber(redis.call('GET', key) or '0')) + request.cost
local wait = full_at - now - request.burst
if wait > 0.000002 then return string.format('%.6f', wait) end -- less is a rounding error
redis.call('SET', key, string.format('%.6f', full_at), 'EX', math.ceil(full_at - now) + 60)
return '0'
