"""`--local`: makes a clip in this process as a worker does, without Redis, storage or a server."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from duet.cli.job_spec import JobSpec
from duet.cli.local_job import CannotMake
from duet.cli.output_files import OutputFiles
from duet.cli.progress import ProgressDisplay
from model.checkpoint.loading import CheckpointError
from model.checkpoint.manifest import Manifest
from model.media.edits import MASK_NAME
from model.media.source import MediaError
from model.runtime.allocator import keep_freed_memory
from model.runtime.pipeline import ClipRequest, Pipeline, StepProgress
from service.credentials.identity import IdentityError
from service.credentials.signing import SigningError
from service.jobs import record
from service.jobs.record import Job, Output, Scores
from service.jobs.view import job_view
from service.settings import Settings
from workers.condition import decode_condition
from workers.credentials import Credentials, NotSigned
from workers.decoder import DecoderFault, DecoderLost, warm
from workers.outputs import OutputWriter, signal_mark
from workers.ranking import kept
from workers.spool import Files

_CAUSES = (MediaError, CheckpointError, DecoderFault, DecoderLost, IdentityError, SigningError, NotSigned)
"""Errors whose message says why a clip cannot be made."""


def make(
    spec: JobSpec,
    job: Job,
    manifest: Manifest,
    settings: Settings,
    files: OutputFiles,
    progress: ProgressDisplay,
    saved: list[Path],
) -> dict[str, Any]:
    """The job as the API shows it, with paths in place of URLs. Each file is added to `saved` when it is complete.

    Raises CannotMake, and OSError if a file cannot be written.
    """
    keep_freed_memory()
    if spec.source is not None:
        warm()
    try:
        pipeline = Pipeline.load(manifest, settings.device, settings.dtype)
        with tempfile.TemporaryDirectory(prefix="duet-") as folder:
            spec = _with_mask(spec, Path(folder))
            return _outputs(spec, job, pipeline, settings, files, progress, Path(folder), saved)
    except (*_CAUSES, torch.OutOfMemoryError) as error:
        raise CannotMake(str(error)) from error


def _with_mask(spec: JobSpec, folder: Path) -> JobSpec:
    """The job with its file and its mask in `folder`, under the names that a worker gives them."""
    if spec.mask is None or spec.source is None:
        return spec
    source = folder / f"input{spec.source.suffix}"
    source.symlink_to(spec.source.absolute())
    (folder / MASK_NAME).symlink_to(spec.mask.absolute())
    return replace(spec, source=source)


def _outputs(
    spec: JobSpec,
    job: Job,
    pipeline: Pipeline,
    settings: Settings,
    files: OutputFiles,
    progress: ProgressDisplay,
    folder: Path,
    saved: list[Path],
) -> dict[str, Any]:
    condition = decode_condition(job, pipeline, spec.source, folder)
    credentials = Credentials.open(_signing_settings(settings, folder))
    mark = signal_mark(settings)
    outputs: list[Output] = []
    made: dict[int, Files] = {}
    scores: dict[int, Scores] = {}

    def put(place: int, index: int) -> None:
        """Save output `index` as the one in `place`."""
        if place == 0:
            files.check(spec.saved, made[index])
        written = files.paths(place, made[index])
        for file, path in written.items():
            _put(made[index][file], path)
            saved.append(path)
        shown = {file: str(path) for file, path in written.items()}
        outputs.append(Output(index, job.params.seed, shown, scores[index]))

    seconds: dict[str, float] = {}
    for place, index in enumerate(spec.indices):

        def report(step: StepProgress, place: int = place) -> None:
            done = (place + step.fraction) / len(spec.indices)
            left = step.eta_seconds
            if left is not None and step.fraction < 1:
                left += left / (1 - step.fraction) * (len(spec.indices) - place - 1)
            progress.step(step.stage, step.step, step.total_steps, done, left)

        with OutputWriter(
            job, pipeline, index, spec.source, folder, credentials=credentials, given=condition, mark=mark
        ) as writer:
            clip = pipeline.run(ClipRequest(job.kind, job.params, index, condition), report, writer.add)
            for stage, spent in clip.timings.items():
                seconds[stage] = round(seconds.get(stage, 0.0) + spent, 4)
            progress.phase("writing")
            made[index] = writer.finish(clip)
        scores[index] = writer.scores
        if job.params.keep is None:
            put(place, index)
    if job.params.keep is not None:
        best = kept(scores, len(made), job.params.keep, job.params.rank_by)
        for place, index in enumerate(best):
            put(place, index)
        outputs += [Output(index, job.params.seed, {}, scores[index]) for index in made if index not in best]
    job = record.complete(job, 1, tuple(outputs), record.Timings(**seconds))
    shown_job = job_view(job, None, None, "", lambda path: path).model_dump(mode="json")
    return shown_job | {"outputs": [_shown(output) for output in outputs if output.files], "urls": {}}


def _shown(output: Output) -> dict[str, Any]:
    """The output as the API shows it, with its own names of files."""
    reason = {} if output.scores.reason is None else {"scores_reason": output.scores.reason}
    return asdict(output) | {"scores": output.scores.by_name(), **reason}


def _signing_settings(settings: Settings, folder: Path) -> Settings:
    """The settings that name the signer. Without a certificate or a server's own pair, a pair for this run is made in
    `folder`: a clip must not leave a data folder behind."""
    has_own = settings.provenance_certificate is not None or (settings.data / "provenance").exists()
    return settings if has_own else settings.model_copy(update={"data": folder})


def _put(made: Path, path: Path) -> None:
    """Copy the file atomically: `path` is complete or absent."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        shutil.copyfile(made, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
