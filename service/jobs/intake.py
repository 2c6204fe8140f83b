"""Job intake: from a request to a job record, for the API, for retries and for the command line.

found = probe_source(request, source, prober.probe, settings)   # None without a source
job = build_job(request, settings, source, found)
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from model.checkpoint.manifest import Manifest
from model.media.edits import MASK_NAME, Edit
from model.media.mix_levels import REPLACE, Mix
from model.request import MAX_SEED, RequestError, SamplingParams, check_evaluations, clip_of, is_divisible
from service.jobs.edit_plan import plan_edit
from service.jobs.record import (
    Input,
    Job,
    Webhook,
    Window,
    new_job,
    new_job_id,
    storage_prefix,
)
from service.sandbox.probe import ProbeLimits, ProbeResult
from service.settings import Settings

_EXTENSIONS = {
    "mov": (".mp4", ".mov", ".m4a", ".m4v", ".3gp"),
    "matroska": (".mkv", ".webm", ".mka"),
    "avi": (".avi",),
    "mpegts": (".ts", ".m2ts", ".mts"),
    "gif": (".gif",),
    "mp3": (".mp3",),
    "aac": (".aac",),
    "flac": (".flac",),
    "ogg": (".ogg", ".oga", ".ogv", ".opus"),
    "wav": (".wav",),
    "aiff": (".aiff", ".aif"),
}
"""File extensions by demuxer name: the default first."""

Kind = Literal["generate", "v2a", "a2v", "edit"]
Probe = Callable[[Path, Literal["video", "audio"], ProbeLimits, float], ProbeResult]
"""Path, wanted stream, limits and start in seconds; raises as `Prober.probe`."""


@dataclass(frozen=True)
class Source:
    """The file that a conditional job starts from. `filename` is the user's name for it; `bytes` its size."""

    path: Path
    filename: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """A file of this machine. Raises OSError."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, path.name, path.stat().st_size, digest)


@dataclass(frozen=True)
class JobRequest:
    """What a user asked for, validated: `params` with every default resolved, `start` in seconds of the source."""

    kind: Kind
    manifest: Manifest
    params: SamplingParams
    start: float = 0.0
    priority: str = "normal"
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str | None = None
    webhook: Webhook | None = None
    mix: Mix = REPLACE
    edit: Edit | None = None


def resolve_params(kind: str, manifest: Manifest, given: Mapping[str, Any], settings: Settings) -> SamplingParams:
    """Sampling parameters with every default filled in, but for a duration that depends on an upload, and a seed drawn
    if none is given. Raises RequestError."""
    _check_duration(given.get("duration"), settings)
    seed = given.get("seed")
    if seed is None:
        seed = secrets.randbelow(MAX_SEED + 1)
    return SamplingParams(**{**given, "seed": seed}).resolve(kind, manifest)


def _check_duration(duration: float | None, settings: Settings) -> None:
    if duration is not None and duration > settings.max_output_s:
        raise RequestError("duration", f"duration must be at most {settings.max_output_s:g} s here; got {duration:g}")


def probe_source(request: JobRequest, source: Source, probe: Probe, settings: Settings) -> ProbeResult:
    """Check that the job can use the source. Raises ProbeError, ProbeUnavailableError, OSError."""
    want: Literal["video", "audio"] = "audio" if request.kind == "a2v" else "video"
    return probe(source.path, want, probe_limits(request, settings), request.start)


def probe_limits(request: JobRequest, settings: Settings) -> ProbeLimits:
    """The limits of an upload."""
    return ProbeLimits(
        max_seconds=settings.max_duration_s,
        max_width=settings.max_width,
        max_height=settings.max_height,
        window=clip_of(request.params.duration, request.manifest.config.clip).duration,
    )


def build_job(
    request: JobRequest, settings: Settings, source: Source | None = None, found: ProbeResult | None = None
) -> Job:
    """The record of a new, queued job. `found` is the probe's result for `source`. Raises RequestError if the source is
    too short for the duration that is asked for or has no sound to mix with, or the job is too large."""
    job_id = new_job_id()
    params, upload, edit = request.params, None, request.edit
    if source is not None and found is not None:
        if edit is None:
            params = replace(params, duration=_duration(request, found, settings))
        else:
            clip = request.manifest.config.clip
            edit, seconds = plan_edit(edit, found.duration, clip, settings.max_output_s)
            params = replace(params, duration=seconds)
            edit = edit.with_key(f"{storage_prefix(job_id)}{MASK_NAME}")
            _check_mix(request.mix, edit)
        if request.mix.keeps_own and found.audio is None:
            raise RequestError("mix", "mix must be replace for a file without sound")
        upload = _input(job_id, request, params, source, found, edit)
    check_evaluations(request.kind, params, request.manifest.config.clip)
    return new_job(
        request.kind,
        request.manifest.name,
        params,
        priority=request.priority,
        metadata=request.metadata,
        retention=settings.retention,
        job_id=job_id,
        input=upload,
        owner=request.owner,
        webhook=request.webhook,
        mix=request.mix,
        edit=edit,
    )


def repeat_job(job: Job, settings: Settings) -> Job:
    """The record of a new job with the source and the parameters of `job`, the seed included. The source has a storage
    key of its own, so that the two jobs expire independently. Raises RequestError if the service no longer makes clips
    of its duration; the duration of an edit is its section's, which nobody asked for."""
    if job.edit is None:
        _check_duration(job.params.duration, settings)
    job_id = new_job_id()
    source = job.input and replace(job.input, key=f"{storage_prefix(job_id)}{job.input.name}")
    return new_job(
        job.kind,
        job.model,
        job.params,
        priority=job.priority,
        metadata=job.metadata,
        retention=settings.retention,
        job_id=job_id,
        input=source,
        owner=job.owner,
        retried_from=job.id,
        webhook=job.webhook,
        mix=job.mix,
        edit=job.edit and job.edit.with_key(f"{storage_prefix(job_id)}{MASK_NAME}"),
    )


def extension(found: ProbeResult, filename: str) -> str:
    """The file extension for the container found: the user's own if it is a usual one, otherwise the default."""
    known = _EXTENSIONS.get(found.container.partition(",")[0], ("",))
    given = PurePath(filename).suffix.lower()
    if given in known:
        return given
    return ".m4a" if known[0] == ".mp4" and found.video is None else known[0]


def _duration(request: JobRequest, found: ProbeResult, settings: Settings) -> float | None:
    """Seconds of the clip in whole frames: the duration asked for, or the rest of the source, as far as the service
    allows. None if the model makes clips of its own duration only."""
    clip, asked = request.manifest.config.clip, request.params.duration
    left = _left(request, found)
    if asked is None:
        return clip_of(min(left, settings.max_output_s), clip).duration if is_divisible(clip) else None
    if asked > max(clip_of(left, clip).duration, clip.duration):
        why = "the rest of the file" if left > clip.duration else "because the file is short"
        raise RequestError("duration", f"duration must be at most {max(left, clip.duration):g}, {why}")
    return asked


def _left(request: JobRequest, found: ProbeResult) -> float:
    """Seconds of the source from the start of the window on."""
    return round(found.duration - request.start, 6)


def _check_mix(mix: Mix, edit: Edit) -> None:
    """Raise RequestError for a mix of an edit in which no new sound meets the upload's own."""
    if not mix.changes_nothing and not edit.mixes:
        field = "mix" if mix.keeps_own else "loudness" if mix.loudness is not None else "true_peak"
        why = "extend, whose sound is beside the own one" if edit.extend is not None else "an edit that makes no sound"
        raise RequestError(field, f"{field} does not apply to {why}")


def _input(
    job_id: str, request: JobRequest, params: SamplingParams, source: Source, found: ProbeResult, edit: Edit | None
) -> Input:
    name = f"input{extension(found, source.filename)}"
    clip, left = request.manifest.config.clip, _left(request, found)
    start, used = request.start, min(clip_of(params.duration, clip).duration, left)
    notice = None
    if edit is not None:
        start = max(0.0, edit.start)
        used = min(found.duration, edit.start + (params.duration or 0.0)) - start
        notice = _mask_notice(edit, found)
    elif request.params.duration is None and used < left:
        why = "DUET_MAX_OUTPUT_S is the limit" if is_divisible(clip) else "the model makes no other length"
        notice = f"Only the first {used:g} s of {left:g} s are used: {why}."
    return Input(
        filename=source.filename,
        bytes=source.bytes,
        sha256=source.sha256,
        duration=round(found.duration, 6),
        video=found.video,
        audio=found.audio,
        used=Window(round(start, 6), round(used, 6), found.tracks, notice),
        name=name,
        key=f"{storage_prefix(job_id)}{name}",
    )


def _mask_notice(edit: Edit, found: ProbeResult) -> str | None:
    """Why the mask was scaled."""
    mask, video = edit.mask, found.video
    if mask is None or video is None or (mask.width, mask.height) == (video.width, video.height):
        return None
    return f"The mask of {mask.width}×{mask.height} pixels was scaled to {video.width}×{video.height}."
