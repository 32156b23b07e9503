"""The Lua scripts of the key-value store, each one atomic step.

All keys of a namespace are under one hash tag: an ordered set of its names at score 0, an ordered set of the names
that expire by expiration, and for each name a hash with the value (``v``), the expiration (``e``, empty when there is
none) and, if there is any, the metadata (``m``).
"""

from __future__ import annotations

from .connection import Script

GET = Script("""
if redis.call('HSTRLEN', KEYS[1], 'v') > tonumber(ARGV[1]) then
  return redis.call('HSTRLEN', KEYS[1], 'v')
end
return redis.call('HMGET', KEYS[1], 'v', 'e', 'm')
""")
"""KEYS: entry. ARGV: longest value. The value, expiration and metadata, or the length of a longer value."""

# HSET comes first: if memory or disk refuse the write, nothing was changed.
_WRITE = """
local function write(entry, names, expirations, name, value, expiration, metadata, life_ms, now)
  redis.call('HSET', entry, 'v', value, 'e', expiration)
  if metadata == '' then
    redis.call('HDEL', entry, 'm')
  else
    redis.call('HSET', entry, 'm', string.sub(metadata, 2))
  end
  if life_ms == '' then
    redis.call('PERSIST', entry)
  else
    redis.call('PEXPIRE', entry, life_ms)
  end
  redis.call('ZADD', names, 0, name)
  if expiration == '' then
    redis.call('ZREM', expirations, name)
  else
    redis.call('ZADD', expirations, expiration, name)
  end
  return redis.call('ZCOUNT', expirations, '-inf', now)
end
"""

PUT = Script(
    _WRITE
    + """
return write(KEYS[1], KEYS[2], KEYS[3], unpack(ARGV))
"""
)
"""KEYS: entry, names, expirations. ARGV: name, value, expiration, '+' and metadata, life in ms, now.

The number of names that have expired.
"""

COMPARE_AND_PUT = Script(
    _WRITE
    + """
local seen = table.remove(ARGV)
local held = redis.call('HMGET', KEYS[1], 'v', 'e')
local live = held[1] and (held[2] == '' or tonumber(held[2]) > tonumber(ARGV[6]))
if (live and '=' .. held[1] or '') ~= seen then
  return -1
end
return write(KEYS[1], KEYS[2], KEYS[3], unpack(ARGV))
"""
)
"""As PUT, with one more argument: '=' and the value that was seen, or ''. -1 if that is not the live value."""

DELETE = Script("""
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
""")
"""KEYS: entry, names, expirations. ARGV: name."""

LIST = Script("""
local now, wanted, left = tonumber(ARGV[5]), tonumber(ARGV[4]), tonumber(ARGV[6])
local from, rows, lost, cursor = ARGV[2], {}, {}, false
while not cursor do
  local chunk = math.min(left, math.max(100, wanted - #rows / 3 + 1))
  local names = redis.call('ZRANGE', KEYS[1], from, ARGV[3], 'BYLEX', 'LIMIT', 0, chunk)
  for _, name in ipairs(names) do
    local entry = redis.call('HMGET', ARGV[1] .. name, 'e', 'm')
    if not entry[1] then
      lost[#lost + 1] = name
    elseif entry[1] == '' or tonumber(entry[1]) > now then
      if #rows == wanted * 3 then
        cursor = rows[#rows - 2]
        break
      end
      rows[#rows + 1] = name
      rows[#rows + 1] = entry[1]
      rows[#rows + 1] = entry[2]
    end
  end
  if #names < chunk then
    break
  end
  from = '(' .. names[#names]
  left = left - chunk
  if left == 0 and not cursor then
    cursor = names[#names]
  end
end
return {redis.call('ZCOUNT', KEYS[2], '-inf', ARGV[5]), cursor, rows, lost}
""")
"""KEYS: names, expirations. ARGV: start of the entries' keys, from, to, limit, now, how many names to look at.

The number of names that have expired, the name after which the next page begins or nil, the rows, each a name, its
expiration and its metadata, and the names that have no entry.
"""

FORGET = Script("""
for i, name in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[i + 2]) == 0 then
    redis.call('ZREM', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
  end
end
""")
"""KEYS: names, expirations, entries. ARGV: the names of these entries, which are forgotten if they have none."""

SWEEP = Script("""
local names = redis.call('ZRANGE', KEYS[2], '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
if #names > 0 then
  local entries = {}
  for i, name in ipairs(names) do
    entries[i] = ARGV[1] .. name
  end
  redis.call('UNLINK', unpack(entries))
  redis.call('ZREM', KEYS[1], unpack(names))
  redis.call('ZREM', KEYS[2], unpack(names))
end
return #names
""")
"""KEYS: names, expirations. ARGV: start of the entries' keys, now, how many at most. How many have been removed."""
