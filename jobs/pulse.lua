-- What a worker tells and asks Redis about one job, at most a few times a second: live counts for display, and its share
-- of the budgets that hold over all workers. Nothing here is truth: the chain never reads what is written here.
--
-- KEYS  1 job hash   2 in-flight hash   3 live counts hash   4 leases hash   5 rate hash (by second: files, bytes, looks, of which idle)
--       6 what workers told of origins
-- ARGV  1 worker   2 requests wanted in flight   3 requests in flight   4 concurrency   5 lease in ms
--       6 request starts wanted   7 how many a second (0: no limit)   8 files finished since   9 bytes since
--       10 what is told of origins: JSON object, origin -> { holdMs: it asked to be left alone for so long, troubleMs: it has
--       been in trouble for so long (0: it is well), throttled: JSON object, path -> ms that it alone has been in trouble,
--       goodFile: the path of a file that was fetched }
--       11 how often was looked whether it could make more requests than its pages have, and how often it could: "looks idle"
--       12 the epoch that what it knows of origins is of   13 places of the concurrency that it leaves to the request for the
--       next page, as long as there is one to be listed   14… triples: seq, nonce, live counts ('' where they did not change)
-- Returns  state, epoch, requests granted in flight, ms until the first granted start, granted starts,
--          what workers told of origins, as in 10, without files, version of the record,
--          requests in flight that it is entitled to as soon as others give them back, lost seqs…
local J, I, P, L, R, O = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call = redis.call
local clock = call('TIME')
local second = tonumber(clock[1])
local now = second * 1000 + tonumber(clock[2]) / 1000
local state, epoch, version, listingDone, cap = unpack(call('HMGET', J, 'state', 'epoch', 'version', 'listingDone', 'cap'))
if not state then
  if ARGV[2] == '0' and ARGV[3] == '0' then call('HDEL', L, ARGV[1]) end
  return { 'gone', '0', 0, '0', 0, '{}', '0', 0 }
end

-- Concurrency: leases. What is held over all workers never exceeds the limit, because a worker is granted only what
-- the others do not hold, and holds what it has in flight until that has ended. Each is entitled to an even share
-- (the largest equal one that leaves nothing unused); who has more gives back as its requests end, and is called to do so
-- by a message on a channel of the leases' name, of the largest share.
-- Few workers are looked through each time; of many the sum and the largest share are kept, and found anew a few times a second.
-- What is kept: 'all' = "held over all, largest share, until when".
local FEW, KEPT_MS = 32, 250
local function lease()
  local me, want, inFlight, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  -- Where pages enough are in flight, the next is not listed.
  if listingDone ~= '1' and call('HLEN', I) <= tonumber(cap) then limit = limit - tonumber(ARGV[13]) end
  local mine = tonumber((call('HGET', L, me) or '0'):match('^%d+'))
  local kept, largest, ends = (call('HGET', L, 'all') or ''):match('^(%d+) (%d+) (%d+) %d+$')
  local others, share
  local isKept = kept and now < tonumber(ends) and call('HLEN', L) > FEW
  if isKept then
    others, share = tonumber(kept) - mine, math.min(want, tonumber(largest))
  else
    local all, wants = call('HGETALL', L), {}
    others, share, ends = 0, 0, now + KEPT_MS
    for i = 1, #all, 2 do
      local held, wanted, untilMs = all[i + 1]:match('^(%d+) (%d+) (%d+)$') -- not 'all' and 'nextStart'
      if held and all[i] ~= me then
        if tonumber(untilMs) <= now then call('HDEL', L, all[i]) else
          others = others + tonumber(held)
          if held == '1' and wanted == '1' then limit = tonumber(ARGV[4]) end -- it has the place of the listing
          if tonumber(wanted) > 0 then wants[#wants + 1] = { all[i], tonumber(wanted) } end
        end
      end
    end
    if want > 0 then wants[#wants + 1] = { me, want } end
    table.sort(wants, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
    local left = limit
    largest = limit
    for i, w in ipairs(wants) do
      largest = math.ceil(left / (#wants - i + 1))
      local even = math.min(w[2], largest)
      if w[1] == me then share = even end
      left = left - even
    end
  end
  local granted = math.max(0, math.min(share, limit - others))
  local holds = math.max(granted, inFlight)
  if want == 0 and inFlight == 0 then call('HDEL', L, me); granted, holds = 0, 0 else
    call('HSET', L, me, string.format('%d %d %d', holds, want, now + tonumber(ARGV[5])))
  end
  call('HSET', L, 'all', string.format('%d %d %d 0', others + holds, largest, ends))
  -- Many would hear of it too often; and where this user of Redis may not, shares are found a little later.
  if granted < share and not isKept then redis.pcall('PUBLISH', L, largest) end
  return granted, share
end

-- Rate: the starts of requests are slots on one time line, 1/rate apart, handed out in order, whoever makes them. A slot
-- that is not used in time is lost. With another rate a new time line begins.
local function starts()
  local want, rate = tonumber(ARGV[6]), tonumber(ARGV[7])
  if rate == 0 or want == 0 then return '0', 0 end
  local at, before = (call('HGET', L, 'nextStart') or ''):match('^(%S+) (%S+)$')
  local first = before == ARGV[7] and math.max(now, tonumber(at)) or now
  if first - now > 1000 then return '0', 0 end -- handed out far enough ahead
  call('HSET', L, 'nextStart', string.format('%.3f %s', first + want * 1000 / rate, ARGV[7]))
  return string.format('%.3f', first - now), want
end

-- Retry-After holds an origin for all workers; and for how long an origin, or one URL, has been in trouble is known to a worker
-- that a page comes to from another one. What nobody spoke of for so long may have ended; each epoch is another chance.
local REMEMBERED = 120000
local function toldSince(value)
  local since, said = (value or ''):match('^(%d+) (%d+)$')
  return since and now - tonumber(said) <= REMEMBERED and tonumber(since) or nil
end
local function tell(field, ms)
  call('HSET', O, field, string.format('%d %d', math.min(toldSince(call('HGET', O, field)) or now, now - ms), now))
end
local function origins()
  for origin, told in pairs(cjson.decode(ARGV[10])) do
    local hold, trouble = 'hold ' .. origin, 'trouble ' .. epoch .. ' ' .. origin
    if told.goodFile then call('HSETNX', J, 'good ' .. origin, told.goodFile) end
    if told.holdMs and now + told.holdMs > tonumber(call('HGET', O, hold) or 0) then
      call('HSET', O, hold, string.format('%d', now + told.holdMs))
    end
    if ARGV[12] == epoch then
      if told.troubleMs == 0 then call('HDEL', O, trouble) elseif told.troubleMs then tell(trouble, told.troubleMs) end
      for path, ms in pairs(told.throttled or {}) do tell('url ' .. epoch .. ' ' .. origin .. ' ' .. path, ms) end
    end
  end
  local known, longest = {}, REMEMBERED
  local function of(origin)
    known[origin] = known[origin] or {}
    return known[origin]
  end
  local all = call('HGETALL', O)
  for i = 1, #all, 2 do
    local field = all[i]
    local held = field:match('^hold (.+)$')
    if held then
      local ms = math.ceil(tonumber(all[i + 1]) - now)
      if ms > 0 then of(held).holdMs = ms; longest = math.max(longest, ms) else call('HDEL', O, field) end
    else
      local kind, at, origin, path = field:match('^(%a+) (%d+) (%S+) ?(.*)$')
      local since = at == epoch and toldSince(all[i + 1])
      local ms = since and math.max(1, math.floor(now - since))
      if not since then call('HDEL', O, field)
      elseif kind == 'trouble' then of(origin).troubleMs = ms
      else
        of(origin).throttled = of(origin).throttled or {}
        of(origin).throttled[path] = ms
      end
    end
  end
  if #all > 0 then call('PEXPIRE', O, longest) end
  return next(known) and cjson.encode(known) or '{}'
end

local granted, share = lease()
local delay, count = starts()
call('PEXPIRE', L, 60000) -- what is in it is of no use when nobody has said anything for so long

local looks, idle = ARGV[11]:match('^(%d+) (%d+)$')
if ARGV[8] ~= '0' or looks ~= '0' then
  local isFirst = call('HEXISTS', R, second) == 0
  call('HINCRBY', R, second, ARGV[8])
  call('HINCRBY', R, 'b' .. second, ARGV[9])
  if looks ~= '0' then
    call('HINCRBY', R, 'l' .. second, looks)
    call('HINCRBY', R, 'i' .. second, idle)
  end
  if isFirst then call('EXPIRE', R, 60) end
  for _, field in ipairs(isFirst and call('HKEYS', R) or {}) do
    if tonumber((field:gsub('%a', ''))) < second - 7 then call('HDEL', R, field) end
  end
end

local answer = { state, epoch, granted, delay, count, origins(), version or '0', share }
for i = 14, #ARGV, 3 do
  local value = call('HGET', I, ARGV[i])
  local nonce = value and value:match('^%a %d+ (%S+) ')
  if nonce ~= ARGV[i + 1] then answer[#answer + 1] = ARGV[i]
  elseif ARGV[i + 2] ~= '' and value:sub(1, 1) ~= 's' then call('HSET', P, ARGV[i], nonce .. ' ' .. ARGV[i + 2]) end
end
return answer
