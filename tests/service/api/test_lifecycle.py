"""List, cancel, delete and retry jobs, and wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.jobs.record import JobError, Status, Timings
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import open_storage
from tests.conftest import RedisServer, RunningApi
from tests.files import files_in
from tests.service import media
from tests.service.answers import problem
from tests.service.jobs.test_queue import reading
from tests.service.new_jobs import OUTPUT, a_job


def begin(store: JobStore, job_id: str) -> None:
    """Claim the job and start it, as a worker does."""
    claimed = store.claim(job_id, "a worker")
    assert claimed is not None
    store.start(job_id, claimed.attempt)


def complete(store: JobStore, job_id: str) -> None:
    begin(store, job_id)
    store.complete(job_id, store.get(job_id).attempt, [OUTPUT], Timings())


def test_a_list_is_newest_first_and_continues_on_the_next_page(client: httpx.Client) -> None:
    made = [client.post("/generate").json()["id"] for _ in range(5)]
    seen, after = [], None
    for size, more in ((2, True), (2, True), (1, False)):
        page = client.get("/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        assert (len(page["data"]), page["has_more"], page["next"] is not None) == (size, more, more)
        seen += [job["id"] for job in page["data"]]
        after = page["next"]
    assert seen == made[::-1]


def test_a_list_shows_whole_jobs(client: httpx.Client) -> None:
    url = client.post("/v2a", files={"file": ("a.mp4", media.video())}).headers["location"]
    assert client.get("/jobs").json()["data"] == [client.get(url).json()]


def test_new_jobs_do_not_move_the_pages(client: httpx.Client) -> None:
    old = [client.post("/generate").json()["id"] for _ in range(3)]
    first = client.get("/jobs", params={"limit": 1}).json()
    client.post("/generate")
    rest = client.get("/jobs", params={"after": first["next"]}).json()
    assert [job["id"] for job in first["data"] + rest["data"]] == old[::-1]


def test_a_list_is_filtered_by_status_and_kind(client: httpx.Client, store: JobStore) -> None:
    jobs = {kind: a_job(kind) for kind in ("generate", "v2a", "a2v")}
    for job in jobs.values():
        store.create(job)
    begin(store, jobs["v2a"].id)
    begin(store, jobs["a2v"].id)
    store.fail(jobs["a2v"].id, 1, JobError("out_of_memory", "too large", True, 1))

    def listed(**filters: str) -> list[str]:
        return [job["kind"] for job in client.get("/jobs", params=filters).json()["data"]]

    assert listed(status="queued") == ["generate"]
    assert listed(status="in_progress") == ["v2a"]
    assert listed(status="failed") == ["a2v"]
    assert listed(status="canceled") == []
    assert listed(kind="v2a") == ["v2a"]
    assert listed(kind="v2a", status="failed") == []
    assert listed() == ["a2v", "v2a", "generate"]


@pytest.mark.parametrize(
    "query", [{"status": "done"}, {"kind": "x"}, {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"after": "x"}]
)
def test_an_invalid_filter_is_named(client: httpx.Client, query: dict[str, str]) -> None:
    errors = problem(client.get("/jobs", params=query), 422, "invalid_parameter")["errors"]
    assert [(error["field"], error["got"]) for error in errors] == list(query.items())


def test_a_queued_job_is_canceled_at_once(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate").json()
    answer = client.post(job["urls"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert answer.json()["cancel_requested_at"] is not None
    assert store.claim(job["id"], "a worker") is None, "no worker can claim it"
    assert client.get(job["urls"]["self"]).json()["status"] == "canceled"


def test_a_running_job_is_asked_to_stop(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate").json()
    begin(store, job["id"])
    for _ in range(2):  # idempotent
        answer = client.post(job["urls"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "in_progress")
        assert answer.json()["cancel_requested_at"] is not None
    assert store.renew(job["id"], 1) is True
    store.cancelled(job["id"], 1)
    assert client.get(job["urls"]["self"]).json()["status"] == "canceled"


def test_an_ended_job_cannot_be_canceled(client: httpx.Client, store: JobStore) -> None:
    completed, failed, canceled = (client.post("/generate").json() for _ in range(3))
    complete(store, completed["id"])
    begin(store, failed["id"])
    store.fail(failed["id"], 1, JobError("x", "x", False, 1))
    client.post(canceled["urls"]["cancel"])
    for job in (completed, failed, canceled):
        problem(client.post(job["urls"]["cancel"]), 409, "already_ended")


def test_a_canceled_job_has_no_result(client: httpx.Client) -> None:
    job = client.post("/generate").json()
    client.post(job["urls"]["cancel"])
    problem(client.get(f"{job['urls']['self']}/files/video.mp4"), 409, "job_canceled")


@pytest.mark.parametrize("state", ["queued", "in_progress", "completed", "canceled"])
def test_deleting_a_job_erases_all_of_it(client: httpx.Client, store: JobStore, settings: Settings, state: str) -> None:
    job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
    url = job["urls"]["self"]
    if state == "in_progress":
        begin(store, job["id"])
    elif state == "completed":
        complete(store, job["id"])
        open_storage(settings).put_bytes(f"jobs/{job['id']}/attempt-1/video.mp4", b"x", "video/mp4")
    elif state == "canceled":
        client.post(job["urls"]["cancel"])
    for _ in range(3):
        answer = client.delete(url)
        assert (answer.status_code, answer.content) == (204, b"")
    problem(client.get(url), 410, "gone")
    problem(client.get(f"{url}/files/input.mp4"), 410, "gone")
    problem(client.post(f"{url}/cancel"), 410, "gone")
    problem(client.post(f"{url}/retry"), 410, "gone")
    assert client.get("/jobs").json()["data"] == []
    if state != "in_progress":  # otherwise its worker may still write, and the sweep erases the files later
        assert files_in(settings.data) == []


def test_the_worker_of_a_deleted_job_is_fenced_off(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate").json()
    begin(store, job["id"])
    client.delete(job["urls"]["self"])
    with pytest.raises(LookupError):
        store.complete(job["id"], 1, [OUTPUT], Timings())
    assert store.page() == ([], None)


def test_an_unknown_job_cannot_be_deleted(client: httpx.Client) -> None:
    problem(client.delete("/jobs/job_00000000000000000000000000"), 404, "unknown_job")


def test_a_retry_is_a_new_job_with_the_same_input_and_parameters(
    client: httpx.Client, store: JobStore, settings: Settings
) -> None:
    clip = media.video()
    form = {"seed": "5", "metadata": '{"a": "b"}', "priority": "high"}
    first = client.post("/v2a", files={"file": ("a.mp4", clip)}, data=form).json()
    begin(store, first["id"])
    store.fail(first["id"], 1, JobError("worker_died", "x", False, 1))
    answer = client.post(first["urls"]["retry"])
    second = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == second["urls"]["self"]
    assert second["id"] != first["id"]
    assert (second["retried_from"], second["status"], second["attempt"]) == (first["id"], "queued", 0)
    for same in ("kind", "model", "params", "input", "metadata"):
        assert second[same] == first[same]
    with reading(settings) as messages:
        assert [messages.get(timeout=5).payload[0][0] for _ in range(2)] == [first["id"], second["id"]]
    client.delete(first["urls"]["self"])
    assert client.get(second["urls"]["input"]).content == clip, "each job has its own copy of the upload"


def test_a_job_without_upload_is_retried_with_its_seed(client: httpx.Client) -> None:
    first = client.post("/generate").json()
    assert client.post(first["urls"]["retry"]).json()["params"] == first["params"]


def test_a_retry_without_the_upload_is_refused(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    job = client.post("/a2v", files={"file": ("a.wav", media.sound())}).json()
    open_storage(settings).delete_prefix(f"jobs/{job['id']}/")
    problem(client.post(job["urls"]["retry"]), 410, "upload_gone")
    assert len(store.page()[0]) == 1


def test_prefer_wait_returns_the_ended_job(client: httpx.Client, store: JobStore) -> None:
    def work() -> None:
        while not (waiting := store.page(Status.QUEUED)[0]):
            time.sleep(0.01)
        complete(store, waiting[0].id)

    worker = threading.Thread(target=work)
    worker.start()
    answer = client.post("/generate", headers={"Prefer": "respond-async, wait=20"})
    worker.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in answer.headers
    assert answer.headers["location"] == answer.json()["urls"]["self"]


@pytest.mark.parametrize("route", ["/generate", "/v2a", "/a2v"])
def test_a_job_that_exceeds_the_wait_is_answered_with_202(client: httpx.Client, route: str) -> None:
    upload = {"/v2a": media.video, "/a2v": media.sound}.get(route)
    files = {"file": ("a", upload())} if upload else None
    began = time.monotonic()
    answer = client.post(route, files=files, headers={"Prefer": "wait=1"})
    assert time.monotonic() - began >= 1
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"


def test_a_wait_is_bounded_by_the_setting(run_api: Callable[[Settings], RunningApi], settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"max_wait_s": 0.2}))
    answer = httpx.post(f"{api.url}/generate", headers={"Prefer": "wait=9999"}, trust_env=False, timeout=10)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.2")


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=-1", "wait=soon", "return=minimal", ""])
def test_other_preferences_are_ignored(client: httpx.Client, prefer: str) -> None:
    answer = client.post("/generate", headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


def test_an_outage_of_redis_during_a_wait_returns_the_accepted_job(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = Settings(redis_url=own_redis.url, data=tmp_path / "data")
    api = run_api(settings)
    answers: list[httpx.Response] = []

    def submit() -> None:
        wait = {"Prefer": "wait=30"}
        answers.append(httpx.post(f"{api.url}/generate", headers=wait, trust_env=False, timeout=60))

    client = threading.Thread(target=submit)
    client.start()
    with reading(settings) as messages:
        job_id = messages.get(timeout=20).payload[0][0]
    own_redis.stop()
    client.join()
    assert answers[0].status_code == 202, answers[0].text
    assert answers[0].json()["id"] == job_id
