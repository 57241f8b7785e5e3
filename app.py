"""The API for trying out the models: like caching_server.py, but without Redis and one job at a time.

Run `python app.py` or `flask run`. /styleclip without a picture starts from the average face. With `Accept:
text/event-stream`, each step sends an event, and the last event contains the picture.
"""

from __future__ import annotations

import logging
import sys

import torch

from mead import log
from mead.http.anonymous import check_listening, is_loopback
from mead.http.direct import create_app
from mead.http.models import models_of
from mead.nn.precision import best_device, check_device
from mead.registry import networks
from mead.settings import read_settings
from mead.terminal import printable
from mead.weights.errors import WeightsError
from mead.weights.sets import WeightSet

__all__ = ["create_app"]


def main() -> None:
    """Read the settings and serve."""
    settings = read_settings()
    log.set_up(settings)
    check_listening(settings)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    try:
        check_device(settings.device or best_device())
        models_of(settings)
        WeightSet.find(settings.weights).check_present(networks())  # they are loaded by the first requests
    except (ValueError, WeightsError) as error:
        sys.exit(f"mead: {printable(str(error))}")
    debug = settings.debug and is_loopback(settings.host)  # the debugger runs any code it is sent
    logging.getLogger("app").info("listening", extra={"at": f"http://{settings.listening_at}"})
    create_app(settings).run(
        settings.host, settings.port, debug=debug, threaded=settings.threaded, use_reloader=False
    )


if __name__ == "__main__":
    main()
