-- Return this Redis server's run id: another one after each restart and failover. Empty if INFO is refused.
local function server_run_id()
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'table' then return '' end
  return string.match(info, 'run_id:(%w+)') or ''
end

-- Return true if a synced mark was written on this server. An older mark came with a restored or replicated data set.
local function is_of_this_server(mark)
  local run_id = server_run_id()
  return mark.run_id == '' or run_id == '' or mark.run_id == run_id
end
