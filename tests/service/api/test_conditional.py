from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.files import files_in
from tests.service import media
from tests.service.answers import problem


@pytest.fixture(scope="module")
def silent_video() -> bytes:
    return media.video(seconds=3.0)


@pytest.fixture(scope="module")
def tone() -> bytes:
    return media.sound(seconds=3.0)


@pytest.fixture
def nothing_left(settings: Settings, store: JobStore) -> Callable[[], None]:
    """Check that a refused request left neither a job nor a file."""

    def check() -> None:
        assert store.page() == ([], None)
        assert files_in(settings.data) == []

    return check


def test_a_video_is_accepted_for_v2a(client: httpx.Client, silent_video: bytes, settings: Settings) -> None:
    answer = client.post("/v2a", files={"file": ("beach.mp4", silent_video)}, data={"seed": "42", "start": "0.5"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["input"] == {
        "filename": "beach.mp4",
        "bytes": len(silent_video),
        "sha256": hashlib.sha256(silent_video).hexdigest(),
        "duration": 3.0,
        "video": {"width": 64, "height": 48, "fps": 10.0},
        "audio": None,
        "used": {"start": 0.5, "duration": 2.5, "tracks": [0], "notice": None},
    }
    assert (job["params"]["seed"], job["params"]["start"], job["params"]["guidance"]) == (42, 0.5, "clean")
    assert "super_resolution" not in job["params"]
    kept = client.get(f"{answer.headers['location']}/files/input.mp4")
    assert kept.content == silent_video
    assert list(settings.temporary.iterdir()) == []


def test_a_sound_is_accepted_for_a2v(client: httpx.Client, tone: bytes) -> None:
    job = client.post("/a2v", files={"file": ("tone.wav", tone)}).json()
    assert job["kind"] == "a2v"
    assert job["params"]["super_resolution"] is True
    assert job["input"]["audio"] == {"sample_rate": 8000, "channels": 1}
    assert job["input"]["video"] is None


def test_the_sound_of_a_video_is_accepted_for_a2v(client: httpx.Client) -> None:
    clip = media.video(sound=True)
    job = client.post("/a2v", files={"file": ("clip.mov", clip)}).json()
    assert job["input"]["audio"]["sample_rate"] == 16_000
    assert client.get(f"{job['urls']['self']}/files/input.mov").content == clip


def test_the_real_clips_are_accepted(client: httpx.Client, clips: Path) -> None:
    rabbit = client.post("/v2a", files={"file": (clips / "rabbit320.mp4").open("rb")}).json()["input"]
    assert rabbit["filename"] == "rabbit320.mp4"
    assert (rabbit["video"]["width"], rabbit["video"]["height"]) == (320, 240)
    viper = client.post("/a2v", files={"file": (clips / "viper.mp3").open("rb")}).json()["input"]
    assert viper["audio"] == {"sample_rate": 44100, "channels": 2}


def test_parameters_are_separate_fields_or_one(client: httpx.Client, silent_video: bytes) -> None:
    given: dict[str, Any] = {"seed": 7, "sampler": "ddim", "eta": 0.5, "metadata": {"a": "b"}, "priority": "high"}
    fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    file = {"file": ("a.mp4", silent_video)}
    one = client.post("/v2a", files=file, data={"params": json.dumps(given)}).json()
    many = client.post("/v2a", files=file, data=fields).json()
    assert one["params"] == many["params"]
    assert (one["params"]["eta"], one["metadata"], one["params"]["priority"]) == (0.5, {"a": "b"}, "high")
    assert many["metadata"] == {"a": "b"}


def test_fields_may_follow_the_file(client: httpx.Client, silent_video: bytes) -> None:
    parts: list[tuple[str, tuple[str | None, bytes]]] = [("file", ("a.mp4", silent_video)), ("seed", (None, b"9"))]
    assert client.post("/v2a", files=parts).json()["params"]["seed"] == 9


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"seed": "x"}, "seed"),
        ({"seed": ""}, "seed"),
        ({"steps": "0"}, "steps"),
        ({"super_resolution": "true"}, "super_resolution"),
        ({"sr_steps": "8"}, "sr_steps"),
        ({"guidance": "hope"}, "guidance"),
        ({"start": "-1"}, "start"),
        ({"start": "nan"}, "start"),
        ({"start": "inf"}, "start"),
        ({"start": "99"}, "start"),
        ({"metadata": "[]"}, "metadata"),
        ({"metadata": '{"a": 1}'}, "metadata"),
        ({"metadata": '{"a": {"b": "c"}}'}, "metadata"),
        ({"metadata": '{"": "c"}'}, "metadata"),
        ({"unknown": "1"}, "unknown"),
        ({"params": '{"steps": "20"}'}, "steps"),
        ({"params": "{}", "seed": "1"}, "params"),
    ],
)
def test_an_invalid_field_is_named(
    client: httpx.Client, silent_video: bytes, data: dict[str, str], field: str, nothing_left: Callable[[], None]
) -> None:
    answer = client.post("/v2a", files={"file": ("a.mp4", silent_video)}, data=data)
    assert answer.status_code == 422
    body = problem(answer, 422, answer.json()["code"])
    assert [error["field"] for error in body["errors"]] == [field]
    nothing_left()


@pytest.mark.parametrize("field", ["params", "metadata"])
def test_a_field_that_is_not_json_is_malformed(client: httpx.Client, silent_video: bytes, field: str) -> None:
    problem(client.post("/v2a", files={"file": ("a.mp4", silent_video)}, data={field: "{"}), 400, "malformed")


@pytest.mark.parametrize(
    ("route", "make", "status", "code"),
    [
        ("/a2v", media.video, 422, "no_audio_track"),
        ("/v2a", media.sound, 422, "no_video_track"),
        ("/v2a", media.png, 415, "unsupported_media"),
        ("/a2v", media.png, 415, "unsupported_media"),
        ("/v2a", lambda: b"These are words.\n" * 100, 415, "unsupported_media"),
        ("/v2a", lambda: media.video()[:-2000], 422, "undecodable"),
        ("/v2a", lambda: media.video()[:200], 422, "undecodable"),
        ("/v2a", lambda: b"", 422, "empty_file"),
        ("/v2a", lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", 415, "unsupported_media"),
        ("/a2v", lambda: media.sound(seconds=20 * 60), 422, "too_long"),
        ("/v2a", lambda: media.video(seconds=20 * 60, width=16, height=16, fps=1), 422, "too_long"),
        ("/a2v", lambda: media.sound(seconds=0.02), 422, "too_short"),
    ],
)
def test_an_unusable_file_is_refused_before_it_is_queued(
    client: httpx.Client,
    route: str,
    make: Callable[[], bytes],
    status: int,
    code: str,
    nothing_left: Callable[[], None],
) -> None:
    body = problem(client.post(route, files={"file": ("clip.mp4", make())}), status, code)
    assert [error["field"] for error in body["errors"]] == ["file"]
    assert "clip.mp4" in body["detail"]
    nothing_left()


def test_too_many_pixels_are_refused(run_api: Callable[[Settings], RunningApi], settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"max_width": 128}))
    file = {"file": ("wide.mp4", media.video(width=256))}
    problem(httpx.post(f"{api.url}/v2a", files=file, trust_env=False), 422, "too_many_pixels")


def test_a_short_upload_is_used_up_to_its_end(client: httpx.Client) -> None:
    job = client.post("/a2v", files={"file": ("a.wav", media.sound(2.0))}, data={"start": "1.5"}).json()
    assert job["input"]["used"] == {"start": 1.5, "duration": 0.5, "tracks": [0], "notice": None}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("C:\\videos\\a.mp4", "a.mp4"),
        ("été 2024.mp4", "été 2024.mp4"),
        ("", "upload"),
        ("x" * 400, "x" * 255),
    ],
)
def test_the_clients_file_name_is_only_displayed(
    client: httpx.Client, silent_video: bytes, given: str, shown: str, settings: Settings
) -> None:
    boundary = b"XX"
    head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{given}"\r\n\r\n'.encode()
    body = head.replace(b"\\", b"\\\\") + silent_video + b"\r\n--XX--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
    job = client.post("/v2a", content=body, headers=headers).json()
    assert job["input"]["filename"] == shown
    stored = files_in(settings.data)
    assert [path.name for path in stored] == ["input.mp4"]


def test_without_redis_an_upload_is_refused_and_leaves_nothing(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path, silent_video: bytes
) -> None:
    settings = Settings(redis_url=own_redis.url, data=tmp_path / "data")
    api = run_api(settings)
    own_redis.stop()
    answer = httpx.post(f"{api.url}/v2a", files={"file": ("a.mp4", silent_video)}, trust_env=False)
    problem(answer, 503, "queue_unavailable")
    assert files_in(settings.data) == []


def test_without_storage_an_upload_is_refused_and_not_queued(
    run_api: Callable[[Settings], RunningApi], settings: Settings, store: JobStore, silent_video: bytes
) -> None:
    away = {"storage": "s3://clips", "s3_endpoint": "http://127.0.0.1:9", "s3_access_key": "a"}
    api = run_api(Settings(**settings.model_dump() | away | {"s3_secret_key": "b"}))
    answer = httpx.post(f"{api.url}/v2a", files={"file": ("a.mp4", silent_video)}, trust_env=False, timeout=30)
    problem(answer, 503, "storage_unavailable")
    assert "retry-after" in answer.headers
    assert store.page() == ([], None)
    assert list(settings.temporary.iterdir()) == []
