-- All that a job is shown by, as it is in one moment.
-- KEYS: the job's record, its pages in work, their live counts and its latest speed; the folders of all workers.
-- Replies with the time and the folders, then with what the first four hold, in order.
local view = { redis.call('TIME'), redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES') }
for index = 1, 4 do
  view[index + 2] = redis.call('HGETALL', KEYS[index])
end
return view
