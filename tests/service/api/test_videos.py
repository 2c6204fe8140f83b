"""`/v1/videos` by plain HTTP: every field, the kinds of body, files in part, and the synchronous form."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs.record import JobError, Status
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RunningApi
from tests.demo_model import CLIP, LARGE_SIZE, SMALL, SMALL_SIZE
from tests.service import media
from tests.service.completed import complete, completing
from tests.service.keys import client_of, with_keys
from tests.tiny_model import add_tiny_model, add_words_model
from tests.waiting import until

RunApi = Callable[[Settings], RunningApi]
VIDEO = {"video.mp4": b"a video of some bytes"}
SIDES = {"width": str(SMALL[0]), "height": str(SMALL[1])}

REFUSED_FIELDS: list[tuple[dict[str, str], str | None, str]] = [
    ({"seconds": "soon"}, "seconds", "a number 0.1 … 600"),
    ({"seconds": "0"}, "seconds", "a number 0.1 … 600"),
    ({"seconds": "nan"}, "seconds", "a number 0.1 … 600"),
    ({"seconds": "61"}, "seconds", "seconds must be at most 60 s here; got 61"),
    ({"size": "huge"}, "size", "width and height in pixels"),
    ({"size": "1280x720"}, "size", f"one of {SMALL_SIZE}, {LARGE_SIZE} for the model demo"),
    ({"width": "16"}, "width", "given together with height"),
    ({**SIDES, "height": str(SMALL[1] + 1)}, "width", f"one of {SMALL_SIZE}"),
    ({**SIDES, "size": SMALL_SIZE}, "width", "left out with size"),
    ({"num_frames": "0"}, "num_frames", "an integer 1 … 600000"),
    ({"num_frames": "16", "seconds": "1"}, "num_frames", "left out with seconds"),
    ({"num_frames": "6000"}, "num_frames", "must be at most 60 s here"),
    ({"fps": "24"}, "fps", "10, the rate of the model demo"),
    ({"seed": "-1"}, "seed", "an integer 0 …"),
    ({"seed": "x"}, "seed", "an integer 0 …"),
    ({"model": "sora-2"}, "model", "one of demo"),
    ({"prompt": "x" * 301}, "prompt", "at most 300 characters"),
    ({"guidance_scale": "-2"}, "guidance_scale", "a number 0 …"),
    ({"num_inference_steps": "0"}, "num_inference_steps", "an integer 1 … 1000"),
    ({"generate_sound": "false"}, "generate_sound", "no video without sound"),
    ({"user": "x" * 513}, "user", "at most 512 characters"),
    ({"extra_params": "{"}, None, "The field extra_params is not JSON"),
    ({"extra_params": "[]"}, "extra_params", "a JSON object"),
    ({"extra_params": '{"steps": 0}'}, "steps", "an integer 1 … 1000"),
    ({"extra_params": '{"x": 1}'}, "x", "only prompt"),
    ({"extra_params": '{"seed": 1}', "seed": "1"}, "seed", "given only once, here or as extra_params.seed"),
    ({"extra_params": '{"duration": 3}', "seconds": "3"}, "seconds", "only once, here or as extra_params.duration"),
    ({"extra_params": '{"duration": 3}', "num_frames": "30"}, "num_frames", "here or as extra_params.duration"),
    (
        {"extra_params": '{"super_resolution": true}', **SIDES},
        "width",
        "here or as extra_params.super_resolution",
    ),
    ({"extra_params": '{"metadata": {}}', "user": "me"}, "user", "here or as extra_params.metadata"),
    ({"extra_params": '{"model": "demo"}'}, "extra_params.model", "the model is given by the field `model`"),
    ({"extra_params": '{"extend": {"after": 1}}'}, "input_reference", "the video to edit"),
    ({"extra_params[steps]": "2"}, "extra_params", "a JSON object"),
    ({"input_reference": "a.mp4"}, "input_reference", "uploaded file"),
    ({"input_reference[image_url]": "https://example.com"}, "input_reference", "not fetched"),
    (
        {"image_reference": '{"image_url": "x"}'},
        "image_reference",
        "no model of this service begins with a picture",
    ),
    ({"audio_reference": '{"audio_url": "x"}'}, "audio_reference", "upload the sound as `input_reference`"),
    ({"flow_shift": "5"}, "flow_shift", "only prompt, model, seconds"),
]
"""Fields, the one at fault, and words of the message."""

REFUSED_WITHOUT_WORDS = [
    ({"prompt": "rain"}, "prompt", "the model tiny knows no words. Send an empty prompt"),
    ({"negative_prompt": "rain"}, "negative_prompt", "knows no words"),
    ({"guidance_scale": "2"}, "guidance_scale", "knows no words"),
]
"""The same, of a model that takes no prompts."""

REFUSED_JSON: list[tuple[str, str | None]] = [
    ("[]", None),
    ("{", None),
    ('{"prompt": 5}', "prompt"),
    ('{"seconds": true}', "seconds"),
    ('{"seconds": []}', "seconds"),
    ('{"seed": "5"}', "seed"),
    ('{"size": 5}', "size"),
    ('{"user": {}}', "user"),
    ('{"extra_params": "{}"}', "extra_params"),
    ('{"extra_params": {"model": "demo"}, "num_frames": 16}', "extra_params.model"),
    ('{"input_reference": {"image_url": "data:,"}}', "input_reference"),
    ('{"seed": "\\ud800"}', "seed"),
    ("[" * 100_000, None),
]
"""Body, and the field at fault."""

REFUSED_UPLOADS: list[tuple[str, Callable[[], bytes], dict[str, str], str]] = [
    ("a.png", media.png, {}, "input_reference"),
    ("a.mp4", lambda: b"", {}, "input_reference"),
    ("a.mp4", media.video, {"size": "64x48"}, "size"),
    ("a.mp4", media.video, {"fps": "10"}, "fps"),
    ("a.mp4", media.video, {"seconds": "9"}, "seconds"),
    ("a.wav", media.sound, {"size": "64x48"}, "size"),
    ("a.wav", media.sound, {"extra_params": '{"mix": "under"}'}, "mix"),
    ("a.wav", media.sound, {"extra_params": '{"extend": {"after": 1}}'}, "input_reference"),
    ("a.mp4", media.video, {"extra_params": '{"extend": {}}'}, "extend"),
    ("a.mp4", media.video, {"extra_params": '{"start": 9}'}, "start"),
    ("a.mp4", media.video, {"extra_params": '{"start": "x"}'}, "start"),
]
"""File, its contents, further fields, and the field at fault."""


def refused(answer: httpx.Response, param: str | None, status: int = 400) -> str:
    """The message of an error in the dialect's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    return str(error["message"])


@pytest.fixture
def words(run_api: RunApi, settings: Settings, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of an API with the models `words`, which takes prompts, and `tiny`, which takes none."""
    api = run_api(
        settings.model_copy(update={"models": add_words_model(tmp_path / "models"), "default_model": "words"})
    )
    with httpx.Client(base_url=api.url, timeout=60, trust_env=False) as client:
        yield client


def params(client: httpx.Client) -> dict[str, Any]:
    """The parameters of the newest job."""
    found: dict[str, Any] = client.get("/jobs").json()["data"][0]["params"]
    return found


def test_the_three_kinds_of_body_ask_for_the_same(words: httpx.Client) -> None:
    clip = words.get("/models").json()["data"][0]["clip"]
    fields = {"prompt": " heavy rain ", "seconds": str(clip["duration"]), "seed": 5, "negative_prompt": "wind"}
    fields |= {"guidance_scale": 3, "num_inference_steps": 2, "generate_sound": True}
    extra = {"quality": "fast", "metadata": {"a": "b"}}
    form = {name: str(value) for name, value in fields.items()} | {"extra_params": json.dumps(extra)}
    bodies: list[dict[str, Any]] = [
        {"json": {**fields, "extra_params": extra, "model": None}},
        {"data": form},
        {"files": {name: (None, value) for name, value in form.items()}},
    ]
    shown = []
    for body in bodies:
        answer = words.post("/v1/videos", **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["location"] == f"/v1/videos/{answer.json()['id']}"
        assert (answer.json()["prompt"], answer.json()["seed"]) == ("heavy rain", 5)
        shown.append(params(words))
    assert shown[0] == shown[1] == shown[2]
    wanted = {"prompt": "heavy rain", "negative_prompt": "wind", "prompt_scale": 3.0, "steps": 2, "quality": "fast"}
    assert shown[0].items() >= wanted.items()


def test_without_a_body_the_defaults_hold(client: httpx.Client) -> None:
    video = client.post("/v1/videos").json()
    assert (video["status"], video["seconds"], video["size"], video["prompt"]) == ("queued", "1.6", LARGE_SIZE, None)
    assert client.get(f"/v1/videos/{video['id']}").json() == video


def test_width_height_frames_and_rate_stand_for_size_and_seconds(client: httpx.Client) -> None:
    fields = {**SIDES, "num_frames": 2 * CLIP.frames, "fps": CLIP.fps}
    video = client.post("/v1/videos", data=fields).json()
    assert (video["size"], video["seconds"]) == (SMALL_SIZE, f"{2 * CLIP.duration:g}")


def test_an_invalid_field_is_refused_by_name(client: httpx.Client) -> None:
    for fields, param, words in REFUSED_FIELDS:
        assert words in refused(client.post("/v1/videos", data=fields), param)
    assert client.get("/jobs").json()["data"] == []


def test_words_for_a_model_that_knows_none_are_refused_by_name(words: httpx.Client) -> None:
    for fields, param, message in REFUSED_WITHOUT_WORDS:
        assert message in refused(words.post("/v1/videos", data={**fields, "model": "tiny"}), param)
    assert words.get("/jobs").json()["data"] == []


def test_invalid_json_is_refused(client: httpx.Client) -> None:
    for body, param in REFUSED_JSON:
        refused(client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"}), param)


def test_what_an_upload_does_not_allow_is_refused(client: httpx.Client) -> None:
    for name, upload, fields, param in REFUSED_UPLOADS:
        refused(client.post("/v1/videos", files={"input_reference": (name, upload())}, data=fields), param)
    assert client.get("/jobs").json()["data"] == []


def test_other_errors_have_the_shape_of_the_dialect_on_these_routes_only(client: httpx.Client) -> None:
    refused(client.get("/v1/videos/x/y"), None, 404)
    refused(client.put("/v1/videos"), None, 405)
    refused(client.get("/v1/videos", params={"limit": 0}), "limit")
    refused(client.get("/v1/videos", params={"order": "up"}), "order")
    refused(client.get("/v1/videos", params={"after": "x"}), "after")
    refused(client.post("/v1/videos", content="a", headers={"Content-Type": "text/plain"}), None)
    refused(client.post("/v1/videos", content="seed=1&seed=2", headers={"Content-Type": FORM}), "seed")
    refused(client.post("/v1/videos", content="user=%ff", headers={"Content-Type": FORM}), None)
    refused(client.post("/v1/videos", files={"file": ("a.mp4", b"x")}), "file")
    refused(client.post("/v1/videos", json={"user": "x" * 2**20}), None, 413)
    refused(client.post("/v1/videos", headers={"Origin": "https://elsewhere.example"}), None, 403)
    refused(client.get("/v1/videos", headers={"Host": "elsewhere.example"}), None, 421)
    refused(client.delete("/v1/videos/video_01M83RX3VC8P4W7YY66EW4G7A8"), None, 404)
    refused(client.get("/v1/videos/sync/content"), None, 404)
    for path in ("/v1/videosx", "/v1/jobs/x"):
        assert client.get(path).headers["content-type"] == "application/problem+json"


def test_the_synchronous_form_supports_no_other_method_than_post(client: httpx.Client) -> None:
    for path in ("/videos/sync", "/v1/videos/sync"):
        for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    assert "/videos/{video_id}" in client.get("/openapi.json").json()["paths"]


def test_an_id_of_another_form_is_no_video(client: httpx.Client) -> None:
    job = client.post("/generate").json()["id"]
    for url in (f"/v1/videos/{job}", "/v1/videos/synced", "/v1/videos/x"):
        for answer in (client.get(url), client.get(f"{url}/content"), client.delete(url)):
            assert "the id of a video begins with video_" in refused(answer, None, 404)
    assert client.get(f"/jobs/{job}").json()["status"] == "queued"


FORM = "application/x-www-form-urlencoded"


def test_a_field_that_is_sent_twice_is_named(client: httpx.Client) -> None:
    answer = client.post("/v1/videos", content="seed=1&size=128x128&seed=2", headers={"Content-Type": FORM})
    assert refused(answer, "seed") == "Invalid value: seed. seed: each field once."


def test_content_is_served_in_part(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    url = client.post("/v1/videos").headers["location"]
    complete(store, settings, url.replace("/v1/videos/video_", "job_"), VIDEO)
    whole = client.get(f"{url}/content")
    assert (whole.status_code, whole.content) == (200, VIDEO["video.mp4"])
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("video/mp4", "bytes")
    part = client.get(f"{url}/content", headers={"Range": "bytes=2-6"})
    assert (part.status_code, part.content) == (206, b"video")
    refused(client.get(f"{url}/content", headers={"Range": "bytes=99-"}), None, 416)
    assert client.get(f"{url}/content", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.head(f"{url}/content").headers["content-length"] == whole.headers["content-length"]
    refused(client.get(f"{url}/content", params={"variant": "thumbnail"}), None, 404)


def test_deleting_is_repeatable_and_a_job_may_be_deleted_as_a_video(client: httpx.Client) -> None:
    job = client.post("/generate").json()["id"]
    video = job.replace("job_", "video_")
    for _ in range(2):
        assert client.delete(f"/v1/videos/{video}").json() == {"id": video, "object": "video.deleted", "deleted": True}
    assert client.get(f"/jobs/{job}").status_code == 410


def test_the_synchronous_form_returns_the_file(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    with completing(store, settings, VIDEO):
        answer = client.post(
            "/v1/videos/sync", files={"input_reference": ("a.wav", media.sound())}, headers={"If-None-Match": "*"}
        )
    assert (answer.status_code, answer.content) == (200, VIDEO["video.mp4"])
    headers = answer.headers
    assert (headers["content-type"], headers["x-model"]) == ("video/mp4", "demo")
    assert float(headers["x-inference-time-s"]) >= 0
    assert json.loads(headers["x-stage-durations"])["base"] == 0.5
    video = client.get(f"/v1/videos/{headers['x-video-id']}").json()
    assert (video["status"], video["stage_durations"]["base"]) == ("completed", 0.5)
    refused(client.post("/v1/videos/sync", data={"seconds": "soon"}), "seconds")


def test_the_synchronous_form_reports_failures(client: httpx.Client, store: JobStore) -> None:
    for code, status in (("out_of_memory", 500), ("undecodable_input", 400), ("canceled", 400)):

        def end(code: str = code) -> None:
            (job,) = until(lambda: store.page(Status.QUEUED)[0], "a job is queued")
            if code == "canceled":
                store.request_cancel(job.id)
                return
            store.claim(job.id, "a worker")
            store.start(job.id, 1)
            store.fail(job.id, 1, JobError(code, "the reason", True, 1))

        worker = threading.Thread(target=end)
        worker.start()
        answer = client.post("/v1/videos/sync")
        worker.join()
        message = refused(answer, None, status)
        assert ("was canceled" if code == "canceled" else "failed: the reason") in message
        assert answer.headers["x-should-retry"] == "false"
        assert client.get(answer.headers["location"]).json()["status"] == "failed"


def test_a_name_beyond_ascii_is_percent_encoded_in_a_header(
    run_api: RunApi, settings: Settings, store: JobStore, tmp_path: Path
) -> None:
    models = add_tiny_model(tmp_path / "models")
    manifest = models / "tiny" / "model.json"
    manifest.write_text(manifest.read_text().replace('"tiny"', '"雨 v2"', 1), encoding="utf-8")
    here = settings.model_copy(update={"models": models, "default_model": "雨 v2"})
    with (
        httpx.Client(base_url=run_api(here).url, timeout=60, trust_env=False) as client,
        completing(store, here, VIDEO),
    ):
        answer = client.post("/v1/videos/sync")
    assert (answer.status_code, answer.headers["x-model"]) == (200, "%E9%9B%A8 v2")


def test_a_synchronous_wait_counts_as_an_event_stream_of_its_key(
    run_api: RunApi, settings: Settings, store: JobStore
) -> None:
    keyed = with_keys(settings, max_event_streams_per_key=1)
    api = run_api(keyed)
    with client_of(api, "alice") as alice, ThreadPoolExecutor(1) as pool:
        first = pool.submit(alice.post, "/v1/videos/sync", timeout=60)
        (job,) = until(lambda: store.page(Status.QUEUED)[0], "the first request waits")
        answer = alice.post("/v1/videos/sync")
        assert "This key has 1 event streams and waiting requests open." in refused(answer, None, 429)
        assert answer.headers["retry-after"] == "5"
        assert [each.id for each in store.page()[0]] == [job.id]
        complete(store, keyed, job.id, VIDEO)
        assert first.result().status_code == 200
        with completing(store, keyed, VIDEO):
            assert alice.post("/v1/videos/sync").status_code == 200


def test_a_video_that_takes_too_long_goes_on(run_api: RunApi, settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"max_sync_s": 0.1}))
    with httpx.Client(base_url=api.url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/videos/sync", headers={"Idempotency-Key": "one"})
        assert "takes longer than 0.1 s, and goes on" in refused(answer, None, 504)
        assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)
        assert client.get(answer.headers["location"]).json()["status"] == "queued"
        again = client.post("/v1/videos/sync", headers={"Idempotency-Key": "one"})
        assert again.headers["location"] == answer.headers["location"]


@pytest.mark.parametrize(("key", "status"), [("", "canceled"), ("Idempotency-Key: one\r\n", "queued")])
def test_a_client_that_disconnects_cancels_its_job_unless_it_can_ask_again(
    shared_api: RunningApi, client: httpx.Client, key: str, status: str
) -> None:
    """A socket of its own, because closing it is what the test is about."""
    events = shared_api.app.state.services.events
    with socket.create_connection(("127.0.0.1", shared_api.port)) as connection:
        connection.sendall(f"POST /v1/videos/sync HTTP/1.1\r\nHost: localhost\r\n{key}\r\n".encode())
        until(lambda: client.get("/jobs").json()["data"] and events._count, "the API waits for the job")
    until(lambda: not events._count, "the API has noticed it")
    until(lambda: [each["status"] for each in client.get("/jobs").json()["data"]] == [status], f"it is {status}")
