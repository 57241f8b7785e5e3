"""Takes jobs from Redis, runs them in shared batches and writes their results: `python inference_server.py`.

SIGTERM or Ctrl-C ends the current step, puts the jobs back at the front of their queues and leaves, within
five seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any, NoReturn

import torch

from caching_config import Settings, connect
from LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead import log
from mead.nn.precision import best_device
from mead.params import JobParams
from mead.queue.jobs import Jobs
from mead.revision import Pipeline
from mead.storage import Storage
from mead.worker.admission import Company
from mead.worker.engine import Engine
from mead.worker.worker import OtherWeightsError, Worker, new_name
from StyleCLIP import StyleCLIP
from StyleCLIP.params import StyleCLIPParams


def make_worker(settings: Settings) -> Worker:
    """A worker with both models loaded."""
    name = new_name()
    jobs, storage = Jobs(connect(settings), settings.job_ttl), Storage(settings.data_dir)
    company = Company()

    def engine(pipeline: Pipeline[Any], params: type[JobParams], queue: str, capacity: int) -> Engine[Any]:
        return Engine(
            pipeline,
            params,
            jobs,
            queue,
            name,
            capacity,
            storage,
            settings.server_sleep,
            company,
            settings.max_job_seconds,
        )

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
    return Worker(
        name, engines, jobs, storage, settings.worker_ttl, settings.job_attempts, weights=settings.weights
    )


def main() -> None:
    """Read the settings, load the networks, work until told to stop."""
    settings = Settings()
    log.set_up(settings)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as SIGTERM: no job is held yet, so there is nothing to end
    worker = make_worker(settings)
    serve(worker, f"weights {settings.weights}")


def serve(worker: Worker, what: str) -> NoReturn:
    """Run a worker until SIGTERM or SIGINT, then end the process, whatever its threads are still doing."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logger = logging.getLogger("inference_server")  # __name__ is __main__ here
    logger.info("ready", extra={"worker": worker.name, "what": what})
    status = 0
    try:
        worker.run(stop)
    except OtherWeightsError as error:
        logger.error(str(error))
        status = 2
    except BaseException:
        logger.critical("the worker broke down", exc_info=True)
        status = 1
    logging.shutdown()
    os._exit(status)  # a thread in a long step would hold up the usual way out


if __name__ == "__main__":
    main()
