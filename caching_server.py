"""The API with a queue, for production: `python caching_server.py`.

Checks requests, stores their pictures, queues their jobs in Redis and answers when an inference server has
run them. With your own gunicorn:
`gunicorn -k caching_server.Worker --threads N 'caching_server:create_app()'`.
"""

from __future__ import annotations

import multiprocessing
import sys

from mead import log
from mead.http.anonymous import check_listening
from mead.http.app import create_app
from mead.http.gunicorn_worker import Worker
from mead.http.models import models_of
from mead.http.readiness import log_problems
from mead.http.server import CachingServer, allow_open_files, limit_threads
from mead.imaging.decoder_process import give_back_memory
from mead.settings import read_settings
from mead.terminal import printable
from mead.weights.errors import WeightsError

__all__ = ["Worker", "create_app"]


def main() -> None:
    """Read the settings, check the address to listen on and the weights set, and serve."""
    settings = read_settings()
    log.set_up(settings)
    check_listening(settings)
    try:
        models_of(settings)
    except WeightsError as error:
        sys.exit(f"mead: {printable(str(error))}")
    # In a process of its own: an object store's client starts threads, and gunicorn forks this process later.
    first_check = multiprocessing.get_context("fork").Process(target=log_problems, args=[settings])
    first_check.start()
    first_check.join()
    allow_open_files()
    give_back_memory()
    CachingServer(limit_threads(settings)).run()


if __name__ == "__main__":
    main()
