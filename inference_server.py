"""Takes jobs from Redis, runs them in shared batches and writes their results: `python inference_server.py`.

SIGTERM or Ctrl-C ends the current step, puts the jobs back at the front of their queues and leaves, within
five seconds.
"""

from __future__ import annotations

import signal

import torch

from mead import log
from mead.settings import Settings
from mead.worker.process import make_worker, serve


def main() -> None:
    """Read the settings, load the networks, work until told to stop."""
    settings = Settings()
    log.set_up(settings)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as SIGTERM: no job is held yet, so there is nothing to end
    worker = make_worker(settings)
    serve(worker, f"weights {settings.weights}")


if __name__ == "__main__":
    main()
