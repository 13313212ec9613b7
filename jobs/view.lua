-- All that a job is shown by, as it is in one moment.
-- KEYS: the job's record, its pages in work, their live counts; its latest speed; the folders of all workers.
-- ARGV: of how many whole seconds before this one its speed is.
-- Replies with the time, the folders, what was in those seconds (files, bytes, looks, of which idle: as pulse.lua tells), and
-- what the first three hold, in order.
local time = redis.call('TIME')
local fields = {}
for second = time[1] - ARGV[1], time[1] - 1 do
  for _, kind in ipairs({ '', 'b', 'l', 'i' }) do fields[#fields + 1] = string.format('%s%d', kind, second) end
end
local sums = { 0, 0, 0, 0 }
for index, count in ipairs(redis.call('HMGET', KEYS[4], unpack(fields))) do
  local kind = (index - 1) % 4 + 1
  sums[kind] = sums[kind] + (count or 0)
end
local view = { time, redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'), sums }
for index = 1, 3 do view[#view + 1] = redis.call('HGETALL', KEYS[index]) end
return view
