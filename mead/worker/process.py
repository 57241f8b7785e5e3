"""The inference server's process: building its worker, and ending it on a signal."""

from __future__ import annotations

import logging
import os
import signal
import threading
from functools import partial
from typing import Any, NoReturn

import torch

from mead.data_url import open_storage
from mead.limits import check_steps
from mead.model_spec import ModelSpec
from mead.nn.precision import best_device, check_device
from mead.nn.threads import end_threads
from mead.params import check
from mead.provenance import Weights, chunks_of, recorded_weights
from mead.queue.client import connect
from mead.queue.jobs import Jobs
from mead.receivers import AllowedReceivers
from mead.registry import MODELS
from mead.resuming import Origin
from mead.settings import Settings
from mead.weights.notes import notes_on
from mead.worker.admission import AdmissionControl
from mead.worker.engine import Engine
from mead.worker.memory import room_on
from mead.worker.warm_up import jobs_in_a_pass
from mead.worker.webhooks import WebhookLoop
from mead.worker.worker import OtherWeightsError, Worker, new_name

log = logging.getLogger("inference_server")  # as the process is called


def make_worker(settings: Settings) -> Worker:
    """A worker with every model loaded, each in an engine of its own.

    Raises:
        ValueError: the device cannot be used, or there is no such weights set.
        WeightsError: a file of weights is missing or damaged.
    """
    name = new_name()
    client = connect(settings.redis_url, prefix=settings.redis_prefix)
    jobs = Jobs(client, settings.job_ttl, settings.redis_wait_replicas)
    storage = open_storage(settings.data_url, settings.data_dir)
    admission = AdmissionControl()
    device = settings.device or best_device()
    check_device(device)
    pipelines = [(spec, spec.load_pipeline(settings.weights, device)) for spec in MODELS.values()]
    weights = recorded_weights(settings.weights)
    passes: dict[str, int] = {}  # how many jobs of a model are best advanced in one
    if settings.cuda_graphs and device.startswith("cuda"):
        for spec, pipeline in pipelines:
            passes[spec.name] = _warm_up(spec, pipeline, settings.threads(spec))
    end_threads()  # the engines have their own
    engines = [
        Engine(
            pipeline,
            params=spec.params,
            jobs=jobs,
            storage=storage,
            queue=settings.queue(spec),
            worker=name,
            capacity=settings.threads(spec),
            pause=settings.server_sleep,
            admission=admission,
            max_job_seconds=settings.max_job_seconds,
            notes_on=partial(notes_on, weights=settings.weights),
            check_steps=partial(check_steps, settings=settings),
            weights=weights,
            chunks_of=partial(chunks_of, model=spec.name, weights=settings.weights),
            origin=Origin(
                model=spec.name, weights=Weights.of(settings.weights), device=torch.device(device).type
            ),
            latents_ttl=settings.latents_ttl,
            room=room_on(torch.device(device)),
            in_a_pass=passes.get(spec.name),
        )
        for spec, pipeline in pipelines
    ]
    webhooks = WebhookLoop(
        name,
        jobs,
        allowed=AllowedReceivers(settings.webhook_allow),
        secrets=settings.webhook_secret,
        timeout=settings.webhook_timeout,
        retry_seconds=settings.webhook_retry_seconds,
    )
    return Worker(
        name,
        engines,
        jobs,
        storage,
        ttl=settings.worker_ttl,
        attempts=settings.job_attempts,
        latents=settings.latents_ttl,
        weights=weights["weights"],
        weights_digest=weights["weights_digest"],
        loops=[webhooks.run],
    )


def _warm_up(spec: ModelSpec, pipeline: Any, most: int) -> int:
    """Record a model's CUDA graphs, and find out how many jobs are best advanced in one pass.

    Without graphs, a step waits for the launches of its kernels: the more jobs share them, the better.
    """
    pipeline.record_graphs(most)
    params = [check(spec.params, {"prompt": "a smiling face", "seed": seed}) for seed in range(most)]
    jobs = jobs_in_a_pass(pipeline, [pipeline.start(each) for each in params], torch.cuda.synchronize)
    log.info("warm", extra={"model": spec.name, "in_a_pass": jobs})
    return jobs


def serve(worker: Worker, what: str) -> NoReturn:
    """Run a worker until SIGTERM or SIGINT, then end the process, even if a thread is still in a step.

    Args:
        what: what it serves, for the log.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("ready", extra={"worker": worker.name, "what": what})
    status = 0
    try:
        worker.run(stop)
    except OtherWeightsError as error:
        log.error(str(error))
        status = 2
    except BaseException:
        log.critical("the worker has failed", exc_info=True)
        status = 1
    logging.shutdown()
    os._exit(status)  # a normal exit would wait for a thread in a long step
