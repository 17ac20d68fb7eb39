-- Fetch due jobs for one worker: mark each as in progress, and return it with its payload.
-- KEYS: queue, workers
-- ARGV: JSON {worker, running, room, mark_ms, scan, alive_seconds, retry_seconds, in_progress_key, retry_key, job_key}
--   running: ids of the jobs that this worker runs. A job that has its mark but does not run was fetched by a call whose
--   answer was lost, or its end could not be written: it is fetched again.
-- Returns {fetched, next_due_ms}.
--   fetched: {job id, due ms, payload, try} each. The payload is empty if it has expired.
--   next_due_ms: milliseconds until the next job is due, or -1.
local request = cjson.decode(ARGV[1])
local queue, workers = unpack(KEYS)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local running = {}
for _, id in ipairs(request.running) do running[id] = true end

local function is_dead(worker)
  local heartbeat = redis.call('ZSCORE', workers, worker)
  return not heartbeat or tonumber(heartbeat) < time[1] - request.alive_seconds
end

local function is_free(id)
  if running[id] then return false end
  local holder = redis.call('GET', request.in_progress_key .. id)
  return not holder or holder == request.worker or is_dead(holder)
end

local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now_ms, 'WITHSCORES', 'LIMIT', 0, request.scan)
local fetched = {}
for i = 1, #due, 2 do
  if #fetched >= request.room then break end
  local id, due_ms = due[i], due[i + 1]
  if is_free(id) then
    redis.call('SET', request.in_progress_key .. id, request.worker, 'PX', request.mark_ms)
    local try = redis.call('INCR', request.retry_key .. id)
    redis.call('EXPIRE', request.retry_key .. id, request.retry_seconds)
    fetched[#fetched + 1] = {id, due_ms, redis.call('GET', request.job_key .. id) or '', try}
  end
end

local later = redis.call('ZRANGEBYSCORE', queue, '(' .. now_ms, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {fetched, later[2] and later[2] - now_ms or -1}
