-- Fetch due jobs for one worker: mark each as in progress, and return it with its payload.
-- KEYS: queue, workers
-- ARGV: JSON {worker, count, mark_ms, scan, alive_seconds, retry_seconds, in_progress_key, retry_key, job_key}
-- Returns {fetched, marked, next_due_ms}.
--   fetched: {job id, due ms, payload, try} each, now marked as this worker's.
--   marked: {job id, due ms} each, marked as this worker's by an earlier call whose answer may have been lost.
--   next_due_ms: milliseconds until the next job is due, or -1.
local request = cjson.decode(ARGV[1])
local queue, workers = unpack(KEYS)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function is_dead(worker)
  local heartbeat = redis.call('ZSCORE', workers, worker)
  return heartbeat and tonumber(heartbeat) < time[1] - request.alive_seconds
end

local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now_ms, 'WITHSCORES', 'LIMIT', 0, request.scan)
local free, marked = {}, {}
for i = 1, #due, 2 do
  if #free == request.count then break end
  local holder = redis.call('GET', request.in_progress_key .. due[i])
  if holder == request.worker then
    marked[#marked + 1] = {due[i], due[i + 1]}
  elseif not holder or is_dead(holder) then
    free[#free + 1] = {due[i], due[i + 1]}
  end
end

local fetched = {}
for number = 1, math.min(request.count - #marked, #free) do
  local id, due_ms = unpack(free[number])
  redis.call('SET', request.in_progress_key .. id, request.worker, 'PX', request.mark_ms)
  local try = redis.call('INCR', request.retry_key .. id)
  redis.call('EXPIRE', request.retry_key .. id, request.retry_seconds)
  fetched[number] = {id, due_ms, redis.call('GET', request.job_key .. id) or '', try}
end

local later = redis.call('ZRANGEBYSCORE', queue, '(' .. now_ms, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {fetched, marked, later[2] and later[2] - now_ms or -1}
