"""Builds the job record of a `--local` command and checks it as the API does, before any model is loaded."""

from __future__ import annotations

from duet.cli.job_spec import JobSpec
from model.checkpoint.manifest import Manifest, ManifestError, find_models
from model.media.mix_levels import Mix
from model.request import RequestError
from service.jobs import record
from service.jobs.intake import JobRequest, Source, build_job, probe_source, resolve_params
from service.jobs.record import Job
from service.sandbox.probe import ProbeError, ProbeUnavailableError, probe
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
    request = JobRequest(spec.kind, manifest, resolve_params(spec.kind, manifest, params, settings), start, mix=mix)
    source = Source.of(spec.source) if spec.source else None
    probed = probe_source(request, source, probe, settings) if source else None
    job = build_job(request, settings, source, probed)
    return record.start(record.claim(job, "command line"), 1), manifest
