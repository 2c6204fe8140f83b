"""Builds the job record of a `--local` command and checks it as the API does, before any model is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from duet.cli.job_spec import JobSpec
from model.checkpoint.manifest import Manifest, ManifestError, find_models
from model.media.edits import Edit, Mask
from model.media.mix_levels import Mix
from model.request import RequestError
from service.jobs import record
from service.jobs.edit_plan import check_edit
from service.jobs.intake import JobRequest, Source, build_job, probe_limits, probe_source, resolve_params
from service.jobs.record import Job
from service.sandbox.probe import ProbeError, ProbeUnavailableError, probe, probe_mask
from service.settings import Settings


class InvalidJob(Exception):
    """A parameter or the file is invalid; the message names it and the limit."""


class CannotMake(Exception):
    """The clip cannot be made on this machine; the message says why."""


def local_job(spec: JobSpec, settings: Settings) -> tuple[Job, Manifest]:
    """A job in progress, and its model. Raises InvalidJob, CannotMake."""
    try:
        return _local_job(spec, settings)
    except RequestError as error:
        raise InvalidJob(f"{error.field}: {error}") from error
    except ProbeError as error:
        raise InvalidJob(f"{error.field}: {error.message}; allowed: {error.allowed}") from error
    except (ManifestError, ProbeUnavailableError, ValueError) as error:
        raise CannotMake(str(error)) from error


def _local_job(spec: JobSpec, settings: Settings) -> tuple[Job, Manifest]:
    params = dict(spec.params)
    name, start = params.pop("model", None), params.pop("start", 0.0)
    found = find_models(settings.models)
    manifest = found.get(name or settings.default_model)
    if manifest is None:
        raise RequestError(
            "model", f"there is no model {name or settings.default_model!r}; there are {', '.join(found)}"
        )
    if spec.weights is not None:
        spec.check_weights(manifest.name, manifest.weights_hash)
    mix = Mix.from_params(**{key: params.pop(key) for key in ("mix", "loudness", "true_peak") if key in params})
    edit = _edit(spec, params) if spec.kind == "edit" else None
    resolved = resolve_params(spec.kind, manifest, params, settings)
    request = JobRequest(spec.kind, manifest, resolved, start, mix=mix, edit=edit)
    if edit is not None and spec.mask is not None:
        file = Source.of(spec.mask)
        width, height = probe_mask(spec.mask, probe_limits(request, settings))
        mask = Mask(file.filename, file.bytes, file.sha256, width, height, key="")
        request = replace(request, edit=replace(edit, mask=mask))
    source = Source.of(spec.source) if spec.source else None
    probed = probe_source(request, source, probe, settings) if source else None
    job = build_job(request, settings, source, probed)
    return record.start(record.claim(job, "command line"), 1), manifest


def _edit(spec: JobSpec, params: dict[str, Any]) -> Edit:
    """Take the edit out of `params`. Raises RequestError."""
    edit = Edit.from_params({name: params.pop(name) for name in ("retake", "extend", "region") if name in params})
    check_edit(edit, spec.mask is not None)
    return edit
