from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest

from service.api.files import byte_range
from service.api.problems import Problem
from service.jobs.record import JobError, Output, Timings
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import Storage, open_storage
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.service.new_jobs import a_job
from tests.service.storage.test_storage import s3_settings

CLIP = random.Random(1).randbytes(700_001)


NUMBER = "9" * 5000
"""More digits than Python converts to an integer."""

HUGE = (f"bytes={NUMBER}-", f"bytes=-{NUMBER}", f"bytes=0-{NUMBER}")


@dataclass
class Made:
    """A completed job with two outputs, and the URL of its files."""

    url: str
    job: str
    storage: Storage


def completed_job(store: JobStore, storage: Storage) -> str:
    """Record and files of a job, as a worker leaves them; the job's id."""
    job = a_job()
    store.create(job)
    claimed = store.claim(job.id, "a worker")
    assert claimed is not None
    store.start(job.id, 1)
    outputs = []
    for index, data in enumerate((CLIP, b"the second clip")):
        files = {"video.mp4": data, "audio.wav": b"RIFF", "poster.webp": b"RIFF", "spectrogram.png": CLIP[:2000]}
        files["manifest.json"] = b"{}"
        keys = {name: claimed.attempt_key(f"{index}-{name}") for name in files}
        for name, content in files.items():
            storage.put_bytes(keys[name], content, "application/octet-stream")
        outputs.append(Output(index, 42, keys))
    store.complete(job.id, 1, outputs, Timings())
    return job.id


@pytest.fixture(params=["folder", "s3"])
def made(
    request: pytest.FixtureRequest,
    run_api: Callable[[Settings], RunningApi],
    settings: Settings,
    store: JobStore,
    s3_endpoint: str,
) -> Made:
    if request.param == "s3":
        s3 = s3_settings(s3_endpoint)
        names = ("storage", "s3_endpoint", "s3_access_key", "s3_secret_key")
        settings = settings.model_copy(update={name: getattr(s3, name) for name in names})
    storage = open_storage(settings)
    job = completed_job(store, storage)
    return Made(f"{run_api(settings).url}/jobs/{job}/files", job, storage)


def get(url: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(url, headers=named, trust_env=False)


def test_a_file_is_served_with_its_media_type(made: Made) -> None:
    answer = get(f"{made.url}/video.mp4")
    assert (answer.status_code, answer.content) == (200, CLIP)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(CLIP))
    assert answer.headers["accept-ranges"] == "bytes"
    assert get(f"{made.url}/audio.wav").headers["content-type"] == "audio/wav"
    assert get(f"{made.url}/manifest.json").headers["content-type"] == "application/json"
    assert get(f"{made.url}/poster.webp").headers["content-type"] == "image/webp"
    assert get(f"{made.url}/spectrogram.png").headers["content-type"] == "image/png"


def test_further_outputs_have_a_number_before_the_dot(made: Made) -> None:
    job = get(made.url.removesuffix("/files")).json()
    assert job["outputs"][0]["files"]["video.mp4"] == f"/jobs/{made.job}/files/video.mp4"
    assert job["outputs"][1]["files"]["video.mp4"] == f"/jobs/{made.job}/files/video-1.mp4"
    assert get(f"{made.url}/video-1.mp4").content == b"the second clip"
    problem(get(f"{made.url}/video-2.mp4"), 404, "unknown_file")
    problem(get(f"{made.url}/video-0.mp4"), 404, "unknown_file")
    assert job["outputs"][1]["files"]["poster.webp"].endswith("/poster-1.webp")
    assert get(f"{made.url}/spectrogram-1.png", Range="bytes=5-9").content == CLIP[5:10]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 700_001),
        ("bytes=100-199", 100, 200),
        ("bytes=700000-", 700_000, 700_001),
        ("bytes=699999-9999999", 699_999, 700_001),
        ("bytes=-5", 699_996, 700_001),
        ("bytes=-9999999", 0, 700_001),
    ],
)
def test_a_range_request_returns_that_part(made: Made, asked: str, start: int, stop: int) -> None:
    answer = get(f"{made.url}/video.mp4", Range=asked)
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/700001"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.content == CLIP[start:stop]


@pytest.mark.parametrize("asked", ["bytes=700001-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(made: Made, asked: str) -> None:
    answer = get(f"{made.url}/video.mp4", Range=asked)
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */700001"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "frames=0-1", "bytes=a-b", "bytes=0-1,5-6", "0-1", *HUGE])
def test_an_invalid_range_is_ignored(made: Made, asked: str) -> None:
    answer = get(f"{made.url}/video.mp4", Range=asked)
    assert (answer.status_code, len(answer.content)) == (200, len(CLIP))


def test_an_unchanged_file_is_not_sent_again(made: Made) -> None:
    etag = get(f"{made.url}/video.mp4").headers["etag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = get(f"{made.url}/video.mp4", If_None_Match=known)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert get(f"{made.url}/video.mp4", If_None_Match='"other"').status_code == 200


def test_a_range_of_another_version_is_not_mixed_with_this_one(made: Made) -> None:
    etag = get(f"{made.url}/video.mp4").headers["etag"]
    assert get(f"{made.url}/video.mp4", Range="bytes=0-9", If_Range=etag).status_code == 206
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert get(f"{made.url}/video.mp4", Range="bytes=0-9", If_Range=other).status_code == 200


def test_head_describes_the_whole_file(made: Made) -> None:
    head = httpx.head(f"{made.url}/video.mp4", headers={"Range": "bytes=0-9"}, trust_env=False)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(CLIP))
    assert head.headers["etag"] == get(f"{made.url}/video.mp4").headers["etag"]


def test_a_file_that_storage_lost_is_gone(made: Made) -> None:
    made.storage.delete_prefix(f"jobs/{made.job}/")
    problem(get(f"{made.url}/video.mp4"), 410, "gone")


def test_a_running_job_has_no_files_yet(client: httpx.Client, store: JobStore) -> None:
    job = a_job()
    store.create(job)
    for name in ("video.mp4", "audio.wav", "poster.webp", "spectrogram.png", "manifest.json"):
        problem(client.get(f"/jobs/{job.id}/files/{name}"), 409, "not_ready")
    for name in ("video-1.mp4", "input.mp4", "nothing", "..%2f..%2fetc%2fpasswd", "%00"):
        assert client.get(f"/jobs/{job.id}/files/{name}").status_code == 404


def test_a_failed_job_has_no_files(client: httpx.Client, store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "a worker")
    store.fail(job.id, 1, JobError("out_of_memory", "too large", True, 1))
    problem(client.get(f"/jobs/{job.id}/files/video.mp4"), 409, "job_failed")


def test_an_upload_cannot_act_as_a_page_of_the_service(client: httpx.Client) -> None:
    job = client.post("/v2a", files={"file": ("page.html", media.video())}).json()
    answer = client.get(f"{job['urls']['self']}/files/input.mp4")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_no_range_of_an_empty_file_can_be_satisfied() -> None:
    assert byte_range(None, 0) is None
    for asked in ("bytes=0-", "bytes=-1"):
        with pytest.raises(Problem):
            byte_range(asked, 0)
