"""An order made out as a job record, judged as the API judges a request, before anything heavy is loaded."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict
from typing import Literal

from duet.cli.replay import Order
from model.checkpoint.manifest import Manifest, ManifestError, find_models
from model.request import MAX_SEED, RequestError, SamplingParams
from service.api.conditional import extension
from service.jobs import record
from service.jobs.record import AudioStream, Input, Job, VideoStream, Window, new_job
from service.sandbox.probe import ProbeError, ProbeLimits, ProbeUnavailableError, probe
from service.settings import Settings


class NotAsAllowed(Exception):
    """A parameter or the file is not as it may be; the message names it and the limit."""


class CannotMake(Exception):
    """The clip cannot be made here; the message says why."""


def job_of(order: Order, settings: Settings) -> tuple[Job, Manifest]:
    """A job that is under way, and the model for it. Raises NotAsAllowed, CannotMake."""
    try:
        return _job_of(order, settings)
    except RequestError as error:
        raise NotAsAllowed(f"{error.field}: {error}") from error
    except ProbeError as error:
        allowed = f"; allowed is {error.allowed}" if error.allowed else ""
        raise NotAsAllowed(f"{error.field}: {error.message}{allowed}") from error
    except (ManifestError, ProbeUnavailableError, ValueError) as error:
        raise CannotMake(str(error)) from error


def _job_of(order: Order, settings: Settings) -> tuple[Job, Manifest]:
    params = {"seed": secrets.randbelow(MAX_SEED + 1)} | order.params
    name, start = params.pop("model", None), params.pop("start", 0.0)
    found = find_models(settings.models)
    manifest = found.get(name or settings.default_model)
    if manifest is None:
        raise RequestError(
            "model", f"there is no model {name or settings.default_model!r}; there are {', '.join(found)}"
        )
    if order.weights is not None:
        order.check_weights(manifest.name, manifest.weights_hash)
    sampling = SamplingParams(**params).resolve(order.kind, manifest)
    job = new_job(
        order.kind,
        manifest.name,
        sampling,
        priority="normal",
        metadata={},
        retention=settings.retention,
        input=_input(order, manifest, start, settings),
    )
    return record.start(record.claim(job, "command line"), 1), manifest


def _input(order: Order, manifest: Manifest, start: float, settings: Settings) -> Input | None:
    """The file as an upload."""
    path = order.source
    if path is None:
        return None
    clip = manifest.config.clip
    limits = ProbeLimits(
        max_seconds=settings.max_duration_s,
        max_width=settings.max_width,
        max_height=settings.max_height,
        window=clip.duration,
    )
    wanted: Literal["video", "audio"] = "video" if order.kind == "v2a" else "audio"
    found = probe(path, wanted, limits, start)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"input{extension(found, path.name)}"
    return Input(
        filename=path.name,
        bytes=path.stat().st_size,
        sha256=digest,
        duration=round(found.duration, 6),
        video=VideoStream(**asdict(found.video)) if found.video else None,
        audio=AudioStream(**asdict(found.audio)) if found.audio else None,
        used=Window(start, round(min(clip.duration, found.duration - start), 6)),
        name=name,
        key=name,
    )
