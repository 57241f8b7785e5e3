"""A worker as a process: what an inference server is made of, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import NoReturn

from mead.nn.precision import best_device
from mead.queue.client import connect
from mead.queue.jobs import Jobs
from mead.registry import MODELS
from mead.settings import Settings
from mead.storage import Storage
from mead.worker.admission import Company
from mead.worker.engine import Engine
from mead.worker.worker import OtherWeightsError, Worker, new_name


def make_worker(settings: Settings) -> Worker:
    """A worker with all models loaded, an engine each."""
    name = new_name()
    jobs, storage = Jobs(connect(settings.redis_url), settings.job_ttl), Storage(settings.data_dir)
    company = Company()
    device = settings.device or best_device()
    engines = [
        Engine(
            spec.load_pipeline(settings.weights, device),
            spec.params,
            jobs,
            settings.queue(spec),
            name,
            settings.threads(spec),
            storage,
            settings.server_sleep,
            company,
            settings.max_job_seconds,
        )
        for spec in MODELS.values()
    ]
    return Worker(
        name, engines, jobs, storage, settings.worker_ttl, settings.job_attempts, weights=settings.weights
    )


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
