-- A worker's sign of life. KEYS 1 sorted set of workers by their last sign (ms)   2 hash of what they said of themselves
--   3 hash of what all workers did, ever   4 sorted set of the folders that workers have, by their last sign
-- ARGV 1 worker ('' asks alone)   2 what it says of itself   3 how long a worker that is not heard of is remembered, in ms
--   4… what it did since its last sign: name, count, …
-- Returns, for each worker: ms since its last sign, what it said, …
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[4], now, cjson.decode(ARGV[2]).dataId)
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])) do
  redis.call('ZREM', KEYS[1], worker)
  redis.call('HDEL', KEYS[2], worker)
end
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[3])
local answer, all = {}, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  answer[#answer + 1] = now - all[i + 1]
  answer[#answer + 1] = redis.call('HGET', KEYS[2], all[i])
end
return answer
