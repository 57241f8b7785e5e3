"""Loading the Lua scripts in mead/queue/lua.

Each script is one atomic change of state, and publishes its events at the end. It checks the record first,
so running it again (after a dropped connection) changes nothing.

Callers name the keys that they know. Scripts derive other names from records; in a Redis Cluster the hash
tag of REDIS_PREFIX keeps all of them in one slot. The first key is always `workers`, which tells scripts the
prefix.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from mead.queue import keys
from mead.queue.keys import WORKERS_KEY
from mead.queue.redis_errors import NotReplicatedError
from mead.queue.statistics import BUCKETS

_FOLDER = Path(__file__).parent / "lua"

_NAMES = f"""
local PREFIX = string.sub(KEYS[1], 1, -{len(keys.WORKERS_KEY) + 1})
local JOB, EVENTS = PREFIX .. '{keys.job_key("")}', PREFIX .. '{keys.events_key("")}'
local PREVIEW, WORKER = PREFIX .. '{keys.preview_key("")}', PREFIX .. '{keys.worker_key("")}'
local IDEMPOTENCY = PREFIX .. '{keys.idempotency_key("", "")[:-1]}'
local UNFINISHED = PREFIX .. '{keys.unfinished_key("")}'
local WORKERS, STATISTICS = KEYS[1], PREFIX .. '{keys.STATISTICS_KEY}'
local BUCKETS = {{ {", ".join(map(str, BUCKETS))} }}
local PROCESSING, TICKETS = '{keys.processing_key("", "")}', '{keys.tickets_key("")}'
local SERVED, CANCELLED = '{keys.served_key("")}', '{keys.cancelled_key("")}'
local ORDER, TURNS = '{keys.order_key("")}', '{keys.turns_key("")}'
local KEPT, BYTES = PREFIX .. '{keys.KEPT_KEY}', '{keys.kept_bytes_key("")}'
local LATENTS = '{keys.kept_latents_key("")}'
local KEPT_JOBS = PREFIX .. '{keys.kept_jobs_key("")}'
local KEEPS = PREFIX .. '{keys.keeps_key("")}'
local WEBHOOKS, WEBHOOK_COUNTS = PREFIX .. '{keys.WEBHOOKS_KEY}', PREFIX .. '{keys.WEBHOOK_COUNTS_KEY}'
"""


class Script:
    """Runs a script by its hash (EVALSHA), and sends the text (EVAL) if Redis does not have it.

    redis-py's own class sends the text in a separate command first (SCRIPT LOAD). After a failover in
    between, the script would run on a server that does not have it.

    Args:
        replicas: how many must confirm what the script has changed (WAIT).
        wait: seconds that they may take.
    """

    def __init__(self, client: redis.Redis, text: str, replicas: int = 0, wait: float = 0.0) -> None:
        self.client = client
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()
        self.replicas = replicas
        self.wait = wait

    def __call__(self, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        """Run the script; returns its result.

        Args:
            keys: that it touches, as far as they are known.

        Raises:
            NotReplicatedError: too few replicas have confirmed what it has changed.
        """
        named = [WORKERS_KEY, *keys]
        try:
            return self._run("EVALSHA", self.sha, len(named), *named, *arguments)
        except redis.exceptions.NoScriptError:
            return self._run("EVAL", self.text, len(named), *named, *arguments)

    def _run(self, *command: Any) -> Any:
        if not self.replicas:
            return self.client.execute_command(*command)
        with self.client.pipeline(transaction=False) as pipe:  # WAIT counts for its own connection
            pipe.execute_command(*command)
            pipe.wait(self.replicas, int(1000 * self.wait))
            answer, confirmed = pipe.execute()
        if confirmed < self.replicas:
            raise NotReplicatedError
        return answer


class TimelyScript:
    """Runs a script that changes nothing once its caller has given up.

    A Redis that stalls (stopped, swapping, a slow disk) keeps what was sent in its sockets' buffers and runs
    it when it wakes. The script's first argument is therefore a deadline, which it compares with TIME. The
    deadline is SECONDS after a time that Redis itself has told just before: clocks of other machines do not
    matter. Until then the call is repeated; an error that does not come from Redis is only raised later.
    """

    SECONDS = (
        7.0  # longer than one answer may take (mead.http.services.REDIS_TIMEOUT), so that one repeat fits
    )

    def __init__(self, script: Script) -> None:
        self.script = script

    def __call__(self, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        """Run the script; returns its result.

        Raises:
            redis.ResponseError: it changed nothing; the message begins with "LATE" if it came too late.
            redis.RedisError: Redis did not answer. From now on the script changes nothing, but if Redis died
                as it answered, it may have run before.
        """
        seconds, microseconds = self.script.client.time()
        end = time.monotonic() + self.SECONDS
        deadline = seconds * 1000 + microseconds // 1000 + int(self.SECONDS * 1000)
        while True:
            try:
                return self.script(deadline, *arguments, keys=keys)
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() >= end:
                    raise
                time.sleep(0.1)


def load_script(client: redis.Redis, name: str, replicas: int = 0, wait: float = 0.0) -> Script:
    """The script mead/queue/lua/NAME.lua, with what all scripts share; see `Script`."""
    common, places, script = (
        (_FOLDER / f"{part}.lua").read_text("utf-8") for part in ("common", "places", name)
    )
    run = f"local function run()\n{script}end\nlocal answer = run()\npublish()\nreturn answer\n"
    return Script(client, _NAMES + common + places + run, replicas, wait)
