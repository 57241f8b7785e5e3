"""Takes jobs from Redis, runs them in shared batches and writes their results: `python inference_server.py`.

SIGTERM or Ctrl-C ends the current step, puts the jobs back at the front of their queues and leaves.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import torch

from caching_config import Settings, connect
from LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.engine import Engine
from mead.jobs import Jobs
from mead.params import JobParams
from mead.precision import best_device
from mead.revision import Pipeline
from mead.storage import Storage
from mead.worker import Worker, new_name
from StyleCLIP import StyleCLIP
from StyleCLIP.params import StyleCLIPParams


def make_worker(settings: Settings) -> Worker:
    """A worker with both models loaded."""
    name = new_name()
    jobs, storage = Jobs(connect(settings), settings.job_ttl), Storage(settings.data_dir)

    def engine(pipeline: Pipeline[Any], params: type[JobParams], queue: str, capacity: int) -> Engine[Any]:
        return Engine(pipeline, params, jobs, queue, name, capacity, storage, settings.server_sleep)

    device = settings.device or best_device()
    latent_revisions = LatentRevisions.load_pipeline(settings.weights, device)
    style_clip = StyleCLIP.load_pipeline(settings.weights, device)
    engines = [
        engine(
            latent_revisions,
            LatentRevisionsParams,
            settings.latentrevisions_queue,
            settings.latentrevisions_threads,
        ),
        engine(style_clip, StyleCLIPParams, settings.styleclip_queue, settings.styleclip_threads),
    ]
    return Worker(name, engines, jobs, storage, settings.worker_ttl)


def main() -> None:
    """Read the settings, load the networks, work until told to stop."""
    settings = Settings()
    level = logging.DEBUG if settings.debug else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker = make_worker(settings)
    print(f"inference server ready: worker {worker.name}, weights {settings.weights}", flush=True)
    worker.run(stop)


if __name__ == "__main__":
    main()
