"""The log: one line for each event, on standard error, without patient data.

Our own events carry identifiers of objects, numbers and sentences that this project wrote. Lines of the
libraries (pynetdicom, pydicom, warnings) can quote the content of a data set, so quoted text is cut out of
them, and of a traceback only the places are kept, never the message. A worker process has a log of its own, on the
same stream.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

Event = MutableMapping[str, Any]

_QUOTED = re.compile(r"""'.*'|".*"|\[.*\]|\(.*\)|'.*|".*""", re.DOTALL)
"""From the first quote to the last: what stands in between can hold quotes and line breaks of its own."""
_ABOUT_DATA = re.compile(r"""(\S*:\d+: \w*Warning: )?([^:'"[(]*)""")
"""Of a warning, and of what pydicom says, place and kind, and what comes before the first quote or colon."""
_NETWORK = ("pynetdicom", "urllib3")
_FOREIGN_LEVEL = logging.WARNING
logging.getLogger("node").addHandler(logging.NullHandler())  # silent until somebody wants to hear


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events go through the standard library, whoever embeds the node."""
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(name),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                places_of_exception,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
        ),
    )


def places_of_exception(_logger: object, _method: str, event: Event) -> Event:
    """Replace an exception by its type and the places it passed: its message may quote a data set."""
    info = event.pop("exc_info", None)
    if not info:
        return event
    error = info if isinstance(info, BaseException) else (info[1] if isinstance(info, tuple) else sys.exception())
    if error is not None:
        event["error"] = type(error).__name__
        event["at"] = places(error)
        event["event"] = str(event["event"]).replace(str(error) or "\0", type(error).__name__)
    return event


def places(error: BaseException) -> str:
    """``module.py:12 f < other.py:34 g``: innermost call first."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[::-1])


def without_quotes(_logger: object, _method: str, event: Event) -> Event:
    """Cut out of a library's message what may be quoted from a data set, and all lines but the first."""
    text, record = str(event["event"]), event.get("_record")
    about_data = _ABOUT_DATA.match(text)
    if record is not None and record.name.startswith(_NETWORK):
        text = _QUOTED.sub("…", text)
    elif about_data and about_data.end() < len(text):
        text = f"{about_data[0]}…"
    event["event"] = next(iter(text.splitlines()), "")
    return event


def configure(stream: TextIO | None = None) -> logging.Handler:
    """Send everything to ``stream`` (standard error): JSON lines, or coloured text on a terminal."""
    stream = stream or sys.stderr
    human = stream.isatty()
    renderer = structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[places_of_exception, without_quotes],
            processors=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=not human),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_FOREIGN_LEVEL)
    logging.getLogger("node").setLevel(logging.INFO)
    for name, level in (("pynetdicom", _FOREIGN_LEVEL), ("pydicom", logging.ERROR)):  # pydicom warns as well
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(level)
    logging.getLogger("retrying").setLevel(logging.CRITICAL)  # of dicomweb-client, told not to repeat
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    return handler


def _thread_ended(what: threading.ExceptHookArgs) -> None:
    """A thread that ends with an exception would print it, message and all."""
    get_logger("node.log").error("a thread has ended", exc_info=what.exc_value)
