"""Spans sent to a collector by OTLP over HTTP: one for each request, one for each attempt of a job with one for each of
its stages, and one for the time that the job waited before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.jobs.record import Job
from service.tracing import Ended, Stages, Tracing

_propagator = TraceContextTextMapPropagator()


class OpenTelemetry(Tracing):
    """Sends in a thread of its own; what a collector that is away does not take is lost. Which traces are kept, further
    attributes and headers are for OpenTelemetry's own variables (OTEL_…)."""

    def __init__(self, endpoint: str, service: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
        self._tracer = self._provider.get_tracer("duet")

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], request_id: str) -> Iterator[Ended]:
        attributes = {"http.request.method": method, "duet.request_id": request_id}
        with self._tracer.start_as_current_span(
            method, _propagator.extract(headers), SpanKind.SERVER, attributes
        ) as span:

            def ended(route: str | None, status: int | None) -> None:
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if status is not None:  # else the client went away before there was an answer
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))

            yield ended

    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get("traceparent")

    def attempt(self, job: Job, began: float, ended: float, stages: Stages, outcome: str) -> None:
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

    def close(self) -> None:
        self._provider.shutdown()

    def _span(self, name: str, parent: Context, times: tuple[float, float], about: Mapping[str, str | int]) -> None:
        began, ended = times
        span = self._tracer.start_span(name, parent, attributes=about, start_time=_nanoseconds(began))
        span.end(_nanoseconds(ended))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
