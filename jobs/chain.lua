-- The chain of pages: every change of a job's truth, one operation a call, each atomic. jobs/README.md tells why each
-- line is there. The in-flight hash is the only truth; BullMQ jobs are hints that say "look at entry q".
--
-- KEYS  1 job hash   2 in-flight hash   3 tokens hash   4 stuck hash   5 failures stream   6 live counts hash
--       7 set of active jobs   8 hash of sink paths in use   9 jobs index   10 idempotency key (create alone)
-- ARGV  1 operation   2 job id   3… its arguments
-- An entry is "flag tries nonce listed": flag o (open: not handed on), c (closed: handed on) or s (sealed); its tokens
-- are a JSON array in the tokens hash, apart, so that looking through the entries stays cheap. A token is a string of the
-- listing, or an object: a range of the failures stream, whose files are fetched again (a chain of its own).
local J, I, T, S, F, P = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local op, id = ARGV[1], ARGV[2]
local call = redis.call
local NONE = '-'

local clock = call('TIME')
local now = clock[1] .. string.format('%03d', math.floor(tonumber(clock[2]) / 1000))

local state, epoch, cap = unpack(call('HMGET', J, 'state', 'epoch', 'cap'))
cap = tonumber(cap or 0)
if state == 'queued' and op ~= 'begin' then state = 'running' end -- queued counts as running; the first begin makes it so

local function number(field) return tonumber(call('HGET', J, field) or 0) end

local function entry(q)
  local value = call('HGET', I, q)
  if not value then return nil end
  local flag, tries, nonce, listed = value:match('^(%a) (%d+) (%S+) (%d+)$')
  return { flag = flag, tries = tonumber(tries), nonce = nonce, listed = listed }
end

local function put(q, e) call('HSET', I, q, e.flag .. ' ' .. e.tries .. ' ' .. e.nonce .. ' ' .. e.listed) end

local function gone(q) call('HDEL', I, q); call('HDEL', T, q); call('HDEL', P, q) end

local function new(token, flag, tries)
  local q = call('HINCRBY', J, 'next', 1) - 1
  put(q, { flag = flag or 'o', tries = tries or 0, nonce = NONE, listed = 0 })
  call('HSET', T, q, cjson.encode({ token }))
  return q
end

local function tokensOf(q) return cjson.decode(call('HGET', T, q)) end

local function isRetry(tokens) return type(tokens[1]) == 'table' end

local function seqs(wanted)
  local all, found = call('HGETALL', I), {}
  for i = 1, #all, 2 do if wanted(all[i + 1]:sub(1, 1)) then found[#found + 1] = all[i] end end
  return found
end

local function opens() return seqs(function(flag) return flag == 'o' end) end

local function todo()
  local few = call('HLEN', I) <= cap
  return seqs(function(flag) return flag == 's' or (state == 'running' and (flag == 'c' or few)) end)
end

local function mine(e, nonce) return state == 'running' and e and e.nonce == nonce end

-- Whether a worker may still have requests of that job in flight, and store what they bring.
local function leased(job)
  local all = call('HGETALL', J:sub(1, #J - #id) .. job .. ':l')
  for i = 2, #all, 2 do
    local ends = all[i]:match('^%d+ %d+ (%d+)$')
    if ends and tonumber(ends) > tonumber(now) then return true end
  end
  return false
end

-- The time for which a job was running, without that between a pause, or an end, and what made it go on.
local function goesOn() call('HSETNX', J, 'runsSince', now) end

local function rests()
  local since = call('HGET', J, 'runsSince')
  if not since then return end
  call('HINCRBY', J, 'ranMs', string.format('%d', math.max(0, tonumber(now) - tonumber(since))))
  call('HDEL', J, 'runsSince')
end

-- The end of every operation that takes an entry out: the final state where none is left, else the frontier's turn.
local function settle()
  local left = call('HLEN', I)
  if left == 0 then
    if state == 'running' then
      state = call('EXISTS', S) == 1 and 'failed'
        or number('filesFailed') > 0 and 'completed_with_failures' or 'completed'
      call('HSET', J, 'state', state, 'finishedAt', now)
      rests()
    end
    if state ~= 'paused' then
      call('SREM', KEYS[7], id)
      local path = call('HGET', J, 'sinkPath')
      local free = state ~= 'cancelled' or not leased(id) -- else pathInUse finds out when it is
      if free and path and call('HGET', KEYS[8], path) == id then call('HDEL', KEYS[8], path) end
    end
    return {}
  end
  return left <= cap and state == 'running' and opens() or {}
end

local function pause(reason)
  state = 'paused'
  call('HSET', J, 'state', state, 'pausedReason', reason)
  rests()
end

-- Brent's cycle detection, one token a step, in constant memory. True: this token was seen before.
local function looped(brent, token)
  brent.length = brent.length + 1
  if token == brent.saved then return true end
  if brent.length == brent.power then brent.saved, brent.power, brent.length = token, brent.power * 2, 0 end
  return false
end

-- The job whose sink path is this one, holds it, or lies in it; and whether that one was cancelled a moment ago.
local function pathInUse(path)
  local all = call('HGETALL', KEYS[8])
  -- Of jobs that were cancelled: nobody else may ever ask for their paths.
  local tooMany = #all / 2 > call('SCARD', KEYS[7]) + 100
  for i = 1, #all, 2 do
    local a, b = all[i] .. '/', path .. '/'
    local overlaps = a:sub(1, #b) == b or b:sub(1, #a) == a
    if overlaps or tooMany then
      local user = all[i + 1]
      local active = call('SISMEMBER', KEYS[7], user) == 1
      local used = active or leased(user)
      if used and overlaps then return user, not active end
      if not used then call('HDEL', KEYS[8], all[i]) end
    end
  end
end

-- Makes the job one of the active ones, unless there are as many as may be, or its path is in use: then says so.
local function activate(most, path)
  if call('SCARD', KEYS[7]) >= tonumber(most) then return { 'full' } end
  local user, leaving = pathInUse(path)
  if user then return { leaving and 'path_leaving' or 'path_in_use', user } end
  call('SADD', KEYS[7], id)
  call('HSET', KEYS[8], path, id)
end

local function begunAnew()
  state = 'running'
  epoch = tostring(call('HINCRBY', J, 'epoch', 1))
  call('HSET', J, 'state', state)
  goesOn()
end

local operations = {}

-- 3 request digest ('' without idempotency key)   4 its life in seconds   5 sink path   6 cap   7 maxFailures
-- 8 first token   9 most active jobs   10… fields and values of the record
function operations.create()
  if ARGV[3] ~= '' then
    local digest, first = unpack(call('HMGET', KEYS[10], 'digest', 'job'))
    -- A key whose job was deleted is free again.
    if digest and call('EXISTS', J:sub(1, #J - #id) .. first) == 1 then
      return { digest == ARGV[3] and 'replayed' or 'other_request', first }
    end
  end
  local refused = activate(ARGV[9], ARGV[5])
  if refused then return refused end
  call('HSET', J, 'state', 'queued', 'epoch', 0, 'next', 0, 'cap', ARGV[6], 'sinkPath', ARGV[5],
    'maxFailures', ARGV[7], 'loopSaved', ARGV[8], 'loopPower', 1, 'loopLength', 0, 'createdAt', now)
  call('HSET', J, unpack(ARGV, 10))
  call('ZADD', KEYS[9], 0, id) -- the ids are ordered by time themselves
  if ARGV[3] ~= '' then
    call('HSET', KEYS[10], 'digest', ARGV[3], 'job', id)
    call('EXPIRE', KEYS[10], ARGV[4])
  end
  return { 'ok', '0', { tostring(new(ARGV[8])) } }
end

-- Pages that were walked together, one of which may kill its workers: all but the first become entries of their own, which
-- were begun as often. Returns those.
local function takeApart(q, e)
  local tokens, parts = tokensOf(q), {}
  for i = 2, #tokens do parts[i - 1] = tostring(new(tokens[i], e.flag, e.tries - 1)) end
  if #tokens > 1 then call('HSET', T, q, cjson.encode({ tokens[1] })) end
  return parts
end

-- 3 seq   4 epoch   5 nonce   6 most tries   7 most tries of pages that are one entry
function operations.begin()
  local q, nonce = ARGV[3], ARGV[5]
  local e = entry(q)
  if not e then return { 'drop' } end
  if e.flag == 's' then return { 'publish', e.nonce } end -- in every state
  if state == 'queued' then
    state = 'running'
    call('HSET', J, 'state', state)
  end
  if state ~= 'running' or epoch ~= ARGV[4] then return { 'drop' } end
  if call('HSETNX', J, 'startedAt', now) == 1 then goesOn() end
  if e.nonce ~= nonce then
    e.nonce, e.tries = nonce, e.tries + 1
    put(q, e)
    call('HDEL', P, q)
  end
  local parts = e.tries > tonumber(ARGV[7]) and takeApart(q, e) or {}
  return { e.tries > tonumber(ARGV[6]) and 'poison' or 'ok', e.flag, e.tries, call('HGET', T, q), parts }
end

-- What a first walk through the listing found. False: it leads in circles, and nothing was stored.
local function handOn(tokens, next)
  local saved, power, length = unpack(call('HMGET', J, 'loopSaved', 'loopPower', 'loopLength'))
  local brent = { saved = saved, power = tonumber(power), length = tonumber(length) }
  for i = 2, #tokens do if looped(brent, tokens[i]) then return false end end
  if next and looped(brent, next) then return false end
  call('HSET', J, 'loopSaved', brent.saved, 'loopPower', brent.power, 'loopLength', brent.length)
  call('HINCRBY', J, 'pagesListed', #tokens)
  if not next then call('HSET', J, 'listingDone', 1) end
  return true
end

-- 3 seq   4 nonce   5 cap   6 names listed   7 tokens walked, as JSON   8 [next token], as JSON; [] at the end
-- 9 how many files all pages name, '' where that is not known now
function operations.advance()
  local q = ARGV[3]
  local e = entry(q)
  if not mine(e, ARGV[4]) or e.flag == 's' then return { 'stop' } end
  if e.flag == 'o' then
    local tokens, next = cjson.decode(ARGV[7]), cjson.decode(ARGV[8])[1]
    if not isRetry(tokens) and not handOn(tokens, next) then return { 'loop' } end
    e.flag = 'c'
    call('HSET', T, q, ARGV[7])
    if ARGV[9] ~= '' then call('HSET', J, 'total', ARGV[9]) end
    if next then new(next) end
  end
  e.listed = ARGV[6]
  put(q, e)
  cap = tonumber(ARGV[5])
  call('HSET', J, 'cap', cap)
  return { 'ok', epoch, call('HLEN', I) <= cap and opens() or {} }
end

-- Adds a page's counts, once.
local function count(q)
  local failedBefore = number('filesFailed')
  for field, delta in pairs(cjson.decode(ARGV[5])) do call('HINCRBY', J, field, delta) end
  local tokens = tokensOf(q)
  if not isRetry(tokens) then call('HINCRBY', J, 'pagesDone', #tokens) end
  for _, failure in ipairs(cjson.decode(ARGV[6])) do call('XDEL', F, failure) end
  for i = 7, #ARGV do
    for failure in ARGV[i]:gmatch('[^\n]+') do call('XADD', F, '*', 'f', failure) end
  end
  return number('filesFailed') > failedBefore
end

local function pauseAtMaxFailures(failuresRose)
  if failuresRose and number('filesFailed') >= number('maxFailures')
    and #seqs(function(flag) return flag ~= 's' end) > 0 then pause('max_failures') end
end

-- 3 seq   4 nonce   5 counts to add, as a JSON object   6 ids of failures that are none any more, as a JSON array
-- 7… failures to keep, many to an argument, a line each
function operations.commit()
  local q = ARGV[3]
  local e = entry(q)
  if not mine(e, ARGV[4]) or e.flag ~= 'c' then return { 'stop' } end
  local failuresRose = count(q)
  gone(q)
  pauseAtMaxFailures(failuresRose)
  local due = settle()
  return { 'ok', epoch, due, state }
end

-- As commit, but the entry stays, until the shard that this attempt finished has its name.
function operations.seal()
  local q = ARGV[3]
  local e = entry(q)
  if e and e.flag == 's' and e.nonce == ARGV[4] then return { 'ok', epoch, {}, state } end
  if not mine(e, ARGV[4]) or e.flag ~= 'c' then return { 'stop' } end
  local failuresRose = count(q)
  e.flag = 's'
  put(q, e)
  call('HDEL', T, q)
  call('HDEL', P, q)
  pauseAtMaxFailures(failuresRose)
  return { 'ok', epoch, {}, state }
end

-- 3 seq   4 nonce of the shard that has its name now. In every state.
function operations.drop()
  local q = ARGV[3]
  local e = entry(q)
  if not e or e.flag ~= 's' or e.nonce ~= ARGV[4] then return { 'stop' } end
  gone(q)
  local due = settle()
  return { 'ok', epoch, due, state }
end

-- 3 seq   4 nonce: the attempt is given up without having lost; it shall not count as a try. In every state.
function operations.release()
  local q = ARGV[3]
  local e = entry(q)
  if e and e.flag ~= 's' and e.nonce == ARGV[4] then
    e.nonce, e.tries = NONE, e.tries - 1
    put(q, e)
    call('HDEL', P, q)
  end
  return { 'ok' }
end

-- 3 seq   4 nonce   5 error, as JSON   6 requests made again
function operations.listFailed()
  local q = ARGV[3]
  local e = entry(q)
  if not mine(e, ARGV[4]) or e.flag == 's' then return { 'stop' } end
  call('HSET', S, q, e.flag .. ' 0 ' .. NONE .. ' ' .. e.listed) -- its tokens stay where they are, for a retry
  call('HDEL', I, q)
  call('HDEL', P, q)
  call('HSETNX', J, 'error', ARGV[5])
  call('HINCRBY', J, 'requestsRetried', ARGV[6])
  return { 'ok', epoch, settle() }
end

-- 3 reason   4 epoch
function operations.pause()
  if state ~= 'running' or epoch ~= ARGV[4] then return { 'conflict', state } end
  pause(ARGV[3])
  return { 'ok' }
end

function operations.resume()
  if state ~= 'paused' then return { 'conflict', state } end
  begunAnew()
  call('HDEL', J, 'pausedReason')
  for _, q in ipairs(seqs(function(flag) return flag ~= 's' end)) do
    local e = entry(q)
    e.nonce, e.tries = NONE, 0
    put(q, e)
    call('HDEL', P, q)
  end
  settle()
  return { 'ok', epoch, todo() }
end

-- Shards that are sealed still get their names; all else is dropped.
function operations.cancel()
  if state ~= 'running' and state ~= 'paused' then return { 'conflict', state } end
  for _, q in ipairs(seqs(function(flag) return flag ~= 's' end)) do gone(q) end
  for _, q in ipairs(call('HKEYS', S)) do call('HDEL', T, q) end
  call('DEL', S, P)
  state = 'cancelled'
  call('HSET', J, 'state', state, 'finishedAt', now)
  call('HDEL', J, 'pausedReason')
  rests()
  settle()
  return { 'ok' }
end

-- 3 most active jobs   4 which failures, as a JSON object
function operations.retry()
  if state ~= 'failed' and state ~= 'completed_with_failures' then return { 'conflict', state } end
  local refused = activate(ARGV[3], call('HGET', J, 'sinkPath'))
  if refused then return refused end
  begunAnew()
  call('HDEL', J, 'error', 'finishedAt')
  for _, q in ipairs(call('HKEYS', S)) do
    if isRetry(tokensOf(q)) then call('HDEL', S, q); call('HDEL', T, q) end -- the new range holds what it held
  end
  if call('EXISTS', S) == 1 then call('RENAME', S, I) end
  local last = call('XREVRANGE', F, '+', '-', 'COUNT', 1)[1]
  if last then
    local range = cjson.decode(ARGV[4])
    range.after, range.upTo = '0-0', last[1]
    new(range)
  end
  settle()
  return { 'ok', epoch, todo() }
end

-- 3 version of the record that was changed   4… fields and values. Only a job that runs, or may again, can be changed.
function operations.patch()
  if state == 'completed' or state == 'cancelled' then return { 'conflict', state } end
  if (call('HGET', J, 'version') or '0') ~= ARGV[3] then return { 'changed' } end
  call('HINCRBY', J, 'version', 1)
  call('HSET', J, unpack(ARGV, 4))
  return { 'ok' }
end

function operations.todo() return { 'ok', epoch, todo() } end

-- 3 id of a folder   4 how people find it: the job's files go there, unless another one was said before.
function operations.claim()
  if call('HSETNX', J, 'dataId', ARGV[3]) == 1 then call('HSET', J, 'dataDir', ARGV[4]) end
  return { 'ok', unpack(call('HMGET', J, 'dataId', 'dataDir')) }
end

-- A finished job's record goes.   3 its leases: they stay while there are any   4… further keys to remove
function operations.delete()
  if call('SISMEMBER', KEYS[7], id) == 1 then return { 'conflict', state } end
  if leased(id) then call('EXPIRE', ARGV[3], 60) else call('DEL', ARGV[3]) end
  call('DEL', J, I, T, S, F, P, unpack(ARGV, 4))
  call('ZREM', KEYS[9], id)
  return { 'ok' }
end

if not state and op ~= 'create' then return { 'unknown' } end -- no such job: nothing may create a key for it
return operations[op]()
