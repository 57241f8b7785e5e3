"""The Lua scripts in mead/lua, each of which is one change of state: nobody ever sees half of it.

What a script has to publish, it publishes at its end, when the whole change is made.

A script looks at the record first, so that sending it twice (after a dropped connection) does nothing the
second time. Scripts name further keys from what the records say, which one Redis server allows (a Redis
Cluster does not).
"""

from __future__ import annotations

from pathlib import Path

import redis
from redis.commands.core import Script

from mead import keys
from mead.statistics import BUCKETS

_FOLDER = Path(__file__).parent / "lua"

_NAMES = f"""
local JOB, EVENTS, PREVIEW = '{keys.job_key("")}', '{keys.events_key("")}', '{keys.preview_key("")}'
local WORKER = '{keys.worker_key("")}'
local IDEMPOTENCY, UNFINISHED = '{keys.idempotency_key("", "")[:-1]}', '{keys.unfinished_key("")}'
local WORKERS, STATISTICS = '{keys.WORKERS_KEY}', '{keys.STATISTICS_KEY}'
local BUCKETS = {{ {", ".join(map(str, BUCKETS))} }}
local PROCESSING, TICKETS = '{keys.processing_key("", "")}', '{keys.tickets_key("")}'
local SERVED, CANCELLED = '{keys.served_key("")}', '{keys.cancelled_key("")}'
local KEPT, BYTES = '{keys.KEPT_KEY}', '{keys.kept_bytes_key("")}'
"""


def load_script(client: redis.Redis, name: str) -> Script:
    """The script mead/lua/NAME.lua, to be called with ([], its arguments)."""
    common, script = ((_FOLDER / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    run = f"local function run()\n{script}end\nlocal answer = run()\npublish()\nreturn answer\n"
    return client.register_script(_NAMES + common + run)
