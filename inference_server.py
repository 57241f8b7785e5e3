"""Takes jobs from Redis, runs them in batches and writes their results: `python inference_server.py`.

On SIGTERM or Ctrl-C it finishes the current step, puts its jobs back at the front of their queues and exits
within five seconds.
"""

from __future__ import annotations

import logging
import signal
import sys

from mead import log
from mead.openmp import wait_briefly
from mead.setting_checks import doubts
from mead.settings import read_settings
from mead.terminal import printable
from mead.weights.errors import WeightsError


def main() -> None:
    """Read the settings, load the networks, and run jobs until SIGTERM or Ctrl-C."""
    wait_briefly()  # before PyTorch is imported
    import torch

    from mead.worker.process import make_worker, serve

    settings = read_settings()
    log.set_up(settings)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as SIGTERM: there is no job to put back yet
    try:
        for doubt in doubts(settings):
            logging.getLogger("inference_server").warning(doubt)
        worker = make_worker(settings)
    except (ValueError, WeightsError) as error:
        sys.exit(f"mead: {printable(str(error))}")
    serve(worker, f"weights {settings.weights}")


if __name__ == "__main__":
    main()
