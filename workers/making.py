"""Outputs from the real models: decode what the network must see, run the pipeline, have the files written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.allocator import keep_freed_memory
from model.manifest import find_models
from model.media import MediaError, decode_audio, decode_video
from model.pipeline import ClipRequest, Pipeline
from model.pipeline import Progress as ClipProgress
from model.request import RequestError
from service.jobs.record import Job, Progress
from service.log import log
from service.settings import Settings
from workers.decoding import confined, warm
from workers.outputs import write_files
from workers.runner import Attempt, CannotBeMade
from workers.spool import Files


class ModelMaker:
    """Makes outputs with the given models, by name."""

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self._pipelines = pipelines
        self._device = threading.Lock()

    @classmethod
    def load(cls, settings: Settings) -> ModelMaker:
        """With every model of DUET_MODELS and every built-in one. Raises ManifestError or CheckpointError."""
        keep_freed_memory()
        pipelines = {}
        for name, manifest in find_models(settings.models).items():
            pipelines[name] = pipeline = Pipeline.load(manifest, settings.device, settings.dtype)
            if manifest.trained:
                log.info("model loaded", model=name, device=str(pipeline.device))
            else:
                log.warning(
                    "model loaded, but it is untrained: its networks are random and its clips are noise",
                    model=name,
                    device=str(pipeline.device),
                )
        warm()
        return cls(pipelines)

    def make(self, attempt: Attempt) -> list[Files]:
        """See `workers.runner.Maker`."""
        try:
            return self._make(attempt)
        except RequestError as error:
            raise CannotBeMade("invalid_request", str(error)) from error
        except MediaError as error:
            raise CannotBeMade("undecodable_input", str(error)) from error
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def _make(self, attempt: Attempt) -> list[Files]:
        job, clock = attempt.job, attempt.clock
        pipeline = self._pipelines.get(job.model)
        if pipeline is None:
            raise RequestError("model", f"this worker does not serve the model {job.model!r}")
        with clock.time("decode"):
            condition = _condition(job, pipeline, attempt.source)
        made = []
        for index in range(job.params.num_outputs):
            request = ClipRequest(job.kind, job.params, index, condition)
            with self._device:  # one thread at a time owns it
                if index == 0:
                    attempt.begin()
                clip = pipeline.run(request, _reporter(attempt, index))
            clock.add(clip.timings)
            with clock.time("encode"):
                made.append(write_files(job, pipeline, index, clip, attempt.source, attempt.folder))
        return made


def _reporter(attempt: Attempt, index: int) -> Callable[[ClipProgress], None]:
    """What the pipeline calls after every step of output `index`."""
    outputs = attempt.job.params.num_outputs

    def report(step: ClipProgress) -> None:
        left = step.eta_seconds
        if left is not None and step.fraction < 1:
            left += left / (1 - step.fraction) * (outputs - index - 1)
        done = (index + step.fraction) / outputs
        attempt.report(Progress(step.stage, step.step, step.total_steps, round(done, 4), left))

    return report


def _condition(job: Job, pipeline: Pipeline, source: Path | None) -> Tensor | None:
    """The given side as the network sees it."""
    if job.input is None or source is None:
        return None
    decode = decode_video if job.kind == "v2a" else decode_audio
    return confined(decode, source, pipeline.manifest.config.clip, job.input.used.start)
