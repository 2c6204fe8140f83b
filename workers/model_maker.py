"""Makes outputs with the real models: decodes the condition, runs the engine, writes the files."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from prometheus_client.registry import Collector

from model.checkpoint.loading import CheckpointError, check_layout
from model.checkpoint.manifest import ManifestError, find_models
from model.checkpoint.model_folders import Changes, Version, broken, check_tuned, merge, read_folders
from model.marking.mark import SignalMark
from model.media.source import MediaError
from model.request import RequestError, SamplingParams, clip_of, most_windows
from model.runtime.allocator import keep_freed_memory
from model.runtime.engine import Engine, EngineRun
from model.runtime.evaluator import is_out_of_memory
from model.runtime.guided_steps import step_forwards
from model.runtime.pipeline import ClipPart, ClipRequest, Pipeline, StepProgress
from model.runtime.prompt import check_encoder
from model.runtime.super_resolution import groups
from model.runtime.threads import available_cores, compute_with, one_thread
from model.runtime.warmup import Run, warm_up
from service.jobs.record import Job
from service.jobs.speeds import Speed
from service.log import log
from service.settings import Settings
from workers.condition import decode_condition
from workers.credentials import UNSIGNED, Credentials, NotSigned
from workers.decoder import DecoderLost, warm
from workers.engine_metrics import EngineCollector
from workers.fatal_exit import exit_device_lost
from workers.job_progress import JobProgress
from workers.model_metrics import ModelCollector
from workers.model_pool import ModelPool, ModelUnavailable
from workers.moving_average import WritingTimes
from workers.outputs import OutputWriter, signal_mark
from workers.previews import preview
from workers.run_events import RunEvents
from workers.runner import Attempt, BackInQueue, CannotBeMade, ModelMissing, WorkerFault
from workers.spool import Files
from workers.throttle import Throttle

POLL_INTERVAL = 0.5
"""Seconds between two checks whether the job is cancelled, while it waits for its next step."""

OUTPUT_PREVIEW_INTERVAL, PREVIEW_INTERVAL = 1.0, 0.25
"""Seconds between two previews of one output, and between any two of this worker: each costs some milliseconds of
processor time."""


class ModelMaker:
    """Makes outputs with the given models. All jobs share one engine, which the constructor starts."""

    def __init__(
        self,
        models: ModelPool | Mapping[str, Pipeline],
        on_lost: Callable[[BaseException], None] | None = None,
        step_deadline: float = float("inf"),
        credentials: Credentials = UNSIGNED,
        folder: Path | None = None,
        mark: SignalMark | None = None,
    ) -> None:
        """`models`: a pool with loaded models, or pipelines by name. `on_lost` must end the process. It is called when
        the device fails, or one step takes longer than `step_deadline` seconds. `credentials` sign the outputs.
        `folder` of the models, for `reload`. `mark` is added to what is generated."""
        self._credentials = credentials
        self._mark = mark
        self.models = models if isinstance(models, ModelPool) else ModelPool.of(models)
        self._folder = folder
        self._on_lost = on_lost
        self._step_deadline = step_deadline
        pipelines = self.models.pipelines
        device = next((pipeline.device for pipeline in pipelines), None)
        self.engine = Engine(1, 1, on_lost, device)
        for pipeline in pipelines:
            self._make_room(pipeline)
        self.engine.start()
        # The engine stays full while some more jobs decode their upload or encode their result.
        self.slots = self.engine.capacity + max(1, self.engine.capacity // 4)
        self._writing_times = WritingTimes()
        # The engine's thread acquires the GIL hundreds of times between two forwards. It must not compete with all the
        # jobs of a batch that ended together and write their files at once.
        self._writers = threading.Semaphore(max(1, available_cores() // 2))
        self._previews = Throttle(PREVIEW_INTERVAL)
        self._halvings: Counter[str] = Counter()
        self.collectors: Sequence[Collector] = (
            EngineCollector(self.engine, self._all_halvings, device),
            ModelCollector(self.models),
        )

    @classmethod
    def load(cls, settings: Settings) -> ModelMaker:
        """Load and warm up every model of DUET_MODELS and every built-in one.

        Raises ManifestError, CheckpointError, ModelTooLarge, IdentityError or SigningError.
        """
        credentials = Credentials.open(settings)
        keep_freed_memory()
        if settings.threads or "OMP_NUM_THREADS" not in os.environ:  # which PyTorch has read itself
            torch.set_num_threads(settings.threads or max(1, available_cores() // settings.workers))
        makers: list[ModelMaker] = []

        def load(version: Version) -> tuple[Pipeline, int]:
            if not makers:
                return _load(version, settings, None)
            with one_thread():  # the engine warms it up
                pipeline, size = _load(version, settings, makers[0].engine.between_ticks)
            makers[0]._make_room(pipeline)
            return pipeline, size

        def unload(pipeline: Pipeline) -> None:
            if makers:
                makers[0]._unload(pipeline)
            else:
                pipeline.release()

        versions = {name: Version.of(manifest) for name, manifest in find_models(settings.models).items()}
        models = ModelPool(versions, load, unload, settings.model_memory)
        # OpenMP keeps helpers for a thread that has computed with several, until it ends. While there are more than
        # cores, those of GNU sleep after every operation, which made a forward half as long again.
        with ThreadPoolExecutor(1, "load", compute_with, (torch.get_num_threads(),)) as thread:
            thread.submit(models.load_all, last=settings.default_model).result()
        warm()
        step_deadline = settings.step_deadline.total_seconds()
        mark = signal_mark(settings)
        makers.append(cls(models, exit_device_lost, step_deadline, credentials, settings.models, mark))
        return makers[0]

    def _make_room(self, pipeline: Pipeline) -> None:
        """Let the engine run as many clips at a time as the model's largest batch."""
        sizes = pipeline.evaluator.batch_sizes
        self.engine.capacity = max(self.engine.capacity, sizes.largest if sizes is not None else 1)
        self.engine.frame_budget = max(self.engine.frame_budget, pipeline.evaluator.frames_per_forward)

    def _unload(self, pipeline: Pipeline) -> None:
        self._halvings += pipeline.evaluator.halvings
        with suppress(BackInQueue):  # this worker stops
            self.engine.between_ticks(pipeline.release)

    def _all_halvings(self) -> Mapping[str, int]:
        return sum((pipeline.evaluator.halvings for pipeline in self.models.pipelines), self._halvings)

    def serves(self, model: str) -> bool:
        return self.models.serves(model)

    def reload(self) -> Changes:
        """See `workers.runner.Maker`."""
        merged, changes = merge(self.models.versions, read_folders(self._folder))
        for name in (*changes.added, *changes.changed):
            check_tuned(merged[name])
            manifest = merged[name].manifest
            try:
                check_layout(manifest)
                check_encoder(manifest)
            except (CheckpointError, ManifestError, ValueError, OSError) as error:
                raise broken(manifest.folder, error) from error
        self.models.take(merged)
        return changes

    def preload(self) -> None:
        """See `workers.runner.Maker`."""
        with suppress(BackInQueue):  # this worker stops
            self.models.preload()

    def is_long(self, job: Job) -> bool:
        """See `workers.runner.Maker`."""
        manifest = self.models.manifest(job.model)
        return (
            manifest is not None
            and clip_of(job.params.duration, manifest.config.clip).frames > manifest.config.clip.frames
        )

    def stop(self) -> None:
        """Abort every job at once: those that wait for the engine get BackInQueue."""
        self.engine.close(BackInQueue("this worker stops"))

    def close(self) -> None:
        """Wait for the end of the device's current step."""
        self.engine.join()

    def make(self, attempt: Attempt) -> list[Files]:
        """See `workers.runner.Maker`."""
        try:
            with one_thread():  # the engine needs the cores, and helpers of this thread would slow it down
                return self._released(attempt)
        except ModelUnavailable as error:
            raise ModelMissing(str(error)) from error
        except RequestError as error:
            raise CannotBeMade("invalid_request", str(error)) from error
        except MediaError as error:
            raise CannotBeMade("undecodable_input", str(error)) from error
        except NotSigned as error:
            raise CannotBeMade("not_signed", str(error)) from error
        except DecoderLost as error:
            raise WorkerFault(str(error)) from error

    def _released(self, attempt: Attempt) -> list[Files]:
        try:
            return self._make(attempt)
        except Exception as error:
            # Tracebacks form reference cycles, which are collected late; their frames would keep the clip's tensors
            # alive until then.
            traceback.clear_frames(error.__traceback__)
            raise

    def _make(self, attempt: Attempt) -> list[Files]:
        with ExitStack() as stack:
            with attempt.waiting():  # for other jobs and for the load
                used = self.models.use(attempt.job.model, partial(self._check, attempt), attempt.loading)
                pipeline = stack.enter_context(used)
            return self._make_with(pipeline, attempt)

    def _make_with(self, pipeline: Pipeline, attempt: Attempt) -> list[Files]:
        job, clock = attempt.job, attempt.clock
        check = partial(self._check, attempt)
        with clock.time("decode"), attempt.waiting():  # the child has a time limit of its own
            condition = decode_condition(job, pipeline, attempt.source, attempt.folder, check)
        events = RunEvents(job.params.num_outputs, self.engine.soon)
        started = threading.Event()
        runs: list[EngineRun] = []
        long = self.is_long(job)
        try:
            for index in range(job.params.num_outputs):
                request = ClipRequest(job.kind, job.params, index, condition)
                program = pipeline.program(request, partial(events.step, index), partial(events.part, index))
                run = self.engine.submit(
                    pipeline.evaluator, program, started.set, long=long, held=partial(events.full, index)
                )
                run.add_done_callback(partial(self._end, events, index, started))
                runs.append(run)
            del request, program
            with attempt.waiting():
                while not started.wait(POLL_INTERVAL):
                    check()
            attempt.begin()
            with ExitStack() as stack:
                writers = [
                    stack.enter_context(
                        OutputWriter(
                            job,
                            pipeline,
                            index,
                            attempt.source,
                            attempt.folder,
                            check,
                            self._credentials,
                            condition,
                            self._mark,
                        )
                    )
                    for index in range(job.params.num_outputs)
                ]
                return self._collect(attempt, pipeline, writers, events)
        except BaseException as error:
            for run in runs:
                run.leave(error)
            raise

    def _check(self, attempt: Attempt) -> None:
        """Raise as `attempt.check`. Also detects a hung device, for jobs still waiting for it."""
        attempt.check()
        if self._on_lost is not None and self.engine.busy_for > self._step_deadline:
            self._on_lost(TimeoutError(f"one step takes more than {self._step_deadline:g} s"))

    @contextmanager
    def _writing(self, attempt: Attempt) -> Iterator[None]:
        """Wait for a turn to write files, and hold it for the block. Raises as `attempt.check`."""
        while not self._writers.acquire(timeout=POLL_INTERVAL):
            attempt.check()
        try:
            yield
        finally:
            self._writers.release()

    def _end(self, events: RunEvents, index: int, started: threading.Event, run: EngineRun) -> None:
        events.end(index, run)
        self.engine.soon(started.set)

    def _publish_preview(self, attempt: Attempt, index: int, step: StepProgress) -> None:
        """Publish output `index` as it is after `step`."""
        try:
            seen = step.preview()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("preview skipped: out of memory", job=attempt.job.id)
            return
        frames = seen.frames.numpy() if seen.frames is not None else None
        audio = seen.audio.numpy() if seen.audio is not None else None
        attempt.show(
            preview(frames, audio, index=index, stage=step.stage, step=step.step, total_steps=step.total_steps)
        )

    def _collect(
        self, attempt: Attempt, pipeline: Pipeline, writers: Sequence[OutputWriter], events: RunEvents
    ) -> list[Files]:
        """Report the steps of all outputs, and write each output as its parts are ready, while the engine continues."""
        job, clock = attempt.job, attempt.clock
        clip_spec = pipeline.manifest.config.clip
        windows = len(groups(clip_of(job.params.duration, clip_spec).frames, clip_spec.frames))
        progress = JobProgress(
            job.params.num_outputs, lambda: self._writing_times.expected(job.kind, windows) + attempt.afterwards
        )
        ended = [False] * job.params.num_outputs
        writing = [0.0] * job.params.num_outputs
        made: dict[int, Files] = {}
        seconds: dict[str, float] = {}
        throttles = [
            Throttle(OUTPUT_PREVIEW_INTERVAL * job.params.num_outputs, self._previews)
            for _ in range(job.params.num_outputs)
        ]
        while len(made) < job.params.num_outputs:
            self._check(attempt)
            for index, item in events.take(POLL_INTERVAL):
                if isinstance(item, StepProgress):
                    progress.update(index, item)
                    ended[index] = item.fraction >= 1
                    if item.fraction < 1 and throttles[index].allow():
                        self._publish_preview(attempt, index, item)
                elif isinstance(item, ClipPart):
                    began = time.perf_counter()
                    with clock.time("encode"), attempt.waiting(), self._writing(attempt):
                        writers[index].add(item)
                    events.written(index)
                    if ended[index]:  # otherwise the engine makes the next part meanwhile
                        writing[index] += time.perf_counter() - began
                else:
                    clip = item.result()
                    # Outputs are made side by side: a stage takes as long as its slowest output.
                    seconds = {stage: max(spent, seconds.get(stage, 0.0)) for stage, spent in clip.timings.items()}
                    attempt.report(progress.progress())
                    began = time.perf_counter()
                    with clock.time("encode"), attempt.waiting(), self._writing(attempt):
                        made[index] = writers[index].finish(clip)
                    attempt.scores[index] = writers[index].scores
                    writing[index] += time.perf_counter() - began
                    self._writing_times.add(job.kind, windows, writing[index])
            if progress.changed:
                attempt.report(progress.progress())
        clock.add(seconds)
        files = sum(writing) + attempt.afterwards
        attempt.measured(_speed(job.params, pipeline, seconds, files))
        return [made[index] for index in range(job.params.num_outputs)]


def _load(version: Version, settings: Settings, run: Run | None) -> tuple[Pipeline, int]:
    """The model, warmed up with `run` (see `warm_up`), and the bytes of memory that it takes."""
    manifest = version.manifest
    began = time.perf_counter()
    if version.stamps:  # otherwise loading says what is missing, if anything is
        _check_intact(version)
    pipeline = Pipeline.load(manifest, settings.device, settings.dtype)
    try:
        batches = (
            warm_up(pipeline, settings.batch_sizes, run) if run is not None else warm_up(pipeline, settings.batch_sizes)
        )
        _ = manifest.weights_hash  # now: it is written into every manifest, and the files may be replaced
        _check_intact(version)
    except Exception:
        with suppress(BackInQueue):  # this worker stops
            pipeline.release() if run is None else run(pipeline.release)
        raise
    assert pipeline.evaluator.batch_sizes is not None
    size = pipeline.evaluator.weight_bytes + batches
    facts = {
        "model": manifest.name,
        "device": str(pipeline.device),
        "dtype": str(pipeline.evaluator.dtype).removeprefix("torch."),
        "batches": pipeline.evaluator.batch_sizes.sizes,
        "mib": round(size / 2**20),
        "seconds": round(time.perf_counter() - began, 2),
    }
    if manifest.trained:
        log.info("model loaded", **facts)
    else:
        log.warning("model loaded, but it is untrained: its weights are random and its clips are noise", **facts)
    return pipeline, size


def _check_intact(version: Version) -> None:
    if not version.intact:
        raise CheckpointError("its weight files have changed since they were taken; reload the models")


def _speed(params: SamplingParams, pipeline: Pipeline, seconds: Mapping[str, float], files: float) -> Speed:
    """Of a job with resolved `params`, whose stages took `seconds` and files `files` seconds for all outputs."""
    clip = pipeline.manifest.config.clip
    frames = clip_of(params.duration, clip).frames
    forwards = sum(step_forwards(pipeline.schedule, pipeline.manifest.text, params))
    steps = most_windows(frames, clip.frames) * forwards
    sr_steps = (params.sr_steps or 0) * len(groups(frames, clip.frames))
    outputs = params.num_outputs
    return Speed(
        step=seconds["base"] / (steps * outputs),
        sr_step=seconds["sr"] / (sr_steps * outputs) if sr_steps and "sr" in seconds else None,
        files=files / outputs,
    )
