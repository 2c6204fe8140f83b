"""How long a clip becomes: by the request, the upload, the model and the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.api.parameters import GenerateParameters
from service.settings import Settings
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem


@pytest.fixture(scope="module")
def film() -> bytes:
    """4.25 s at 20 frames a second."""
    return media.video(seconds=4.25, fps=20)


def submit(client: httpx.Client, film: bytes, **fields: str) -> dict[str, Any]:
    answer = client.post("/v2a", files={"file": ("film.mp4", film)}, data=fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("fields", "duration", "used"),
    [
        ({}, 4.3, 4.25),
        ({"start": "1.0"}, 3.3, 3.25),
        ({"duration": "1.6"}, 1.6, 1.6),
        ({"duration": "2.01"}, 2.1, 2.1),
        ({"start": "3.5"}, 0.8, 0.75),
        ({"start": "3.5", "duration": "1.6"}, 1.6, 0.75),  # a window of the model may go beyond the end
        ({"start": "2.65"}, 1.6, 1.6),  # in floating point a little more is left
    ],
)
def test_an_upload_is_used_to_its_end(
    client: httpx.Client, film: bytes, fields: dict[str, str], duration: float, used: float
) -> None:
    job = submit(client, film, **fields)
    assert job["params"]["duration"] == pytest.approx(duration)
    assert job["input"]["used"]["duration"] == pytest.approx(used)
    assert job["input"]["used"]["notice"] is None


def test_of_a_longer_upload_the_first_part_is_used(
    run_api: Callable[[Settings], RunningApi], settings: Settings, film: bytes
) -> None:
    api = run_api(settings.model_copy(update={"max_output_s": 2.0}))
    with httpx.Client(base_url=api.url) as client:
        used = submit(client, film, start="0.5")["input"]["used"]
        assert (used["start"], used["duration"]) == (0.5, 2.0)
        assert used["notice"] == "Only the first 2 s of 3.75 s are used: DUET_MAX_OUTPUT_S is the limit."
        assert submit(client, film, duration="2")["input"]["used"]["notice"] is None


@pytest.mark.parametrize(
    ("duration", "said"),
    [
        ("5", "duration must be at most 4.25, the rest of the file."),
        ("60.5", "duration must be at most 60 s here; got 60.5."),
        ("0.05", "Invalid value: duration."),
        ("nan", "Invalid value: duration."),
        ("-1", "Invalid value: duration."),
        ("long", "Invalid value: duration."),
    ],
)
def test_impossible_durations_name_the_limit(client: httpx.Client, film: bytes, duration: str, said: str) -> None:
    answer = client.post("/v2a", files={"file": ("film.mp4", film)}, data={"duration": duration})
    refused = problem(answer, 422, "invalid_parameter")
    assert refused["detail"] == said
    assert [error["field"] for error in refused["errors"]] == ["duration"]


def test_a_retry_keeps_to_todays_limit(
    run_api: Callable[[Settings], RunningApi], settings: Settings, film: bytes, client: httpx.Client
) -> None:
    job = submit(client, film)
    client.post(job["urls"]["cancel"])
    api = run_api(settings.model_copy(update={"max_output_s": 2.0}))
    with httpx.Client(base_url=api.url) as stricter:
        refused = problem(stricter.post(job["urls"]["retry"]), 422, "invalid_parameter")
    assert refused["detail"] == "duration must be at most 2 s here; got 4.3."
    assert client.post(job["urls"]["retry"]).status_code == 202


def test_a_request_without_a_duration_is_what_it_was_before_there_was_one() -> None:
    """An Idempotency-Key of an older version stands for the same request."""
    assert "duration" not in GenerateParameters().asked()
    assert GenerateParameters(duration=2.0).asked()["duration"] == 2.0


def test_a_generated_clip_has_the_models_duration_unless_another_is_asked_for(client: httpx.Client) -> None:
    assert "duration" not in client.post("/generate", json={}).json()["params"]
    assert client.post("/generate", json={"duration": 6.35}).json()["params"]["duration"] == pytest.approx(6.4)
    refused = problem(client.post("/generate", json={"duration": 61}), 422, "invalid_parameter")
    assert refused["detail"] == "duration must be at most 60 s here; got 61."


def test_the_work_of_a_job_is_bounded(client: httpx.Client) -> None:
    """60 s are 41 windows of the model: 41 · 8 · 20 evaluations are allowed, 41 · 8 · 1000 are not."""
    long = {"duration": 60, "num_outputs": 8}
    assert client.post("/generate", json=long).status_code == 202
    refused = problem(client.post("/generate", json={**long, "steps": 1000}), 422, "invalid_parameter")
    assert refused["detail"] == "steps must be at most 76 for 8 outputs of 41 windows; got 1000."
    assert [(error["field"], error["got"]) for error in refused["errors"]] == [("steps", 1000)]
    assert client.post("/generate", json={"steps": 1000, "num_outputs": 8}).status_code == 202
