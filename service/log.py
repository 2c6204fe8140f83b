"""Logging: structlog formats the lines of Duet and of its libraries, on standard error."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("duet")
"""The logger of all Duet's modules."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls, line separators, and marks that reorder text."""

_CONTROL_BUT_LINES = re.compile(rf"(?![\n\t]){_CONTROL.pattern}")


def configure_logging(settings: Settings) -> None:
    """Set up logging of this process. Call it once, before the first line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        # Tracebacks are structured, without local variables, which may hold user data.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        final: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        final = [
            _printable,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_printable_traceback),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # Each request has a line of its own. uvicorn's would show the query, and with it the signature of signed URLs.
    logging.getLogger("uvicorn.access").disabled = True
    # The lower levels of these libraries do not help an operator of Duet.
    for name in ("botocore", "boto3", "urllib3", "s3transfer", "kombu", "celery", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _printable(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters from requests, which could forge lines or control the terminal."""
    return {key: _escaped(value, _CONTROL) if isinstance(value, str) else value for key, value in event.items()}


def _printable_traceback(stream: TextIO, exc_info: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(_escaped(text.getvalue(), _CONTROL_BUT_LINES))


def _escaped(text: str, characters: re.Pattern[str]) -> str:
    return characters.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
