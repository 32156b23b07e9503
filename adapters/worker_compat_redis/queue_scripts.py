"""The Lua scripts of the queue, each one atomic step.

All keys of a queue are under one hash tag. Messages are the entries of a stream (``b`` the body, ``t`` when it was
pushed) with one consumer group; what has been delivered is pending in the group, and is also either in the ordered set
``leases`` by the end of its lease or in ``returned`` by when it is due again. Messages that were pushed with a delay
wait in ``later`` by when they are due: a token of 32 characters, the time of the push, a space, the body. ``ages``
holds every message, by id or token, by when it was pushed; ``holders`` says who has leased a message last.
"""

from __future__ import annotations

from .connection import Script

PUSH = Script("""
for i = 3, #ARGV, 2 do
  if ARGV[2] == '' then
    local id = redis.call('XADD', KEYS[1], '*', 't', ARGV[1], 'b', ARGV[i + 1])
    redis.call('ZADD', KEYS[5], ARGV[1], id)
  else
    redis.call('ZADD', KEYS[4], ARGV[2], ARGV[i] .. ARGV[1] .. ' ' .. ARGV[i + 1])
    redis.call('ZADD', KEYS[5], ARGV[1], ARGV[i])
  end
end
""")
"""KEYS as in CLAIM. ARGV: now, when due or '', then a token and a body for each message."""

CLAIM = Script("""
local stream, leases, returned, later, ages, holders = unpack(KEYS)
local group, now, limit, lease_end, most = 'workers', ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local claimed, bytes = {}, 0

local function add(entry, attempts)
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  redis.call('ZADD', leases, lease_end, entry[1])
  redis.call('HSET', holders, entry[1], ARGV[5])
  claimed[#claimed + 1] = {entry[1], fields.b, fields.t, attempts}
  bytes = bytes + #fields.b
end

local function again(set)
  for _, id in ipairs(redis.call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit - #claimed)) do
    if bytes >= most then
      return
    end
    redis.call('ZREM', set, id)
    local entry = redis.call('XCLAIM', stream, group, 'worker', 0, id)[1]
    if entry then
      add(entry, redis.call('XPENDING', stream, group, id, id, 1)[1][4])
    else
      redis.call('ZREM', ages, id)
      redis.call('HDEL', holders, id)
    end
  end
end

if redis.call('EXISTS', ages) == 0 then
  return claimed
end
if redis.call('EXISTS', stream) == 0 or #redis.call('XINFO', 'GROUPS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
end
again(leases)
again(returned)
for _, message in ipairs(redis.call('ZRANGE', later, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit - #claimed)) do
  local space = string.find(message, ' ', 33, true)
  local pushed = string.sub(message, 33, space - 1)
  local id = redis.call('XADD', stream, '*', 't', pushed, 'b', string.sub(message, space + 1))
  redis.call('ZREM', later, message)
  redis.call('ZREM', ages, string.sub(message, 1, 32))
  redis.call('ZADD', ages, pushed, id)
end
while #claimed < limit and bytes < most do
  local read = redis.call('XREADGROUP', 'GROUP', group, 'worker', 'COUNT', 1, 'STREAMS', stream, '>')
  if not read then
    break
  end
  add(read[1][2][1], 1)
end
return claimed
""")
"""KEYS: stream, leases, returned, later, ages, holders. ARGV: now, limit, end of the leases, how many bytes are enough,
who claims.

For each message its id, body, time of the push, and attempts.
"""

ACK = Script("""
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[5], id) == 1 then
    redis.call('XACK', KEYS[1], 'workers', id)
    redis.call('XDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    redis.call('HDEL', KEYS[6], id)
  end
end
""")
"""KEYS as in CLAIM. ARGV: ids."""

RELEASE = Script("""
for i = 4, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if ends and tonumber(ends) > tonumber(ARGV[1]) and redis.call('HGET', KEYS[6], ARGV[i]) == ARGV[3] then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZADD', KEYS[3], ARGV[2], ARGV[i])
  end
end
""")
"""KEYS as in CLAIM. ARGV: now, when due, who releases, ids. What somebody else has leased since is left alone."""

DEPTH = Script("""
local now = tonumber(ARGV[1])
local messages = redis.call('ZCARD', KEYS[5])
local leased = redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[1], '+inf')
local from = 0
while from < messages do
  local oldest = redis.call('ZRANGE', KEYS[5], from, from + 99, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    local ends = redis.call('ZSCORE', KEYS[2], oldest[i])
    if not ends or tonumber(ends) <= now then
      return {messages - leased, leased, oldest[i + 1]}
    end
  end
  from = from + 100
end
return {messages - leased, leased, false}
""")
"""KEYS as in CLAIM. ARGV: now. How many wait, how many are leased, and when the oldest waiting one was pushed."""
