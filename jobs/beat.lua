-- A worker's sign of life, whose cost does not grow with the number of workers elsewhere.
-- KEYS  1 sorted set of workers by their last sign (ms)   2 hash of what they said of themselves   3 hash of what all workers did,
--       ever   4 sorted set of the folders that workers have, by their last sign   5 set of the workers of its place
-- ARGV  1 worker ('' only tells what it did)   2 what it says of itself   3 how long a worker counts as living after its last sign, in
--       ms   4 how long it is remembered   5… what it did since its last sign: name, count, …
-- Returns  how many workers live, the folders they have, and of each worker of its place what it said
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local living, remembered = now - ARGV[3], now - ARGV[4]
for i = 5, #ARGV, 2 do redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1]) end
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[4], now, cjson.decode(ARGV[2]).dataId)
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('PEXPIRE', KEYS[5], 2 * ARGV[4])
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', remembered)) do
  redis.call('ZREM', KEYS[1], worker)
  redis.call('HDEL', KEYS[2], worker)
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', remembered)
local neighbours = {}
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  local said = redis.call('HGET', KEYS[2], worker)
  if said then neighbours[#neighbours + 1] = said else redis.call('SREM', KEYS[5], worker) end
end
return { redis.call('ZCOUNT', KEYS[1], living, '+inf'), redis.call('ZRANGEBYSCORE', KEYS[4], living, '+inf'), neighbours }
