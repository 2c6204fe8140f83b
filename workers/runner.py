"""One job from claim to commit: fetch and decode the upload, run the model, write the files, commit once.

Files go to keys that belong to the attempt. Nothing points to them until the record is completed with this attempt's
fencing token, so an attempt that was overtaken or broke off leaves nothing visible, and erases what it stored.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from model.media import MediaError, cut_wav, decode_audio, decode_video, mux_a2v, mux_v2a, write_clip, write_wav
from model.pipeline import Clip, ClipRequest, Pipeline
from model.pipeline import Progress as ClipProgress
from model.request import RequestError
from service.jobs.record import IllegalTransition, Job, JobError, Output, Progress, StaleClaim, Timings
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob
from service.log import log
from service.storage import ObjectNotFound, Storage, StorageFull, StorageUnavailable
from workers import provenance

PROGRESS_INTERVAL = 0.2
"""Seconds between two progress reports, where steps are shorter."""

PATIENCE = 300.0
"""Seconds that a claim or a commit waits for a Redis that does not answer."""

CONTENT_TYPES = {".mp4": "video/mp4", ".wav": "audio/wav", ".json": "application/json"}

_Overtaken = (StaleClaim, IllegalTransition, UnknownJob)
_T = TypeVar("_T")


class HandedBack(Exception):
    """The worker stops: the job was let go between two steps and waits for its next attempt."""


class Runner:
    """Runs jobs with the given models, by name. `scratch` is a folder for temporary files."""

    def __init__(self, store: JobStore, storage: Storage, pipelines: Mapping[str, Pipeline], scratch: Path) -> None:
        self._store = store
        self._storage = storage
        self._pipelines = pipelines
        self._scratch = scratch
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the running job go at its next step, and take no other."""
        self._stopping.set()

    def run(self, job_id: str) -> None:
        """Bring a job to its end: completed or failed. Nothing happens if it has ended, or is overtaken.

        Raises HandedBack after `stop()`, StoreUnavailable if Redis stays away: the job is then to be tried again.
        """
        if self._stopping.is_set():
            raise HandedBack(f"{job_id}: this worker stops")
        job = self._insist(lambda: self._store.claim(job_id))
        if job is None:
            log.info("nothing left to do", job=job_id)
            return
        log.info("job claimed", job=job.id, kind=job.kind, model=job.model, attempt=job.attempt)
        try:
            self._attempt(job)
        except HandedBack:
            self._erase_files(job)
            log.info("job handed back", job=job.id, attempt=job.attempt)
            raise
        except _Overtaken as reason:
            self._erase_files(job)
            log.info("attempt overtaken, its files are erased", job=job.id, attempt=job.attempt, reason=str(reason))
        except StoreUnavailable:
            raise  # the commit may have gone through: the files stay, the next attempt finds out
        except Exception as error:
            self._fail(job, error)

    def _attempt(self, job: Job) -> None:
        pipeline = self._pipelines.get(job.model)
        if pipeline is None:
            raise RequestError("model", f"this worker does not serve the model {job.model!r}")
        clock = _Clock(queued=(datetime.now(UTC) - job.created_at).total_seconds())
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{job.id}-", dir=self._scratch) as name:
            folder = Path(name)
            with clock.time("decode"):
                source = self._fetch(job, folder)
                condition = _condition(job, pipeline, source)
            self._insist(lambda: self._store.start(job.id, job.attempt))
            outputs = []
            for index in range(job.params.num_outputs):
                request = ClipRequest(job.kind, job.params, index, condition)
                clip = pipeline.run(request, self._reporter(job, index))
                clock.add(clip.timings)
                with clock.time("encode"):
                    files = _write_files(job, pipeline, index, clip, source, folder)
                with clock.time("upload"):
                    outputs.append(Output(index, job.params.seed, self._upload(job, index, files)))
        timings = clock.timings()
        self._insist(lambda: self._store.complete(job.id, job.attempt, outputs, timings))
        seconds = {stage: round(value, 2) for stage, value in asdict(timings).items()}
        log.info("job completed", job=job.id, kind=job.kind, attempt=job.attempt, **seconds)

    def _fetch(self, job: Job, folder: Path) -> Path | None:
        if job.input is None:
            return None
        path = folder / job.input.name
        self._storage.download(job.input.key, path)
        return path

    def _reporter(self, job: Job, index: int) -> Callable[[ClipProgress], None]:
        """What the pipeline calls after every step of output `index`."""
        last = 0.0
        outputs = job.params.num_outputs

        def report(step: ClipProgress) -> None:
            nonlocal last
            if self._stopping.is_set():
                raise HandedBack(f"{job.id}: the worker stops")
            now = time.monotonic()
            if now - last < PROGRESS_INTERVAL and step.step < step.total_steps:
                return
            last = now
            left = step.eta_seconds
            if left is not None and step.fraction < 1:
                left += left / (1 - step.fraction) * (outputs - index - 1)
            done = (index + step.fraction) / outputs
            progress = Progress(step.stage, step.step, step.total_steps, round(done, 4), left)
            try:
                self._store.progress(job.id, job.attempt, progress)
            except StoreUnavailable as error:
                log.warning("progress not reported", job=job.id, error=str(error))

        return report

    def _upload(self, job: Job, index: int, files: dict[str, Path]) -> dict[str, str]:
        """Store the files of one output; return the key of each."""
        keys = {name: job.attempt_key(f"{index}/{name}") for name in files}
        for name, path in files.items():
            self._storage.put_file(keys[name], path, CONTENT_TYPES[path.suffix])
        return keys

    def _fail(self, job: Job, error: Exception) -> None:
        failure = _job_error(error, job.attempt)
        log.error(
            "job failed",
            job=job.id,
            attempt=job.attempt,
            code=failure.code,
            reason=str(error),
            exc_info=error if failure.code == "internal_error" else None,
        )
        self._erase_files(job)
        try:
            self._insist(lambda: self._store.fail(job.id, job.attempt, failure))
        except _Overtaken as reason:
            log.info("attempt overtaken, its failure counts for nothing", job=job.id, reason=str(reason))

    def _erase_files(self, job: Job) -> None:
        """Erase what this attempt stored. What a store that is away keeps goes when the job is erased."""
        try:
            self._storage.delete_prefix(job.attempt_key(""))
        except StorageUnavailable as error:
            log.warning("files of the attempt stay until the job is erased", job=job.id, error=str(error))

    def _insist(self, action: Callable[[], _T]) -> _T:
        """Write as soon as Redis takes it. Raises StoreUnavailable after PATIENCE seconds, or on `stop()`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return action()
            except StoreUnavailable as error:
                if self._stopping.is_set() or time.monotonic() > deadline:
                    raise
                log.warning("waiting for Redis", error=str(error))
                self._stopping.wait(0.5)


class _Clock:
    """Seconds spent in each stage, summed over the outputs."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = dict(seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + value

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add({stage: time.perf_counter() - began})

    def timings(self) -> Timings:
        return Timings(**{stage: round(value, 4) for stage, value in self._seconds.items()})


def _condition(job: Job, pipeline: Pipeline, source: Path | None) -> Tensor | None:
    """The given side as the network sees it."""
    if job.input is None or source is None:
        return None
    decode = decode_video if job.kind == "v2a" else decode_audio
    return decode(source, pipeline.manifest.config.clip, job.input.used.start)


def _write_files(
    job: Job, pipeline: Pipeline, index: int, clip: Clip, source: Path | None, folder: Path
) -> dict[str, Path]:
    """Write one output's files to `folder`; return them by name."""
    files = {name: folder / f"{index}-{name}" for name in ("video.mp4", "audio.wav", "manifest.json")}
    video, audio = files["video.mp4"], files["audio.wav"]
    comment = provenance.comment(pipeline.manifest, job, index)
    video_origin = audio_origin = "generated"
    if job.input is None or source is None:
        assert clip.frames is not None
        assert clip.audio is not None
        write_clip(video, clip.frames, clip.fps, clip.audio, clip.sample_rate, comment)
        write_wav(audio, clip.audio, clip.sample_rate)
    elif job.kind == "v2a":
        assert clip.audio is not None
        used = job.input.used
        how = mux_v2a(source, used.start, used.duration, clip.audio, clip.sample_rate, video, comment)
        write_wav(audio, clip.audio, clip.sample_rate)
        video_origin = f"the upload's own frames, {how}"
    else:
        assert clip.frames is not None
        used = job.input.used
        mux_a2v(clip.frames, clip.fps, source, used.start, used.duration, video, comment)
        cut_wav(source, used.start, used.duration, audio)
        audio_origin = "the upload's own sound, exact in audio.wav, AAC in video.mp4"
    manifest = provenance.describe(pipeline, job, index, video_origin, audio_origin)
    files["manifest.json"].write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _job_error(error: Exception, attempt: int) -> JobError:
    """The failure in words for the job's owner. What only the log should know stays there."""
    if isinstance(error, RequestError):
        return JobError("invalid_request", str(error), False, attempt)
    if isinstance(error, MediaError):
        return JobError("undecodable_input", str(error), False, attempt)
    if isinstance(error, ObjectNotFound):
        return JobError("input_missing", "the upload is no longer in storage", False, attempt)
    if isinstance(error, StorageFull):
        return JobError("storage_full", "no space is left for the results", True, attempt)
    if isinstance(error, StorageUnavailable):
        return JobError("storage_unavailable", "the results could not be stored", True, attempt)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return JobError("out_of_memory", "the model needs more memory than the worker has", True, attempt)
    return JobError("internal_error", "the worker could not finish the job; its log says why", True, attempt)
