"""Traces as a collector receives them: real processes send OTLP to a real HTTP receiver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.jobs.store import JobStore
from service.settings import Settings, load_settings
from tests.running import running
from tests.service import media
from tests.service.webhooks.receiver import Receiver
from tests.tiny_model import add_words_model


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    attributes: dict[str, str | int]


def spans(receiver: Receiver) -> list[Span]:
    """All received spans, ordered by start time."""
    return sorted(_spans(receiver), key=lambda span: span.began)


def _spans(receiver: Receiver) -> Iterator[Span]:
    for request in receiver.received:
        assert request.path == "/v1/traces"
        assert request.headers["content-type"] == "application/x-protobuf"
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    attributes = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
                    times = (span.start_time_unix_nano, span.end_time_unix_nano)
                    yield Span(named["service.name"], span.name, *ids, *times, attributes)


def test_a_request_its_job_and_the_jobs_stages_form_one_trace(settings: Settings, tmp_path: Path) -> None:
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with Receiver() as collector:
        models = add_words_model(tmp_path / "models")
        traced = {"otlp_endpoint": collector.url.removesuffix("/hook"), "models": models, "default_model": "words"}
        with running(settings.model_copy(update=traced), tmp_path) as stack:
            film, words = {"file": ("a.mp4", media.video())}, {"prompt": "unmistakable rain"}
            headers = {"traceparent": f"00-{trace}-{caller}-01", "X-Request-ID": "mine-7"}
            answer = httpx.post(f"{stack.url}/v2a", files=film, data=words, headers=headers, trust_env=False)
            url = answer.headers["location"]
            httpx.get(f"{stack.url}/metrics", trust_env=False)
            assert stack.ended(url)["status"] == "completed"
        found = spans(collector)  # the processes sent the rest when they ended
        told = [request.body for request in collector.received] + [log.read_bytes() for log in stack.logs.values()]
    assert not any(b"unmistakable" in each for each in told), "prompts are users' words"

    ours = {span.name: span for span in found if span.trace == trace}
    assert list(ours) == ["POST /v2a", "queue", "run v2a", "fetch", "base", "upload"]
    request, queue, run = ours["POST /v2a"], ours["queue"], ours["run v2a"]
    assert (request.service, request.parent) == ("duet-api", caller)
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["duet.request_id"] == "mine-7"
    assert {run.service, queue.service} == {"duet-worker"}
    assert {run.parent, queue.parent} == {request.id}
    assert run.attributes["duet.job"] == queue.attributes["duet.job"] == url.removeprefix("/jobs/")
    assert (run.attributes["duet.outcome"], run.attributes["duet.attempt"]) == ("completed", 1)
    assert queue.ended <= run.began
    for stage in ("fetch", "base", "upload"):
        assert ours[stage].parent == run.id
        assert run.began <= ours[stage].began <= ours[stage].ended <= run.ended
    assert ours["base"].ended - ours["base"].began > 5 * 0.008e9, "five steps of ten milliseconds"

    others = {span.name for span in found if span.trace != trace}
    assert "GET /jobs/{job_id}" in others
    assert not [name for name in others if "/readyz" in name or "/metrics" in name]


@pytest.mark.slow
@pytest.mark.timed
def test_an_unreachable_collector_delays_no_request(settings: Settings, tmp_path: Path) -> None:
    with running(settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"}), tmp_path) as stack:
        answer = httpx.post(f"{stack.url}/generate", trust_env=False)
        assert answer.elapsed.total_seconds() < 2
        assert stack.ended(answer.headers["location"])["status"] == "completed"


def test_without_the_setting_nothing_that_sends_spans_is_loaded() -> None:
    """redis-py loads the metrics part of the SDK where it is installed, but nothing that sends spans."""
    code = (
        "import sys\nfrom service.app import create_app\nimport workers.app\ncreate_app()\n"
        "loaded = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'opentelemetry.proto', 'google.protobuf')\n"
        "print([name for name in sys.modules if name.startswith(loaded)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["api", "worker"])
def test_the_setting_without_the_package_ends_the_process_and_names_the_extra(command: str) -> None:
    code = (
        "import sys\nsys.modules['opentelemetry.sdk'] = None\n"  # simulates a missing package
        f"sys.argv = ['duet', '{command}']\nfrom duet.cli import app\napp()"
    )
    environment = {"DUET_OTLP_ENDPOINT": "http://127.0.0.1:4318", "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "DUET_OTLP_ENDPOINT is set, but the OpenTelemetry SDK is not installed" in run.stderr
    assert "duet-av[otel]" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(SystemExit, match="DUET_OTLP_ENDPOINT is"):
        load_settings(otlp_endpoint=endpoint)


def test_without_tracing_the_callers_trace_is_not_stored(client: httpx.Client, store: JobStore) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = client.post("/generate", headers={"traceparent": parent}).json()
    assert store.get(job["id"]).traceparent is None
