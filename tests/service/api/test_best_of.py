"""The best of several outputs: parameters, limits, and how the job shows what was kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.jobs.record import Job, Output, Scores, Timings
from service.jobs.store import JobStore
from tests.service import media
from tests.service.answers import problem


def test_keep_is_recorded_with_the_default_ranking(client: httpx.Client) -> None:
    job = client.post("/generate", json={"num_outputs": 8, "keep": 2}).json()

    assert (job["params"]["keep"], job["params"]["rank_by"]) == (2, "sync")
    again = client.post(f"/jobs/{job['id']}/retry").json()
    assert again["params"] == job["params"]


def test_without_keep_nothing_is_different(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "of-before"}
    job = client.post("/generate", json={"seed": 1}, headers=headers).json()

    assert not {"keep", "rank_by"} & set(job["params"])
    assert (job["outputs"], job["dropped"]) == ([], [])
    again = client.post("/generate", json={"seed": 1, "keep": None}, headers=headers).json()
    assert again["id"] == job["id"]


@pytest.mark.parametrize(
    ("given", "field", "allowed"),
    [
        ({"num_outputs": 2, "keep": 3}, "keep", "1 … 2"),
        ({"keep": 0}, "keep", "an integer 1 … 8"),
        ({"num_outputs": 2, "keep": 1, "rank_by": "beauty"}, "rank_by", "one of sync, av_align, lag"),
        ({"num_outputs": 2, "rank_by": "sync"}, "rank_by", "only with keep"),
    ],
)
def test_what_cannot_be_kept_is_refused(client: httpx.Client, given: dict[str, Any], field: str, allowed: str) -> None:
    (error,) = problem(client.post("/generate", json=given), 422, "invalid_parameter")["errors"]

    assert error["field"] == field
    assert allowed in error["allowed"]


def test_an_edit_takes_keep_as_other_jobs_do(client: httpx.Client) -> None:
    upload = {"file": ("a.mp4", media.video(seconds=2.0, sound=True))}
    data = {"params": '{"extend": {"after": 1}, "num_outputs": 2, "keep": 1, "rank_by": "lag"}'}
    job = client.post("/edit", files=upload, data=data).json()

    assert (job["params"]["keep"], job["params"]["rank_by"]) == (1, "lag")
    assert client.post(f"/jobs/{job['id']}/retry").json()["params"] == job["params"]
    too_many = {"params": '{"extend": {"after": 1}, "num_outputs": 2, "keep": 3}'}
    (error,) = problem(client.post("/edit", files=upload, data=too_many), 422, "invalid_parameter")["errors"]
    assert (error["field"], "1 … 2" in error["allowed"]) == ("keep", True)


def test_dropped_outputs_have_scores_and_no_files(client: httpx.Client, store: JobStore) -> None:
    job_id = client.post("/generate", json={"num_outputs": 3, "keep": 1, "seed": 4}).json()["id"]
    store.claim(job_id, "a worker")
    store.start(job_id, 1)
    key = store.get(job_id).attempt_key("2/video.mp4")
    best = Output(2, 4, {"video.mp4": key}, Scores(0.8, 0.5, -0.1))
    store.complete(job_id, 1, [best, Output(0, 4, {}, Scores(0.2)), Output(1, 4, {})], Timings())

    job = client.get(f"/jobs/{job_id}").json()
    (output,) = job["outputs"]
    assert output["scores"] == {"sync": 0.8, "av_align": 0.5, "lag": -0.1}
    assert output["files"] == {"video.mp4": f"/jobs/{job_id}/files/video-2.mp4"}
    unknown = {"sync": None, "av_align": None, "lag": None}
    assert job["dropped"] == [
        {"index": 0, "seed": 4, "scores": unknown | {"sync": 0.2}},
        {"index": 1, "seed": 4, "scores": unknown},
    ]
    problem(client.get(f"/jobs/{job_id}/files/video.mp4"), 404, "unknown_file")


def test_the_reason_is_there_only_for_scores_that_are_null(client: httpx.Client, store: JobStore) -> None:
    job_id = client.post("/generate", json={"num_outputs": 2}).json()["id"]
    store.claim(job_id, "a worker")
    store.start(job_id, 1)
    outputs = [Output(0, 4, {"video.mp4": "x"}, Scores(0.8, 0.5, 0.0))]
    outputs += [Output(1, 4, {"video.mp4": "x"}, Scores(reason="the sound is silent"))]
    store.complete(job_id, 1, outputs, Timings())

    first, second = client.get(f"/jobs/{job_id}").json()["outputs"]
    assert "scores_reason" not in first
    assert second["scores"] == {"sync": None, "av_align": None, "lag": None}
    assert second["scores_reason"] == "the sound is silent"


def test_records_without_scores_stay_readable(store: JobStore, client: httpx.Client) -> None:
    job_id = client.post("/generate", json={}).json()["id"]
    store.claim(job_id, "a worker")
    store.start(job_id, 1)
    text = store.complete(job_id, 1, [Output(0, 1, {"video.mp4": "x"})], Timings()).to_json()
    old = text.replace(',"scores":{"sync":null,"av_align":null,"lag":null}', "").replace(
        ',"keep":null,"rank_by":null', ""
    )

    assert len(old) < len(text) - 60
    assert Job.from_json(old) == Job.from_json(text)
