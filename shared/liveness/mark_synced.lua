-- Write that the records agree with the cluster now. The dataset id stays, or is the one proposed if there is none.
-- KEYS: synced mark, lease
-- ARGV: JSON {precondition, now, dataset_id}
-- Returns "done", or "fenced" if the lease is another worker's.
local request = cjson.decode(ARGV[1])
local mark_key, lease_key = unpack(KEYS)

if redis.call('GET', lease_key) ~= request.precondition then return 'fenced' end
local dataset_id = string.match(redis.call('GET', mark_key) or '', ' (.+)') or request.dataset_id
redis.call('SET', mark_key, request.now .. ' ' .. dataset_id)
return 'done'
