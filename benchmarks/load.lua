-- For wrk: asks for random items of the workload file that benchmarks/load.py writes, or for one after the
-- other from the given place on, and prints what was measured as one line of JSON.

local patterns = {}
local place = nil

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local text = file:read("*a")
  file:close()
  for first, last, before, after in text:gmatch("(%d+)\31(%d+)\31([^\31]*)\31([^\30]*)\30") do
    patterns[#patterns + 1] = {tonumber(first), tonumber(last), before, after}
  end
  place = tonumber(args[2])
  math.randomseed(os.time())
end

local function in_order()
  local one = patterns[place % #patterns + 1]
  local turn = math.floor(place / #patterns)
  place = place + 1
  if one[1] > one[2] then
    return one[3]
  end
  return one[3] .. (one[1] + turn % (one[2] - one[1] + 1)) .. one[4]
end

function request()
  if place then
    return in_order()
  end
  local one = patterns[math.random(#patterns)]
  if one[1] > one[2] then
    return one[3]
  end
  return one[3] .. math.random(one[1], one[2]) .. one[4]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "slowest": %d, ' ..
    '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
