"""The three kinds of job from request to playable file, with `duet serve`."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
from mcp import Client

from duet.client import AsyncDuet
from duet.mcp.server import Options, create_server
from tests.demo_model import CLIP, LARGE, SMALL, SMALL_SIZE
from tests.e2e.conftest import finished

CLIP_SECONDS = CLIP.duration
AAC_PACKET = 1024
"""Samples."""

QUICK = {"steps": 4, "seed": 42}


@dataclass
class Media:
    """A decoded file: `frames` (frames, height, width, 3) uint8, `sound` (channels, samples).

    `sound_seconds` is what a player plays: the last AAC packet is always full, and its end may lie beyond.
    """

    codecs: dict[str, str]
    pixels: str
    frames: np.ndarray
    fps: float
    sound: np.ndarray
    sample_rate: int
    sound_seconds: float
    comment: str


def decode(path: Path) -> Media:
    with av.open(str(path)) as container:
        codecs = {stream.type: stream.codec_context.name for stream in container.streams if stream.codec_context}
        frames, fps, pixels = np.zeros((0, 0, 0, 3), np.uint8), 0.0, ""
        if container.streams.video:
            video = container.streams.video[0]
            fps, pixels = float(video.average_rate or 0), str(video.pix_fmt)
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video)])
        comment = container.metadata.get("comment", "")
    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        to_float = av.AudioResampler(format="fltp")
        parts = [part.to_ndarray() for frame in container.decode(audio) for part in to_float.resample(frame)]
        seconds = float((audio.duration or 0) * audio.time_base)
        return Media(codecs, pixels, frames, fps, np.concatenate(parts, 1), audio.rate, seconds, comment)


def fetch(client: httpx.Client, url: str, folder: Path) -> Path:
    path = folder / url.rsplit("/", 1)[1]
    path.write_bytes(client.get(url).raise_for_status().content)
    return path


def submit(client: httpx.Client, kind: str, upload: Path, **further: int) -> dict:
    with upload.open("rb") as file:
        fields = {"params": json.dumps(QUICK | further)}
        answer = client.post(f"/{kind}", files={"file": (upload.name, file)}, data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    job = finished(client, answer.headers["Location"])
    assert job["status"] == "completed", job["error"]
    return job


def test_generate_gives_a_clip_that_a_browser_plays(served: httpx.Client, tmp_path: Path) -> None:
    answer = served.post("/generate", json=QUICK | {"sr_steps": 2})
    assert answer.status_code == 202
    job = finished(served, answer.headers["Location"])
    assert (job["status"], job["progress"], job["params"]["seed"]) == ("completed", 1, 42)
    url = job["outputs"][0]["files"]["video.mp4"]
    path = fetch(served, url, tmp_path)
    clip = decode(path)
    assert clip.codecs == {"video": "h264", "audio": "aac"}
    assert clip.pixels == "yuv420p"
    assert clip.frames.shape == (CLIP.frames, *LARGE[::-1], 3)
    assert clip.fps == CLIP.fps
    assert clip.sample_rate == CLIP.sample_rate
    assert clip.sound_seconds == pytest.approx(CLIP_SECONDS, abs=0.001)
    assert "seed 42" in clip.comment
    assert "demo" in clip.comment
    assert "untrained" not in clip.comment
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first, so that playing starts at once"

    part = served.get(url, headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, data[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(data)}"
    assert served.get(url, headers={"Range": f"bytes={len(data)}-"}).status_code == 416


def test_v2a_returns_the_users_own_frames_under_a_new_sound(served: httpx.Client, film: Path, tmp_path: Path) -> None:
    job = submit(served, "v2a", film)
    files = job["outputs"][0]["files"]
    made, upload = decode(fetch(served, files["video.mp4"], tmp_path)), decode(film)
    count = len(upload.frames)
    assert made.codecs == {"video": "h264", "audio": "aac"}
    assert made.frames.shape == (count, *upload.frames.shape[1:])
    assert made.fps == pytest.approx(upload.fps, rel=1e-3)
    error = made.frames.astype(float) - upload.frames
    how = json.loads(fetch(served, files["manifest.json"], tmp_path).read_text())["output"]["video"]
    if how.endswith("copied"):
        assert not error.any()
    else:
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 38, "re-encoded, but hardly to be told apart (dB)"
    assert made.sound_seconds == pytest.approx(count / upload.fps, abs=0.001)
    new = decode(fetch(served, files["audio.wav"], tmp_path))
    assert correlation(made.sound[0], new.sound[0]) > 0.9, "the sound in the video is the one that was made"


def test_a2v_returns_new_frames_over_the_users_own_sound(served: httpx.Client, music: Path, tmp_path: Path) -> None:
    job = submit(served, "a2v", music, sr_steps=2, duration=CLIP_SECONDS)
    files = job["outputs"][0]["files"]
    made, upload = decode(fetch(served, files["video.mp4"], tmp_path)), decode(music)
    assert made.codecs == {"video": "h264", "audio": "aac"}
    assert made.frames.shape == (CLIP.frames, *LARGE[::-1], 3)
    assert made.sample_rate == upload.sample_rate == 44_100
    assert made.sound.shape[0] == upload.sound.shape[0] == 2
    count = round(CLIP_SECONDS * 44_100)
    own = upload.sound[:, :count]
    assert made.sound_seconds * 44_100 == pytest.approx(count, abs=1)
    assert count <= made.sound.shape[1] < count + AAC_PACKET
    for channel in range(2):
        shifts = {
            lag: correlation(own[channel, 1:-1], made.sound[channel, 1 + lag : count - 1 + lag]) for lag in (-1, 0, 1)
        }
        assert max(shifts.values()) >= 0.99
    exact = decode(fetch(served, files["audio.wav"], tmp_path))
    np.testing.assert_allclose(exact.sound, own, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_openais_client_makes_a_video_and_a_sound_for_one(served: httpx.Client, film: Path, tmp_path: Path) -> None:
    quick = {"seed": 42, "num_inference_steps": 2}
    with openai.DefaultHttpxClient(trust_env=False) as http:
        client = openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", http_client=http)
        video = client.videos.create_and_poll(
            prompt="",
            size=SMALL_SIZE,  # type: ignore[arg-type]
            extra_body=quick,
            poll_interval_ms=100,
        )
        assert (video.status, video.seconds, video.size) == ("completed", "1.6", SMALL_SIZE), video.error
        client.videos.download_content(video.id).write_to_file(tmp_path / "new.mp4")
        sounding = client.videos.create_and_poll(
            prompt="",
            seconds="1.6",  # type: ignore[arg-type]
            input_reference=film,
            extra_body=quick,
            poll_interval_ms=100,
        )
        assert sounding.status == "completed", sounding.error
        client.videos.download_content(sounding.id).write_to_file(tmp_path / "sounding.mp4")
        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.download_content(video.id)
    made = decode(tmp_path / "new.mp4")
    assert made.codecs == {"video": "h264", "audio": "aac"}
    assert made.frames.shape == (CLIP.frames, *SMALL[::-1], 3)
    assert "seed 42" in made.comment
    kept, upload = decode(tmp_path / "sounding.mp4"), decode(film)
    assert kept.frames.shape[1:] == upload.frames.shape[1:]
    assert kept.sound_seconds == pytest.approx(CLIP_SECONDS, abs=1 / upload.fps)


def test_the_synchronous_form_returns_a_video_for_a_sound(served: httpx.Client, music: Path, tmp_path: Path) -> None:
    fields = {"seconds": "1.6", "size": SMALL_SIZE, "num_inference_steps": "2"}
    answer = served.post(
        "/v1/videos/sync", data=fields, files={"input_reference": (music.name, music.read_bytes())}, timeout=120
    )
    assert answer.status_code == 200, answer.text
    assert float(answer.headers["x-inference-time-s"]) > 0
    (tmp_path / "video.mp4").write_bytes(answer.content)
    made = decode(tmp_path / "video.mp4")
    assert made.frames.shape == (CLIP.frames, *SMALL[::-1], 3)
    assert made.sample_rate == decode(music).sample_rate


def test_an_unusable_upload_is_refused_without_a_job(served: httpx.Client, music: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    for upload, status in ((music, 422), (text, 415)):
        answer = served.post("/v2a", files={"file": (upload.name, upload.read_bytes())})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
    assert served.get("/jobs/job_00000000000000000000000000").status_code == 404


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


def test_an_agent_makes_a_clip_looks_at_it_and_checks_it(served: httpx.Client, tmp_path: Path) -> None:
    async def talk() -> None:
        async with AsyncDuet(str(served.base_url)) as duet, Client(create_server(duet, Options())) as client:
            asked = QUICK | {"super_resolution": False, "save_to": str(tmp_path), "wait": 300}
            made = await client.call_tool("generate", asked)
            assert not made.is_error, made.content
            (output,) = made.structured_content["outputs"]
            path = Path(output["saved"]["video.mp4"])
            assert len(decode(path).frames) == CLIP.frames
            blocks = {each.type: each for each in made.content}
            assert base64.b64decode(blocks["resource"].resource.blob) == path.read_bytes()
            assert blocks["image"].mime_type == "image/webp"
            verdict = await client.call_tool("verify", {"file": output["files"]["video.mp4"]})
            assert verdict.structured_content["credentials"] == "untrusted"
            assert verdict.structured_content["model"]["name"] == "demo"

    asyncio.run(talk())
