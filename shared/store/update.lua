-- Apply one update of a record, if the record is still the one that the caller read.
-- KEYS: record, precondition, history, tombstone, freed, then one index per score
-- ARGV: the update as JSON (shared.store.update_script), the record expected, the new record, one payload per job
-- Returns {verdict, detail, now}: "done"; "raced" and the record stored; "fenced"; "full" and the limit's number.
local update = cjson.decode(ARGV[1])
local expected, new = ARGV[2], ARGV[3]
local record_key, precondition_key, history_key, tombstone_key, freed_key = unpack(KEYS, 1, 5)

local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])

local stored = redis.call('GET', record_key) or ''
if stored ~= expected then return {'raced', stored, now} end

if update.precondition ~= '' then
  local value = redis.call('GET', precondition_key)
  local holds = value == update.precondition
  if update.precondition == update.synced then holds = value and is_of_this_server(cjson.decode(value)) end
  if not holds then return {'fenced', '', now} end
end

for number, limit in ipairs(update.limits) do
  local count = 0
  for _, index in ipairs(limit.indexes) do count = count + redis.call('ZCARD', index) end
  if count >= limit.maximum then return {'full', tostring(number), now} end
end

if new == '' then redis.call('DEL', record_key, history_key) else redis.call('SET', record_key, new) end

if update.tombstone == '-' then
  redis.call('DEL', tombstone_key)
elseif update.tombstone ~= '' then
  redis.call('SET', tombstone_key, update.tombstone, 'EX', update.tombstone_seconds)
end

if update.frees_capacity then
  redis.call('LPUSH', freed_key, now)
  redis.call('LTRIM', freed_key, 0, update.freed_kept - 1)
end

for _, entry in ipairs(update.history) do redis.call('RPUSH', history_key, entry) end
if #update.history > 0 then redis.call('LTRIM', history_key, -update.history_kept, -1) end

for number, score in ipairs(update.scores) do
  local index = KEYS[5 + number]
  if score == '' then redis.call('ZREM', index, update.id) else redis.call('ZADD', index, score, update.id) end
end

for number, job in ipairs(update.jobs) do
  redis.call('SET', update.job_key .. job.id, ARGV[3 + number], 'PX', update.job_expires_ms)
  redis.call('ZADD', update.queue, job.due_ms, job.id)
end
if #update.jobs > 0 then redis.call('PUBLISH', update.wakeup_channel, '') end
redis.call('PUBLISH', update.changes_channel, update.id)
return {'done', '', now}
