"""A clip made in this process, as a worker makes it, without Redis, storage or a server: `--local`."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duet.cli.destination import Destination
from duet.cli.local_job import CannotMake
from duet.cli.progress import Shown
from duet.cli.replay import Order
from model.checkpoint.loading import CheckpointError
from model.checkpoint.manifest import Manifest
from model.media.decode import decode_audio, decode_video
from model.media.source import MediaError
from model.runtime.allocator import keep_freed_memory
from model.runtime.pipeline import ClipRequest, Pipeline, StepProgress
from service.jobs import record
from service.jobs.record import Job, Output
from service.jobs.view import job_view
from service.settings import Settings
from workers.decoder import DecoderLost, confined, warm
from workers.outputs import write_files


def make(
    order: Order, job: Job, manifest: Manifest, settings: Settings, destination: Destination, shown: Shown
) -> tuple[dict[str, Any], list[Path]]:
    """The job as the API would show it, with paths for addresses, and the files written.

    Raises CannotMake, and OSError where files cannot be written.
    """
    keep_freed_memory()
    if order.source is not None:
        warm()
    try:
        pipeline = Pipeline.load(manifest, settings.device, settings.dtype)
        with tempfile.TemporaryDirectory(prefix="duet-") as folder:
            return _outputs(order, job, pipeline, destination, shown, Path(folder))
    except (MediaError, CheckpointError, DecoderLost, torch.OutOfMemoryError) as error:
        raise CannotMake(str(error)) from error


def _outputs(
    order: Order, job: Job, pipeline: Pipeline, destination: Destination, shown: Shown, folder: Path
) -> tuple[dict[str, Any], list[Path]]:
    condition = _condition(job, pipeline, order.source)
    outputs: list[Output] = []
    saved: list[Path] = []
    seconds: dict[str, float] = {}
    for place, index in enumerate(order.indices):

        def report(step: StepProgress, place: int = place) -> None:
            done = (place + step.fraction) / len(order.indices)
            left = step.eta_seconds
            if left is not None and step.fraction < 1:
                left += left / (1 - step.fraction) * (len(order.indices) - place - 1)
            shown.step(step.stage, step.step, step.total_steps, done, left)

        clip = pipeline.run(ClipRequest(job.kind, job.params, index, condition), report)
        for stage, spent in clip.timings.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 4)
        shown.phase("writing")
        made = write_files(job, pipeline, index, clip, order.source, folder)
        if place == 0:
            destination.check(len(order.indices), made)
        written = destination.files(place, made)
        for file, path in written.items():
            _put(made[file], path)
            saved.append(path)
        outputs.append(Output(index, job.params.seed, {file: str(path) for file, path in written.items()}))
    job = record.complete(job, 1, tuple(outputs), record.Timings(**seconds))
    shown_job = job_view(job, None, None, "", lambda path: path).model_dump(mode="json")
    return shown_job | {"outputs": [asdict(output) for output in outputs], "urls": {}}, saved


def _put(made: Path, path: Path) -> None:
    """Copy the file, so that `path` is whole or not there."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        shutil.copyfile(made, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _condition(job: Job, pipeline: Pipeline, source: Path | None) -> Tensor | None:
    """The given side as the network sees it."""
    if job.input is None or source is None:
        return None
    decode = decode_video if job.kind == "v2a" else decode_audio
    return confined(decode, source, pipeline.manifest.config.clip, job.input.used.start)
