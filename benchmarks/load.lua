-- For wrk: asks for random items of the workload file that benchmarks/load.py writes, and prints what was
-- measured as one line of JSON.

local patterns = {}

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local text = file:read("*a")
  file:close()
  for first, last, before, after in text:gmatch("(%d+)\31(%d+)\31([^\31]*)\31([^\30]*)\30") do
    patterns[#patterns + 1] = {tonumber(first), tonumber(last), before, after}
  end
  math.randomseed(os.time())
end

function request()
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
