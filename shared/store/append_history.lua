-- Append entries to the history of a record. An entry that repeats an earlier one replaces it.
-- KEYS: record, precondition, history
-- ARGV: JSON {precondition, history_kept, entries: [{text, dedup_key}]}
-- Returns "done", "fenced" (the precondition does not hold) or "gone" (there is no record).
local request = cjson.decode(ARGV[1])
local record_key, precondition_key, history_key = unpack(KEYS)

if redis.call('GET', precondition_key) ~= request.precondition then return 'fenced' end
if redis.call('EXISTS', record_key) == 0 then return 'gone' end

for _, entry in ipairs(request.entries) do
  for _, known in ipairs(redis.call('LRANGE', history_key, 0, -1)) do
    if string.sub(known, -#entry.dedup_key) == entry.dedup_key then redis.call('LREM', history_key, 1, known) end
  end
  redis.call('RPUSH', history_key, entry.text)
end
redis.call('LTRIM', history_key, -request.history_kept, -1)
return 'done'
