from __future__ import annotations

from datetime import datetime

import httpx
import pytest

from service.jobs.record import JobError, Output, Progress, Timings
from service.jobs.store import JobStore
from tests.service.answers import problem
from tests.service.new_jobs import UPLOAD, a_job


def test_an_unknown_job_is_not_found(client: httpx.Client) -> None:
    for name in ("job_00000000000000000000000000", "x", "job_ü"):
        problem(client.get(f"/jobs/{name}"), 404, "unknown_job")


def test_a_job_is_followed_to_its_end(client: httpx.Client, store: JobStore) -> None:
    job = a_job("v2a", input=UPLOAD)
    url = f"/jobs/{job.id}"
    store.create(job)
    queued = client.get(url).json()
    assert (queued["status"], queued["queue_position"], queued["attempt"]) == ("queued", 0, 0)
    assert (queued["stage"], queued["started_at"], queued["outputs"]) == (None, None, [])

    store.claim(job.id, "a worker")
    store.start(job.id, 1)
    store.progress(job.id, 1, Progress("base", 7, 20, 0.31, 4.2))
    running = client.get(url).json()
    assert (running["status"], running["queue_position"], running["attempt"]) == ("in_progress", None, 1)
    assert [running[name] for name in ("stage", "step", "total_steps", "progress", "eta_seconds")] == [
        "base",
        7,
        20,
        0.31,
        4.2,
    ]

    timings = Timings(queued=0.1, decode=0.2, base=3.9, encode=0.3, upload=0.1)
    store.complete(job.id, 1, [Output(0, 42, {"video.mp4": "k"})], timings)
    done = client.get(url).json()
    assert (done["status"], done["progress"], done["stage"], done["eta_seconds"]) == ("completed", 1, None, None)
    files, scores = {"video.mp4": f"{url}/files/video.mp4"}, {"sync": None, "av_align": None, "lag": None}
    assert done["outputs"] == [{"index": 0, "seed": 42, "scores": scores, "files": files}]
    assert done["timings"]["base"] == 3.9
    times = [datetime.fromisoformat(done[name]) for name in ("created_at", "started_at", "completed_at", "expires_at")]
    assert times == sorted(times)
    assert all(done[name].endswith("Z") for name in ("created_at", "expires_at"))  # RFC 3339, in UTC


def test_a_failed_job_says_why(client: httpx.Client, store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "a worker")
    store.fail(job.id, 1, JobError("out_of_memory", "the model needs more memory", True, 1))
    failed = client.get(f"/jobs/{job.id}").json()
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "out_of_memory",
        "message": "the model needs more memory",
        "retryable": True,
        "attempt": 1,
    }


def test_storage_keys_are_not_shown(client: httpx.Client, store: JobStore) -> None:
    job = a_job("v2a", input=UPLOAD)
    store.create(job)
    assert UPLOAD.key not in client.get(f"/jobs/{job.id}").text


def test_polling_an_unchanged_job_returns_304(client: httpx.Client, store: JobStore) -> None:
    job = a_job()
    store.create(job)
    etag = client.get(f"/jobs/{job.id}").headers["etag"]
    same = client.get(f"/jobs/{job.id}", headers={"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    store.claim(job.id, "a worker")
    assert client.get(f"/jobs/{job.id}", headers={"If-None-Match": etag}).status_code == 200


def test_links_stay_under_v1(client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json={"seed": 1})
    assert answer.headers["location"].startswith("/v1/jobs/")
    job = client.get(answer.headers["location"]).json()
    assert job["urls"]["self"] == answer.headers["location"]
    assert client.get(job["urls"]["self"].removeprefix("/v1")).json()["id"] == job["id"]


def test_an_unreadable_record_is_a_500_for_its_own_job_only(client: httpx.Client, store: JobStore) -> None:
    good, broken = (client.post("/generate", json={"seed": 1}).json()["id"] for _ in range(2))
    store._redis.set(f"duet:job:{broken}", '{"status": "paused"}')
    for method in ("GET", "DELETE"):
        problem(client.request(method, f"/jobs/{broken}"), 500, "unreadable_record")
    assert [job["id"] for job in client.get("/jobs").json()["data"]] == [good]
    assert client.get(f"/jobs/{good}").status_code == 200
    assert "duet_records_unreadable 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("path", ["submit", "delete"])
def test_redis_with_too_few_replicas_is_a_503(client: httpx.Client, store: JobStore, path: str) -> None:
    job = client.post("/generate", json={"seed": 1}).json()["id"]
    store._redis.config_set("min-replicas-to-write", "1")
    try:
        answer = client.post("/generate", json={"seed": 2}) if path == "submit" else client.delete(f"/jobs/{job}")
    finally:
        store._redis.config_set("min-replicas-to-write", "0")
    problem(answer, 503, "queue_unavailable")
