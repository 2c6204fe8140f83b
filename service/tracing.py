"""Traces for OpenTelemetry. Where DUET_OTLP_ENDPOINT is not set all of this does nothing, and no package is loaded.

A trace begins with the request that makes a job, or with whoever sent it a `traceparent` (W3C Trace Context). The job's
record carries it on, so that the worker's spans, and those of later attempts, belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from service.jobs.record import Job
from service.settings import Settings

Ended = Callable[[str | None, int | None], None]
"""Told of a request: its route and the status of the answer, None where there was none."""

Stages = Mapping[str, tuple[float, float]]
"""When each stage of an attempt began and ended, in seconds since 1970."""


class Tracing:
    """One for each process. This one is off."""

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], request_id: str) -> Iterator[Ended]:
        """Around the answer to a request; its headers may name a trace to go on with."""
        yield lambda route, status: None

    def traceparent(self) -> str | None:
        """What stands for the span that this is called in; None outside of any."""
        return None

    def attempt(self, job: Job, began: float, ended: float, stages: Stages, outcome: str) -> None:
        """An attempt of a job is over: `began` and `ended` in seconds since 1970."""

    def close(self) -> None:
        """Send what is not sent yet."""


def open_tracing(settings: Settings, service: str) -> Tracing:
    """What the settings say, for the process that calls itself `service`.

    Ends the process (SystemExit) with a sentence where traces are wanted and the package is not installed.
    """
    if not settings.otlp_endpoint:
        return Tracing()
    try:
        from service.opentelemetry import OpenTelemetry
    except ModuleNotFoundError as error:
        raise SystemExit(
            "Duet cannot start.\nDUET_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: it comes with the "
            f"extra `otel`, pip install 'duet-av[otel]' ({error})."
        ) from error
    return OpenTelemetry(settings.otlp_endpoint, service)
