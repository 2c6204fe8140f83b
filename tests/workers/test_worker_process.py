"""Jobs through a real Redis, a real Celery worker process and a real, if tiny, model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from model.media.encode import write_clip
from service.jobs.record import Status
from service.jobs.view import OUTPUT_FILES
from tests.waiting import until
from tests.workers.conftest import TINY, Stack, WorkerProcess

StartWorker = Callable[[], WorkerProcess]


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A video of 48×32 pixels with sound, as long as the tiny model's clip."""
    frames = torch.randint(0, 256, (20, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sound = torch.sin(torch.arange(16_000) * 0.1)[None] * 0.5
    path = tmp_path / "upload.mp4"
    write_clip(path, frames, 25, sound, 16_000, "made by a test")
    return path


def test_a_job_completes_and_its_files_describe_it(served: Stack) -> None:
    job = served.ended(served.submit(num_outputs=2, super_resolution=True, sr_steps=1, seed=5))
    assert job.status is Status.COMPLETED
    assert job.attempt == 1
    assert [output.index for output in job.outputs] == [0, 1]
    first = job.outputs[0]
    assert set(first.files) == set(OUTPUT_FILES)
    assert sorted(key for output in job.outputs for key in output.files.values()) == served.files(job)
    with av.open(str(Path(served.settings.storage_url) / first.files["video.mp4"])) as clip:
        assert "untrained" in clip.metadata["comment"]
        assert "seed 5" in clip.metadata["comment"]
        video = clip.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (4 * TINY.width, 4 * TINY.height, TINY.fps)
        assert sum(1 for _ in clip.decode(video)) == TINY.frames
    manifest = json.loads(b"".join(served.storage.read(job.outputs[1].files["manifest.json"])))
    assert manifest["output"]["index"] == 1
    assert manifest["params"]["seed"] == 5
    assert manifest["model"]["trained"] is False
    assert len(manifest["model"]["weights_sha256"]) == 64
    assert job.timings is not None
    assert job.timings.base > 0
    assert job.timings.sr > 0
    assert not any(served.settings.temporary.iterdir())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_sound_and_another_seed_another(served: Stack) -> None:

    def sound(seed: int) -> bytes:
        """The samples: the signature in the file is another every time."""
        job = served.ended(served.submit(seed=seed))
        with av.open(str(Path(served.settings.storage_url) / job.outputs[0].files["audio.wav"])) as clip:
            return b"".join(frame.to_ndarray().tobytes() for frame in clip.decode(audio=0))

    assert sound(1) == sound(1) != sound(2)


def test_v2a_keeps_the_size_and_rate_of_the_upload(served: Stack, upload: Path) -> None:
    job = served.ended(served.submit("v2a", upload))
    assert job.status is Status.COMPLETED, job.error
    with av.open(str(Path(served.settings.storage_url) / job.outputs[0].files["video.mp4"])) as clip:
        video = clip.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (48, 32, 25)
        assert len(clip.streams.audio) == 1
    manifest = json.loads(b"".join(served.storage.read(job.outputs[0].files["manifest.json"])))
    assert manifest["output"]["video"].endswith(("copied", "re-encoded"))
    assert manifest["input"]["sha256"] == job.input.sha256 if job.input else False


def test_a_message_that_comes_three_times_runs_the_job_once(served: Stack) -> None:
    job = served.create()
    for _ in range(3):
        served.queue.enqueue(job)
    done = served.ended(job)
    served.ended(served.submit())  # one thread, first in, first out: the copies were taken before this one
    assert served.store.get(job.id) == done
    assert done.attempt == 1
    assert len(served.files(job)) == len(OUTPUT_FILES)


def test_a_broken_upload_fails_its_own_job_only(served: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypisom" + b"nothing of a video" * 100)
    failed, next_one = served.submit("v2a", broken), served.submit()
    failed = served.ended(failed)
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable, failed.error.attempt) == ("undecodable_input", False, 1)
    assert failed.error.message
    assert served.files(failed) == []
    assert served.ended(next_one).status is Status.COMPLETED
    assert not any(served.settings.temporary.iterdir())


@pytest.mark.slow
def test_a_stopped_worker_hands_its_job_back(stack: Stack, start_worker: StartWorker) -> None:
    first = start_worker()
    job = stack.submit(steps=30)
    until(lambda: (p := stack.store.look(job.id).progress) and p.step > 0, "the first step is reported")
    assert first.stop() == 0
    assert stack.store.workers() == []
    assert not stack.store.get(job.id).status.ended
    start_worker()
    done = stack.ended(job)
    assert (done.status, done.attempt) == (Status.COMPLETED, 2)
    assert all("/attempt-2/" in key for key in stack.files(job))
