"""OpenTelemetry traces: one span per request, one per attempt of a job with a child per stage, and one for the queue.

A trace starts with the request that creates a job, or continues the caller's `traceparent` (W3C Trace Context). The job
record stores the trace context, so the worker's spans, including those of later attempts, join the same trace.

Without DUET_OTLP_ENDPOINT all spans are no-ops of `opentelemetry-api`; the SDK and its exporter are not imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Ended = Callable[[str | None, int | None], None]
"""Called when a request ends, with its route and the status of the response. Either is None if there was none."""

Stages = Mapping[str, tuple[float, float]]
"""Start and end of each stage of an attempt, in seconds since 1970."""

_propagator = TraceContextTextMapPropagator()


class TracedJob(Protocol):
    """The fields of a job that its spans carry."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def priority(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def traceparent(self) -> str | None: ...


class Tracing:
    """Creates the spans of one process. Records nothing unless it is given the tracer of an SDK."""

    def __init__(self, tracer: trace.Tracer | None = None, close: Callable[[], None] = lambda: None) -> None:
        """`close` sends the remaining spans."""
        self._on = tracer is not None
        self._tracer = tracer or trace.NoOpTracer()
        self.close = close

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], request_id: str) -> Iterator[Ended]:
        """A span around one request. Its headers may name a trace to continue."""
        attributes = {"http.request.method": method, "duet.request_id": request_id}
        with self._tracer.start_as_current_span(
            method, _propagator.extract(headers), SpanKind.SERVER, attributes
        ) as span:

            def ended(route: str | None, status: int | None) -> None:
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if status is not None:  # None: the client disconnected before the response
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))

            yield ended

    def traceparent(self) -> str | None:
        """The `traceparent` of the current span; None outside any trace, and if nothing is recorded: then the current
        span would be the caller's."""
        if not self._on:
            return None
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get("traceparent")

    def attempt(self, job: TracedJob, began: float, ended: float, stages: Stages, outcome: str) -> None:
        """The spans of a finished attempt; `began` and `ended` in seconds since 1970."""
        parent = _propagator.extract({"traceparent": job.traceparent or ""})
        about: dict[str, str | int] = {
            "duet.job": job.id,
            "duet.kind": job.kind,
            "duet.model": job.model,
            "duet.attempt": job.attempt,
        }
        if job.attempt == 1:
            self._span("queue", parent, (job.created_at.timestamp(), began), {**about, "duet.priority": job.priority})
        about["duet.outcome"] = outcome
        start = _nanoseconds(began)
        whole = self._tracer.start_span(f"run {job.kind}", parent, SpanKind.CONSUMER, about, start_time=start)
        if outcome in ("failed", "retried"):
            whole.set_status(Status(StatusCode.ERROR))
        inside = trace.set_span_in_context(whole, parent)
        for stage, times in stages.items():
            self._span(stage, inside, times, {})
        whole.end(_nanoseconds(ended))

    def _span(self, name: str, parent: Context, times: tuple[float, float], about: Mapping[str, str | int]) -> None:
        began, ended = times
        span = self._tracer.start_span(name, parent, attributes=about, start_time=_nanoseconds(began))
        span.end(_nanoseconds(ended))


def open_tracing(endpoint: str, service: str) -> Tracing:
    """Traces of the process named `service`, sent by OTLP over HTTP to `endpoint`; none if `endpoint` is empty.

    A background thread sends the spans; those that an unreachable collector does not accept are lost. Sampling,
    further attributes and headers are set by OpenTelemetry's own variables (OTEL_…). Ends the process (SystemExit) if
    an endpoint is set and the SDK is not installed.
    """
    if not endpoint:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SystemExit(
            "Duet cannot start.\nDUET_OTLP_ENDPOINT is set, but the OpenTelemetry SDK is not installed. It is part of "
            f"the extra `otel`: pip install 'duet-av[otel]' ({error})."
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    return Tracing(provider.get_tracer("duet"), provider.shutdown)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
