"""The log: structlog for our own lines and for those of the libraries, one format, one stream (standard error)."""

from __future__ import annotations

import logging
import sys

import structlog

from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("duet")
"""The one logger of the service."""


def configure_logging(settings: Settings) -> None:
    """Set up the log of this process. Once, before the first line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        # A traceback as data, and no local variables: they hold what users sent.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        final: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        plain = structlog.dev.plain_traceback
        final = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
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
    # Each request has its line already, and uvicorn's would show the query, which lets who reads it fetch signed URLs.
    logging.getLogger("uvicorn.access").disabled = True
    # What these libraries tell of themselves at the lower levels helps nobody who runs Duet.
    for name in ("botocore", "boto3", "urllib3", "s3transfer", "kombu", "celery", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
