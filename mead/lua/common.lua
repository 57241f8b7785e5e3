-- Goes before each of the other scripts, after the names of keys (see mead/scripts.py).

-- Seconds since 1970 of a time in UTC (days from the civil date after Howard Hinnant's days_from_civil).
local function seconds(iso)
    local y, m, d, h, min, s = string.match(iso, '(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)')
    if m <= '02' then y = y - 1 end
    local era = math.floor(y / 400)
    local year = y - era * 400
    local day = math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1
    local days = era * 146097 + year * 365 + math.floor(year / 4) - math.floor(year / 100) + day - 719468
    return ((days * 24 + h) * 60 + min) * 60 + s
end

local function count(kind, what, by)
    redis.call('HINCRBY', STATISTICS, kind .. ':' .. what, by or 1)
end

local function observe(kind, what, from, to)
    local took = math.max(0, seconds(to) - seconds(from))
    local bucket = 'inf'
    for _, bound in ipairs(BUCKETS) do
        if took <= bound then bucket = bound break end
    end
    count(kind, what .. ':' .. bucket)
    redis.call('HINCRBYFLOAT', STATISTICS, kind .. ':' .. what .. ':sum', string.format('%.3f', took))
end

-- Changes fields of a record and tells.
local function change(id, fields)
    local flat = {}
    for name, value in pairs(fields) do
        flat[#flat + 1] = name
        flat[#flat + 1] = tostring(value)
    end
    redis.call('HSET', JOB .. id, unpack(flat))
    fields.seq = redis.call('HINCRBY', JOB .. id, 'seq', 1)
    redis.call('PUBLISH', EVENTS .. id, cjson.encode(fields))
end

local function holds(worker, id)
    local held = redis.call('HMGET', JOB .. id, 'status', 'worker')
    return held[1] == 'processing' and held[2] == worker
end

-- Ends a job; `fields` hold its status and finished_at.
local function finish(id, fields, ttl)
    local job = redis.call('HMGET', JOB .. id,
        'status', 'type', 'started_at', 'owner', 'client', 'idempotency_key')
    count(job[2], fields.status)
    if job[1] == 'processing' then observe(job[2], 'run', job[3], fields.finished_at) end
    change(id, fields)
    redis.call('EXPIRE', JOB .. id, ttl)
    if job[6] then redis.call('EXPIRE', IDEMPOTENCY .. job[4] .. ':' .. job[6], ttl) end
    redis.call('SREM', UNFINISHED .. job[5], id)
end

-- Puts a job at the front of its queue.
local function put_back(id, queue, attempts)
    local served = tonumber(redis.call('GET', queue .. SERVED) or 0)
    redis.call('SET', queue .. SERVED, served - 1)
    redis.call('HDEL', JOB .. id, 'worker', 'started_at', 'loss')
    change(id, {status = 'queued', ticket = served, steps = 0, attempts = attempts})
    redis.call('LPUSH', queue, id)
end
