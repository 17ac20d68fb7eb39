-- Renew a lease, and count the renewal. The count only grows, unless Redis goes back to an older data set.
-- KEYS: lease, number of renewals, synced mark
-- ARGV: JSON {token, lease_ms, renewals}: `renewals` is the count that the holder knows, or -1
-- Returns {verdict, count, run id of the server}: "renewed", "lost", or "rolled back" with the mark deleted.
local request = cjson.decode(ARGV[1])
local lease_key, renewals_key, mark_key = unpack(KEYS)

local count = tonumber(redis.call('GET', renewals_key) or '0')
if count < request.renewals then
  redis.call('DEL', mark_key)
  return {'rolled back', count, server_run_id()}
end
if redis.call('GET', lease_key) ~= request.token then return {'lost', count, server_run_id()} end
redis.call('PEXPIRE', lease_key, request.lease_ms)
return {'renewed', redis.call('INCR', renewals_key), server_run_id()}
