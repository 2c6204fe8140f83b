"""The official client of OpenAI, pointed at Duet."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from service.jobs.record import JobError, Status
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RunningApi
from tests.demo_model import LARGE_SIZE, SMALL_SIZE
from tests.service import media
from tests.service.completed import complete, completing
from tests.service.keys import KEYS, client_of, with_keys
from tests.tiny_model import add_tiny_model

RunApi = Callable[[Settings], RunningApi]
FILES = {"video.mp4": b"a video of some bytes", "poster.webp": b"a frame"}

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@contextmanager
def client_with(api: RunningApi, key: str, max_retries: int = 0) -> Iterator[openai.OpenAI]:
    """The client. Unless told otherwise it reports errors at once instead of repeating the request."""
    with openai.DefaultHttpxClient(trust_env=False) as http:
        yield openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=max_retries, http_client=http)


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return with_keys(settings, max_queued_per_key=3)


@pytest.fixture
def api(run_api: RunApi, keyed: Settings) -> RunningApi:
    return run_api(keyed)


@pytest.fixture
def alice(api: RunningApi) -> Iterator[openai.OpenAI]:
    with client_with(api, KEYS["alice"]) as client:
        yield client


def test_a_video_is_created_polled_downloaded_listed_and_deleted(
    alice: openai.OpenAI, api: RunningApi, store: JobStore, keyed: Settings
) -> None:
    with completing(store, keyed, FILES):
        video = alice.videos.create_and_poll(
            prompt="",
            model="demo",
            seconds="3.2",  # type: ignore[arg-type]
            size=SMALL_SIZE,  # type: ignore[arg-type]
            extra_body={"seed": 7, "num_inference_steps": 4, "user": "me", "extra_params": '{"quality": "fast"}'},
            poll_interval_ms=20,
        )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.model, video.seconds, video.size, video.object) == ("demo", "3.2", SMALL_SIZE, "video")
    assert video.id.startswith("video_")
    assert video.created_at <= (video.completed_at or 0) <= (video.expires_at or 0)
    assert alice.videos.download_content(video.id).read() == FILES["video.mp4"]
    assert alice.videos.download_content(video.id, variant="thumbnail").read() == FILES["poster.webp"]
    assert [each.id for each in alice.videos.list()] == [video.id]

    with client_of(api, "alice") as http:
        (job,) = http.get("/jobs").json()["data"]
    assert job["id"] == video.id.replace("video_", "job_")
    assert (job["kind"], job["metadata"]) == ("generate", {"user": "me"})
    assert job["params"].items() >= {"seed": 7, "steps": 4, "quality": "fast", "duration": 3.2}.items()
    assert job["params"]["super_resolution"] is False

    assert alice.videos.delete(video.id).model_dump() == {
        "id": video.id,
        "deleted": True,
        "object": "video.deleted",
    }
    with client_of(api, "alice") as http:
        assert http.get("/jobs").json()["data"] == []
    with pytest.raises(openai.NotFoundError, match=f"{video.id} has expired or was deleted"):
        alice.videos.retrieve(video.id)


@pytest.mark.parametrize(
    ("name", "upload", "kind", "size"),
    [("a.mp4", media.video, "v2a", "64x48"), ("a.wav", media.sound, "a2v", LARGE_SIZE)],
)
def test_a_video_gets_a_sound_and_a_sound_gets_a_video(
    alice: openai.OpenAI, api: RunningApi, name: str, upload: Callable[[], bytes], kind: str, size: str
) -> None:
    video = alice.videos.create(prompt="", input_reference=(name, io.BytesIO(upload())))
    assert (video.status, video.size, float(video.seconds)) == ("queued", size, pytest.approx(2.0, abs=0.11))
    with client_of(api, "alice") as http:
        (job,) = http.get("/jobs").json()["data"]
    assert (job["kind"], job["input"]["filename"]) == (kind, name)


def test_an_upload_is_edited(alice: openai.OpenAI, api: RunningApi) -> None:
    extend = '{"extend": {"after": 1}}'
    video = alice.videos.create(
        prompt="", input_reference=("a.mp4", media.video(sound=True)), extra_body={"extra_params": extend}
    )
    assert (video.size, float(video.seconds)) == ("64x48", pytest.approx(3.0, abs=0.11))
    with client_of(api, "alice") as http:
        (job,) = http.get("/jobs").json()["data"]
    assert (job["kind"], job["params"]["extend"]) == ("edit", {"after": 1.0})


def test_lists_continue_on_the_next_page_in_both_orders(alice: openai.OpenAI) -> None:
    made = [alice.videos.create(prompt="").id for _ in range(3)]
    assert [each.id for each in alice.videos.list(limit=1)] == made[::-1]
    assert [each.id for each in alice.videos.list(limit=2, order="asc")] == made
    page = alice.videos.list(after=made[1])
    assert ([each.id for each in page.data], page.has_more, page.last_id) == (made[:1], False, made[0])


def test_a_repeated_request_with_an_idempotency_key_returns_the_same_video(alice: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "one"}
    first, again = (alice.videos.create(prompt="", extra_headers=headers) for _ in range(2))
    assert first.id == again.id
    with pytest.raises(openai.BadRequestError) as refused:
        alice.videos.create(prompt="", seconds="4", extra_headers=headers)
    assert refused.value.code == "idempotency_key_reused"


def test_a_prompt_for_a_model_without_words_is_a_bad_request(run_api: RunApi, keyed: Settings, tmp_path: Path) -> None:
    api = run_api(keyed.model_copy(update={"models": add_tiny_model(tmp_path / "models")}))
    with client_with(api, KEYS["alice"]) as client, pytest.raises(openai.BadRequestError) as bad:
        client.videos.create(prompt="rain", model="tiny")
    assert (bad.value.param, bad.value.code, bad.value.type) == ("prompt", "invalid_parameter", "invalid_request_error")
    assert "the model tiny knows no words. Send an empty prompt." in bad.value.message


def test_errors_are_the_clients_exceptions_with_our_messages(alice: openai.OpenAI, api: RunningApi) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        alice.videos.create(prompt="x" * 301)
    assert (bad.value.param, bad.value.code, bad.value.type) == ("prompt", "invalid_parameter", "invalid_request_error")
    assert "at most 300 characters" in bad.value.message
    assert bad.value.request_id

    with pytest.raises(openai.BadRequestError, match="one of demo") as bad:
        alice.videos.create(prompt="", model="sora-2")
    assert (bad.value.param, bad.value.code) == ("model", "unknown_model")

    with pytest.raises(openai.BadRequestError, match="the file is a picture") as bad:
        alice.videos.create(prompt="", input_reference=("a.png", media.png()))
    assert (bad.value.param, bad.value.code) == ("input_reference", "unsupported_media")

    with pytest.raises(openai.BadRequestError) as bad:
        alice.videos.download_content("video_01M83RX3VC8P4W7YY66EW4G7A8", variant="spritesheet")
    assert bad.value.param == "variant"

    with pytest.raises(openai.NotFoundError, match="There is no video video_01M83RX3VC8P4W7YY66EW4G7A8") as unknown:
        alice.videos.retrieve("video_01M83RX3VC8P4W7YY66EW4G7A8")
    assert (unknown.value.code, unknown.value.type) == ("unknown_job", "invalid_request_error")

    queued = [alice.videos.create(prompt="").id for _ in range(3)]
    with pytest.raises(openai.NotFoundError, match="not there yet: the video is queued") as early:
        alice.videos.download_content(queued[0])
    assert early.value.code == "not_ready"
    with pytest.raises(openai.RateLimitError, match="already has 3 queued jobs") as full:
        alice.videos.create(prompt="")
    assert (full.value.code, full.value.type) == ("too_many_queued", "rate_limit_error")
    assert full.value.response.headers["retry-after"] == "10"

    with client_with(api, KEYS["bob"]) as bob, pytest.raises(openai.NotFoundError):
        bob.videos.retrieve(queued[0])
    with client_with(api, "sk-wrong") as stranger, pytest.raises(openai.AuthenticationError) as wrong:
        stranger.videos.list()
    assert (wrong.value.code, wrong.value.type) == ("unauthorized", "authentication_error")


def test_jobs_that_fail_or_are_canceled_are_failed_videos(
    alice: openai.OpenAI, api: RunningApi, store: JobStore, keyed: Settings
) -> None:
    canceled = alice.videos.create(prompt="")
    with client_of(api, "alice") as http:
        http.post(f"/jobs/{canceled.id.replace('video_', 'job_')}/cancel")
    video = alice.videos.poll(canceled.id)
    assert (video.status, video.error and video.error.code) == ("failed", "canceled")
    with pytest.raises(openai.NotFoundError, match="The video is canceled"):
        alice.videos.download_content(video.id)


def test_every_job_is_a_video(alice: openai.OpenAI, api: RunningApi, store: JobStore, keyed: Settings) -> None:
    with client_of(api, "alice") as http:
        job = http.post("/generate", json={"num_outputs": 2}).json()["id"]
    complete(store, keyed, job, FILES)
    (video,) = alice.videos.list()
    assert video.id == job.replace("job_", "video_")
    assert alice.videos.download_content(video.id).read() == FILES["video.mp4"]


@pytest.mark.parametrize("end", ["fail", "cancel", "time out"])
def test_a_video_that_is_not_completed_in_the_synchronous_form_is_not_made_again(
    run_api: RunApi, keyed: Settings, store: JobStore, end: str
) -> None:
    def work(stopped: threading.Event) -> None:
        while not stopped.wait(0.02):
            for job in store.page(Status.QUEUED)[0]:
                if end == "cancel":
                    store.request_cancel(job.id)
                else:
                    store.claim(job.id, "a worker")
                    store.start(job.id, 1)
                    store.fail(job.id, 1, JobError("out_of_memory", "the reason", True, 1))

    api = run_api(keyed.model_copy(update={"max_sync_s": 0.0 if end == "time out" else 60.0}))
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool, client_with(api, KEYS["alice"], openai.DEFAULT_MAX_RETRIES) as client:
        if end != "time out":
            pool.submit(work, stopped)
        try:
            with pytest.raises(openai.APIStatusError) as refused:
                client.post("/videos/sync", body={"prompt": ""}, cast_to=object)
        finally:
            stopped.set()
        (video,) = client.videos.list()
    assert refused.value.status_code == {"fail": 500, "cancel": 400, "time out": 504}[end]
    assert refused.value.response.headers["location"] == f"/v1/videos/{video.id}"
