"""The log: one request can be followed by its id through all processes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.jobs.record import Job
from service.log import configure_logging, log
from service.settings import Settings
from tests.running import running
from tests.service.new_jobs import a_job
from tests.service.webhooks.receiver import Receiver
from tests.waiting import until


@pytest.fixture
def receiving(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow_private": True})


def test_the_id_of_a_request_is_in_every_process_that_has_to_do_with_its_job(
    receiving: Settings, tmp_path: Path
) -> None:
    with running(receiving, tmp_path) as stack, Receiver() as receiver:
        body = {"webhook": {"url": receiver.url, "events": ["completed"]}}
        urls = []
        for name in ("mine-1", "mine-2", None):
            headers = {"X-Request-ID": name} if name else {}
            answer = httpx.post(f"{stack.url}/generate", json=body, headers=headers, trust_env=False)
            assert answer.status_code == 202
            urls.append((answer.headers["x-request-id"], answer.headers["location"]))
        for _, url in urls:
            assert stack.ended(url)["status"] == "completed"
        until(lambda: len(receiver.received) == len(urls), "the webhooks have come")
        until(lambda: sum(line["event"] == "webhook sent" for line in stack.lines("webhooks")) == 3, "it is logged")
        until(lambda: sum(line["event"] == "job completed" for line in stack.lines("worker")) == 3, "it is logged")
        said = {
            (process, line["request_id"], line["job"], line["event"])
            for process in stack.logs
            for line in stack.lines(process)
            if "job" in line and line.get("request_id")
        }
    assert [name for name, _ in urls[:2]] == ["mine-1", "mine-2"]
    expected = [
        ("api", "job accepted"),
        ("worker", "job claimed"),
        ("worker", "job completed"),
        ("webhooks", "webhook sent"),
    ]
    for name, url in urls:
        for process, event in expected:
            assert (process, name, url.removeprefix("/jobs/"), event) in said
    assert {name for _, name, _, _ in said} == {name for name, _ in urls}, "none has got another's id"


def test_records_keep_the_request_and_older_ones_have_none() -> None:
    job = a_job()
    assert Job.from_json(job.to_json()).request_id is None
    text = job.to_json().replace('"request_id":null,', "").replace(',"traceparent":null', "")
    assert "request_id" not in text
    assert Job.from_json(text) == job


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure_logging(Settings())
        log.warning("asked for \x1b[2J", path="/a\x1b]0;owned\x07\nforged line\x9b31m")
        try:
            raise ValueError("bad \x1b[31m")
        except ValueError:
            log.exception("failed")
        text = capsys.readouterr().err
    finally:
        configure_logging(Settings(log_level="warning"))
    assert not set(text) & set("\x1b\x07\x9b")
    assert "\nforged line" not in text, "one line stays one line"
    assert "asked for \\x1b[2J" in text
    assert "Traceback" in text
    assert "bad \\x1b[31m" in text
