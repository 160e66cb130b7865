-- Webhooks, each sent once: arguments are the folder of the templates, the first place in the order, seconds, secret.
-- After its time it sends nothing more, so that every webhook that was sent is answered before wrk ends.
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long sec; long nsec; } moment;
int clock_gettime(int clock, moment *now);
]]

local EVENTS, BLOCK, REPORTS = 4, 256, 16
local moment = ffi.new("moment")
local threads = {}

local function now()
  ffi.C.clock_gettime(0, moment)
  return tonumber(moment.sec) + tonumber(moment.nsec) * 1e-9
end

local function template(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  local parts, from = {}, 1
  while true do
    local first, last = text:find("@CALL-ID@", from, true)
    parts[#parts + 1] = text:sub(from, (first or 0) - 1)
    if not first then return parts end
    from = last + 1
  end
end

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(arguments)
  place, seconds = tonumber(arguments[2]), tonumber(arguments[3])
  sent, began, ended = 0, 0, 0
  templates = {}
  for index = 0, EVENTS - 2 + REPORTS do
    templates[index] = template(arguments[1] .. "/" .. index .. ".json")
  end
  head = "POST /api/calls/webhook/ HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. (wrk.port or 80)
    .. "\r\nContent-Type: application/json\r\nx-vapi-secret: " .. arguments[4] .. "\r\nContent-Length: "
end

function request()
  -- wrk asks for one request before it begins, to look at it; that one is never sent.
  if not looked_at then
    looked_at = true
    return "GET / HTTP/1.1\r\n\r\n"
  end
  if began == 0 then began = now() end
  local block, inside = math.floor(place / (BLOCK * EVENTS)), place % (BLOCK * EVENTS)
  local event, call = math.floor(inside / BLOCK), block * BLOCK + inside % BLOCK
  place, sent = place + 1, sent + 1
  local index = event < EVENTS - 1 and event or EVENTS - 1 + call % REPORTS
  local body = table.concat(templates[index], string.format("00000000-0000-7000-8000-%012d", call))
  return head .. #body .. "\r\n\r\n" .. body
end

function delay()
  if began > 0 and now() - began >= seconds then return 1000000 end
  return 0
end

function done(summary, latency)
  local thread = threads[1]
  io.write(string.format(
    '\nJSON {"sent": %d, "began": %.6f, "answered": %d, "connect": %d, "read": %d, "write": %d, "status": %d,'
      .. ' "timeout": %d, "p50": %.3f, "p90": %.3f, "p99": %.3f, "max": %.3f}\n',
    thread:get("sent"), thread:get("began"), summary.requests, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.status, summary.errors.timeout, latency:percentile(50) / 1000,
    latency:percentile(90) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
