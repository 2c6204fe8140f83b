"""Outputs from the real models: decode what the network must see, let the engine run, have the files written."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import torch
from prometheus_client.registry import Collector
from torch import Tensor

from model.checkpoint.manifest import find_models
from model.media.decode import decode_audio, decode_video
from model.media.source import MediaError
from model.request import RequestError
from model.runtime.allocator import keep_freed_memory
from model.runtime.engine import Engine, Run
from model.runtime.evaluator import is_out_of_memory
from model.runtime.pipeline import ClipRequest, Pipeline, StepProgress
from model.runtime.threads import available_cores
from model.runtime.warmup import warm_up
from service.jobs.record import Job
from service.log import log
from service.settings import Settings
from workers.decoder import confined, warm
from workers.engine_metrics import EngineCollector
from workers.fatal_exit import end_lost
from workers.job_progress import Following
from workers.moving_average import Typical
from workers.outputs import write_files
from workers.previews import preview
from workers.runner import Attempt, BackInQueue, CannotBeMade
from workers.spool import Files
from workers.throttle import Pace

LOOK = 0.5
"""Seconds between two looks whether the job is still wanted, while its next step takes longer."""


EACH_PREVIEW, ANY_PREVIEW = 1.0, 0.25
"""Seconds between two previews of one output, and between any two of this worker: each costs some milliseconds of a
processor that others want."""


class ModelMaker:
    """Makes outputs with the given models, by name; all jobs share one engine, which this starts."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        on_lost: Callable[[BaseException], None] | None = None,
        step_deadline: float = float("inf"),
    ) -> None:
        """`on_lost` ends the process: the device failed, or is in one step for more than `step_deadline` seconds."""
        self._pipelines = pipelines
        self._on_lost = on_lost
        self._step_deadline = step_deadline
        sizes = [pipeline.evaluator.batch_sizes for pipeline in pipelines.values()]
        capacity = max((each.largest for each in sizes if each is not None), default=1)
        frames = max((pipeline.evaluator.frames_per_forward for pipeline in pipelines.values()), default=1)
        device = next((pipeline.device for pipeline in pipelines.values()), None)
        self.engine = Engine(capacity, frames, on_lost, device)
        self.engine.start()
        # The engine is full while some more jobs have their upload decoded or their result encoded.
        self.slots = capacity + max(1, capacity // 4)
        self._encoding = Typical()
        # The engine's thread asks for Python hundreds of times between two forwards: it must not stand in line behind
        # all the jobs of a batch that ended together and are written now.
        self._writers = threading.Semaphore(max(1, available_cores() // 2))
        self._pace = Pace(ANY_PREVIEW)
        evaluators = [pipeline.evaluator for pipeline in pipelines.values()]
        self.collectors: Sequence[Collector] = (EngineCollector(self.engine, evaluators, device),)

    @classmethod
    def load(cls, settings: Settings) -> ModelMaker:
        """With every model of DUET_MODELS and every built-in one, ready to run. Raises ManifestError or
        CheckpointError."""
        keep_freed_memory()
        if settings.threads or "OMP_NUM_THREADS" not in os.environ:  # PyTorch has read that one
            torch.set_num_threads(settings.threads or max(1, available_cores() // settings.workers))
        pipelines = {}
        for name, manifest in find_models(settings.models).items():
            pipelines[name] = pipeline = Pipeline.load(manifest, settings.device, settings.dtype, settings.compile)
            warm_up(pipeline, settings.batch_sizes)
            assert pipeline.evaluator.batch_sizes is not None
            facts = {
                "model": name,
                "device": str(pipeline.device),
                "dtype": str(pipeline.evaluator.dtype).removeprefix("torch."),
                "batches": pipeline.evaluator.batch_sizes.sizes,
            }
            if manifest.trained:
                log.info("model loaded", **facts)
            else:
                log.warning(
                    "model loaded, but it is untrained: its networks are random and its clips are noise", **facts
                )
        warm()
        return cls(pipelines, end_lost, settings.step_deadline.total_seconds())

    def stop(self) -> None:
        """Every job that is being made goes back to the queue now: whoever waits for the engine gets BackInQueue."""
        self.engine.close(BackInQueue("this worker stops"))

    def close(self) -> None:
        """Wait for the step that the device was in."""
        self.engine.join()

    def make(self, attempt: Attempt) -> list[Files]:
        """See `workers.runner.Maker`."""
        try:
            return self._released(attempt)
        except RequestError as error:
            raise CannotBeMade("invalid_request", str(error)) from error
        except MediaError as error:
            raise CannotBeMade("undecodable_input", str(error)) from error

    def _released(self, attempt: Attempt) -> list[Files]:
        try:
            return self._make(attempt)
        except Exception as error:
            # Errors are garbage in cycles, found late; their frames would keep the tensors of the clip until then.
            traceback.clear_frames(error.__traceback__)
            raise

    def _make(self, attempt: Attempt) -> list[Files]:
        job, clock = attempt.job, attempt.clock
        pipeline = self._pipelines.get(job.model)
        if pipeline is None:
            raise RequestError("model", f"this worker does not serve the model {job.model!r}")
        with clock.time("decode"):
            condition = _condition(job, pipeline, attempt.source)
        news: SimpleQueue[News] = SimpleQueue()
        started = threading.Event()
        runs: list[Run] = []
        try:
            for index in range(job.params.num_outputs):
                request = ClipRequest(job.kind, job.params, index, condition)
                program = pipeline.program(request, partial(self._tell, news, index))
                run = self.engine.submit(pipeline.evaluator, program, started.set)
                run.add_done_callback(partial(self._tell_end, news, index, started))
                runs.append(run)
            with attempt.waiting():
                while not started.wait(LOOK):
                    self._check(attempt)
            attempt.begin()
            with _one_thread():
                return self._follow(attempt, pipeline, news)
        except BaseException as error:
            for run in runs:
                run.leave(error)
            raise

    def _check(self, attempt: Attempt) -> None:
        """Raise as `attempt.check`. Here also because a device that hangs keeps jobs that only wait for it."""
        attempt.check()
        if self._on_lost is not None and self.engine.busy_for > self._step_deadline:
            self._on_lost(TimeoutError(f"one step takes more than {self._step_deadline:g} s"))

    @contextmanager
    def _writing(self, attempt: Attempt) -> Iterator[None]:
        """Wait for the turn to write files, and hold it. Raises as `attempt.check`."""
        while not self._writers.acquire(timeout=LOOK):
            attempt.check()
        try:
            yield
        finally:
            self._writers.release()

    def _tell(self, news: SimpleQueue[News], index: int, step: StepProgress) -> None:
        self.engine.soon(lambda: news.put((index, step)))

    def _tell_end(self, news: SimpleQueue[News], index: int, started: threading.Event, run: Run) -> None:
        def tell() -> None:
            news.put((index, run))
            started.set()

        self.engine.soon(tell)

    def _show(self, attempt: Attempt, index: int, step: StepProgress) -> None:
        """What output `index` looks and sounds like so far."""
        try:
            seen = step.preview()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no room for a preview", job=attempt.job.id)
            return
        frames = seen.frames.numpy() if seen.frames is not None else None
        audio = seen.audio.numpy() if seen.audio is not None else None
        attempt.show(
            preview(frames, audio, index=index, stage=step.stage, step=step.step, total_steps=step.total_steps)
        )

    def _follow(self, attempt: Attempt, pipeline: Pipeline, news: SimpleQueue[News]) -> list[Files]:
        """Report the steps of all outputs and write each as soon as it is made, while the engine goes on with the
        others."""
        job, clock = attempt.job, attempt.clock
        following = Following(job.params.num_outputs, lambda: self._encoding.seconds + attempt.afterwards)
        made: dict[int, Files] = {}
        seconds: dict[str, float] = {}
        paces = [Pace(EACH_PREVIEW * job.params.num_outputs, self._pace) for _ in range(job.params.num_outputs)]
        while len(made) < job.params.num_outputs:
            self._check(attempt)
            for index, item in _take(news, LOOK):
                if isinstance(item, StepProgress):
                    following.step(index, item)
                    if item.fraction < 1 and paces[index].due():
                        self._show(attempt, index, item)
                    continue
                clip = item.result()
                # Outputs are made side by side: a stage takes as long as the slowest of them.
                seconds = {stage: max(spent, seconds.get(stage, 0.0)) for stage, spent in clip.timings.items()}
                attempt.report(following.progress())
                with clock.time("encode"), self._encoding.measured(), self._writing(attempt):
                    made[index] = write_files(job, pipeline, index, clip, attempt.source, attempt.folder)
            if following.news:
                attempt.report(following.progress())
        clock.add(seconds)
        return [made[index] for index in range(job.params.num_outputs)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in this thread alone: what is left to do here is little, and the cores are the engine's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


News = tuple[int, StepProgress | Run]
"""What the engine's thread has to say of an output: a step, or that its run has ended."""


def _take(news: SimpleQueue[News], seconds: float) -> list[News]:
    """All that is there; waits for the first. Of several steps of one output only the last, which says it all."""
    taken: list[News] = []
    with suppress(Empty):
        taken.append(news.get(timeout=seconds))
        while True:
            taken.append(news.get_nowait())
    last = {index: item for index, item in taken if isinstance(item, StepProgress)}
    return [(index, item) for index, item in taken if not isinstance(item, StepProgress) or item is last[index]]


def _condition(job: Job, pipeline: Pipeline, source: Path | None) -> Tensor | None:
    """The given side as the network sees it."""
    if job.input is None or source is None:
        return None
    decode = decode_video if job.kind == "v2a" else decode_audio
    return confined(decode, source, pipeline.manifest.config.clip, job.input.used.start)
