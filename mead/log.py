"""Logging: one line of JSON on stderr for each event, from every process of the service.

A line has the time, the level, the logger, the event, and whatever the caller passes as `extra` ("job",
"worker", ...). Lines logged while a request is served also have that request's id, so that all lines of a job
are found by its id, and those of a request by its X-Request-ID.

Lines contain no secrets and no folders of this machine (`mead.redaction`), and no control characters.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
import threading
import warnings
from contextvars import ContextVar
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from mead.installation import ROOT
from mead.redaction import Redactor
from mead.registry import MODELS
from mead.settings import Settings
from mead.terminal import printable

log = logging.getLogger(__name__)

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+")
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PACKAGES = {"mead", *(spec.module.partition(".")[0] for spec in MODELS.values())}

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being served."""


def set_up(settings: Settings) -> None:
    """Log as the settings say, including warnings and uncaught exceptions of this process and its threads."""
    logging.config.dictConfig(configuration(settings))
    logging.captureWarnings(True)
    # No line contains these, so they need not be looked up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    warnings.filterwarnings("ignore", module=r"PIL\.")  # a damaged file may cause thousands
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)


def configuration(settings: Settings) -> dict[str, Any]:
    """The logging configuration, for `logging.config.dictConfig` or gunicorn's `logconfig_dict`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": LogFormatter, "settings": settings}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "DEBUG" if settings.debug else "INFO", "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True},
            "werkzeug": {"level": "WARNING"},
            "PIL": {"level": "CRITICAL"},  # what is wrong with an uploaded file is in the answer
        },
    }


class LogFormatter(logging.Formatter):
    """Formats each event as a JSON object, or as plain text if `log_json` is off.

    An exception is logged with its type, its reason and the last frame of this project; its traceback only at
    level DEBUG.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.json = settings.log_json
        self.tracebacks = settings.debug
        self.redactor = Redactor(settings)

    def format(self, record: logging.LogRecord) -> str:
        """The event as one line."""
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        event: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            event["request"] = current
        event |= {name: value for name, value in vars(record).items() if _is_ours(name)}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            event["error"] = reason(error)
            event["at"] = _place(error)
            if self.tracebacks:
                event["trace"] = self.formatException((type(error), error, error.__traceback__))
        redacted = self.redactor.redact(event)
        return json.dumps(redacted) if self.json else printable(_plain(redacted))


def _is_ours(field: str) -> bool:
    """Whether a field of a record was given with the line. Libraries add fields with an underscore."""
    return field not in _STANDARD_FIELDS and not field.startswith("_")


def reason(error: BaseException) -> str:
    """An error's type and the first line of its message, without folders; safe to show to clients."""
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
    else:
        first_line = str(error).strip().partition("\n")[0]
        message = _FOLDERS.sub("", first_line.replace(f"{ROOT}/", ""))  # a folder's name may contain spaces
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def _log_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
        log.critical("crashed", exc_info=(kind, error, trace))


def _plain(event: dict[str, Any]) -> str:
    time, level, logger, message, *_ = event.values()
    fields = " ".join(f"{name}={value}" for name, value in list(event.items())[4:])
    return f"{time} {level:<7} {logger}: {message} {fields}".replace("\n", "\n    ").rstrip()


def _place(error: BaseException) -> str | None:
    """The last frame of this project that an error passed, as in "mead.worker.batch:80 _step"."""
    place = None
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if place is None or module.partition(".")[0] in _PACKAGES:
            place = f"{module}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place
