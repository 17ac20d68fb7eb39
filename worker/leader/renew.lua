-- Renew a lease, and count the renewal. The count only grows, unless Redis goes back to an older data set.
-- KEYS: lease, number of renewals, synced mark
-- ARGV: JSON {token, lease_ms, renewals, renewed_at}: the count that the holder knows, or -1, and the time of that count
-- Returns {verdict, count, run id of the server, time}: "renewed", "lost", or "rolled back" with the old mark deleted.
local request = cjson.decode(ARGV[1])
local lease_key, renewals_key, mark_key = unpack(KEYS)

local function reply(verdict, count)
  local time = redis.call('TIME')
  return {verdict, count, server_run_id(), string.format('%d.%06d', time[1], time[2])}
end

local count = tonumber(redis.call('GET', renewals_key) or '0')
if count < request.renewals then
  local raw = redis.call('GET', mark_key)
  -- A mark that is newer than the last renewal is of another leader, whose term began after the step back.
  if raw and tonumber(cjson.decode(raw).synced_at) <= request.renewed_at then redis.call('DEL', mark_key) end
  return reply('rolled back', count)
end
if redis.call('GET', lease_key) ~= request.token then return reply('lost', count) end
redis.call('PEXPIRE', lease_key, request.lease_ms)
return reply('renewed', redis.call('INCR', renewals_key))
