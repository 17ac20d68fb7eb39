-- Read the synced mark, if it was written on this server.
-- KEYS: synced mark
-- Returns the mark, JSON; empty if there is none, or if it came with a restored or replicated data set.
local raw = redis.call('GET', KEYS[1])
return raw and is_of_this_server(cjson.decode(raw)) and raw or ''
