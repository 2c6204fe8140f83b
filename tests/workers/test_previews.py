from __future__ import annotations

import io
import time

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from PIL import Image

from service.jobs.connection import StoreUnavailable, connect
from service.jobs.event_keys import events_key, previews_key
from service.jobs.events import MAX_SPRITE, Preview, Previews, Sprite
from service.jobs.record import Progress, StaleClaim
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer
from tests.service.new_jobs import OUTPUT, TIMINGS, a_job
from workers.previews import preview, sprite, waveform

Frames = NDArray[np.uint8]


def colours(frames: int = 16, height: int = 64, width: int = 64) -> Frames:
    """Frames of one colour each, all different."""
    levels = np.linspace(0, 255, frames).astype(np.uint8)
    plain = np.stack([levels, levels[::-1], np.full(frames, 128, np.uint8)], axis=1)
    return np.broadcast_to(plain[:, None, None], (frames, height, width, 3)).copy()


def noise(frames: int = 16, height: int = 64, width: int = 64) -> Frames:
    return np.random.default_rng(7).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def opened(picture: Sprite) -> NDArray[np.uint8]:
    """The frames of a sprite, as a browser would cut them out: (frames, height, width, 3)."""
    sheet = np.asarray(Image.open(io.BytesIO(picture.webp)).convert("RGB"))
    assert sheet.shape == (picture.rows * picture.height, picture.columns * picture.width, 3)
    places = [divmod(number, picture.columns) for number in range(picture.frames)]
    return np.stack(
        [
            sheet[y * picture.height : (y + 1) * picture.height, x * picture.width : (x + 1) * picture.width]
            for y, x in places
        ]
    )


@pytest.mark.parametrize(
    ("shape", "laid_out"),
    [
        ((16, 64, 64), (4, 4, 16, 64, 64)),
        ((16, 32, 32), (4, 4, 16, 32, 32)),
        ((5, 48, 64), (4, 2, 5, 64, 48)),
        ((2, 64, 32), (2, 1, 2, 32, 64)),
        ((16, 256, 256), (4, 4, 16, 64, 64)),
        ((40, 90, 160), (8, 5, 40, 32, 18)),
        ((17, 64, 64), (8, 3, 17, 32, 32)),
        ((200, 64, 64), (8, 8, 64, 32, 32)),
    ],
)
def test_a_sprite_has_the_frames_in_order(
    shape: tuple[int, int, int], laid_out: tuple[int, int, int, int, int]
) -> None:
    frames = colours(*shape)
    made = sprite(frames)
    assert made is not None
    assert (made.columns, made.rows, made.frames, made.width, made.height) == laid_out
    seen = opened(made)[:, made.height // 2, made.width // 2].astype(int)
    chosen = np.linspace(0, len(frames) - 1, made.frames).round().astype(int)
    assert np.abs(seen - frames[chosen, 0, 0]).max() <= 6  # what WebP makes of a plain colour


def test_even_noise_is_a_small_sprite() -> None:
    for frames in (noise(), noise(16, 256, 256), noise(16, 32, 32), noise(64, 32, 32)):
        made = sprite(frames)
        assert made is not None
        assert len(made.webp) <= 20 * 1024
        assert np.corrcoef(opened(made).mean(axis=3).ravel(), _shrunk(frames).ravel())[0, 1] > 0.5


def _shrunk(frames: Frames) -> NDArray[np.floating]:
    """Brightness of frames as a preview has them, at most 64 pixels wide: the mean over squares."""
    size = min(64, frames.shape[1])
    times = frames.shape[1] // size
    return frames.mean(axis=3).reshape(len(frames), size, times, size, times).mean(axis=(2, 4))


def test_a_waveform_is_the_minimum_and_maximum_of_each_part() -> None:
    seconds = np.arange(25_600) / 16_000
    swelling = (seconds / 1.6 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    pairs = np.array(waveform(swelling))
    assert pairs.shape == (160, 2)
    envelope = (np.arange(160) + 0.5) / 160
    assert np.abs(pairs[:, 1] - envelope).max() < 0.08
    assert np.abs(pairs[:, 0] + envelope).max() < 0.08
    spike = np.zeros(25_600, np.float32)
    spike[1600] = 0.5
    assert [number for number, (_, high) in enumerate(waveform(spike)) if high] == [10]


def test_invalid_samples_are_bounded() -> None:
    assert waveform(np.full(1600, 7.0, np.float32)) == ((1.0, 1.0),) * 160
    assert waveform(np.full(1600, np.nan, np.float32)) == ((0.0, 0.0),) * 160
    assert len(waveform(np.array([0.25, -0.5], np.float32))) == 160


def test_the_uploaded_modality_has_no_preview() -> None:
    where = {"index": 0, "stage": "base", "step": 5, "total_steps": 20}
    assert preview(None, np.zeros(1600, np.float32), **where).sprite is None  # type: ignore[arg-type]
    assert preview(colours(), None, **where).waveform is None  # type: ignore[arg-type]


def test_a_preview_costs_milliseconds() -> None:
    """Six of them are at most 2 % of the processor time of a job of 10 s. Noise is the worst there is."""
    began = time.process_time()
    for step in range(6):
        preview(noise(), np.ones(25_600, np.float32), index=0, stage="base", step=step, total_steps=20)
    assert time.process_time() - began < 0.2


def small(index: int = 0, step: int = 5, webp: bytes = b"\x00\n\xffWEBP") -> Preview:
    return Preview(index, "base", step, 20, Sprite(webp, 4, 4, 16, 64, 64), ((-0.5, 0.5),) * 160)


def test_only_the_holder_of_a_job_publishes_previews(store: JobStore, settings: Settings) -> None:
    previews = Previews(connect(settings))
    job = a_job()
    store.create(job)
    with pytest.raises(StaleClaim):
        previews.publish(job.id, 0, small())
    store.claim(job.id, "a worker")
    previews.publish(job.id, 1, small())
    store.hand_back(job.id, 1)
    with pytest.raises(StaleClaim):
        previews.publish(job.id, 1, small())
    store.claim(job.id, "another")
    with redis.Redis.from_url(settings.redis_url) as client:
        assert not client.exists(previews_key(job.id)), "what an attempt showed goes with it"
    previews.publish(job.id, 2, small())
    with pytest.raises(StaleClaim):
        previews.publish(job.id, 1, small())


def test_only_the_last_preview_of_each_output_is_kept(store: JobStore, settings: Settings) -> None:
    previews = Previews(connect(settings))
    job = a_job(metadata={f"name-{number}": "x" * 512 for number in range(16)})
    store.create(job)
    store.claim(job.id, "a worker")
    store.start(job.id, 1)
    for step in range(1, 1001):
        store.progress(job.id, 1, Progress("base", step, 1000, step / 1000, 1000 - step))
        if step % 20 == 0:
            for index in range(8):
                previews.publish(job.id, 1, small(index, step, bytes(20 * 1024)))
    store.complete(job.id, 1, [OUTPUT], TIMINGS)
    with redis.Redis.from_url(settings.redis_url) as client:
        keys = (events_key(job.id), previews_key(job.id))
        size = sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)
        assert client.hlen(previews_key(job.id)) == 8
        assert 8 * 20 * 1024 < size < 300_000
        assert all(0 < int(client.ttl(key)) <= 3600 for key in keys)  # type: ignore[arg-type]


def test_a_sprite_that_is_too_large_is_an_error(store: JobStore, settings: Settings) -> None:
    with pytest.raises(ValueError, match="24576 are allowed"):
        Previews(connect(settings)).publish("job_x", 1, small(webp=bytes(MAX_SPRITE + 1)))


def test_without_redis_there_is_no_preview(own_redis: RedisServer) -> None:
    previews = Previews(connect(Settings(redis_url=own_redis.url)))
    own_redis.kill()
    with pytest.raises(StoreUnavailable):
        previews.publish("job_x", 1, small())
