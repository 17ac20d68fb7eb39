-- Write that the records agree with the cluster now. The dataset id stays, unless the mark is missing or was written on
-- another server: then the data set may have lost its last writes.
-- KEYS: synced mark, lease
-- ARGV: JSON {precondition, now, dataset_id}
-- Returns "done", or "fenced" if the lease is another worker's.
local request = cjson.decode(ARGV[1])
local mark_key, lease_key = unpack(KEYS)

if redis.call('GET', lease_key) ~= request.precondition then return 'fenced' end
local raw = redis.call('GET', mark_key)
local mark = raw and cjson.decode(raw)
if not mark or not is_of_this_server(mark) then mark = {dataset_id = request.dataset_id} end
mark.synced_at = request.now
mark.run_id = server_run_id()
redis.call('SET', mark_key, cjson.encode(mark))
return 'done'
