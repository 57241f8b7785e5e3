-- Deletes a worker's heartbeat, and its name unless it still holds jobs.
-- ARGV: worker, then queues.
redis.call('DEL', WORKER .. ARGV[1])
for n = 2, #ARGV do
    if redis.call('EXISTS', ARGV[n] .. PROCESSING .. ARGV[1]) == 1 then return 0 end
end
return redis.call('SREM', WORKERS, ARGV[1])
