"""Parameters of requests: one pydantic model per route. Limits and defaults are those of `model.request`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from model import request as limits
from model.checkpoint.manifest import Manifest
from model.request import RequestError, SamplingParams
from service.api import edit_parameters, mix_parameters, prompt_parameters, webhook_parameter
from service.api.edit_parameters import EditFields
from service.api.mix_parameters import MixParameters
from service.api.problems import FieldError, Problem
from service.api.prompt_parameters import PromptParameters
from service.api.webhook_parameter import WebhookParameter
from service.jobs.intake import resolve_params
from service.jobs.record import PRIORITIES
from service.settings import Settings

_DEFAULT: dict[str, Any] = {field.name: field.default for field in fields(SamplingParams)}
_WORDS = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "a string"}
_SAMPLING = tuple(field.name for field in fields(SamplingParams))
_LATER = {"duration": None, "quality": None, "mix": "replace", "loudness": None, "true_peak": None}
_LATER |= {"keep": None, "rank_by": None, "prompt": None, "negative_prompt": None, "prompt_scale": None}
_LATER |= {"sr_start": None}
"""Defaults of the parameters that came after Idempotency-Keys: at its default, none changes what a key stands for."""

_BEST = {"sampler": limits.SAMPLERS[0], "steps": limits.QUALITIES["best"].steps}
"""Defaults that the parameters had before there was `quality`."""

_ALLOWED = webhook_parameter.ALLOWED | mix_parameters.ALLOWED | edit_parameters.ALLOWED | prompt_parameters.ALLOWED
"""Allowed values of prompts, of fields of fields, and of the fields that these are in. `*` is any index."""


@dataclass(frozen=True)
class OneOf:
    """Annotation of a string field that allows only `names`."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


class Parameters(PromptParameters):
    """Parameters of every job."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = Field(default=None, description="name from /models; the default model if absent")
    seed: int | None = Field(
        default=None,
        ge=0,
        le=limits.MAX_SEED,
        description="the same seed reproduces the clip; drawn by the server if absent",
    )
    num_outputs: int = Field(
        default=_DEFAULT["num_outputs"],
        ge=1,
        le=limits.MAX_OUTPUTS,
        description="number of clips; clip i uses (seed, i)",
    )
    quality: Annotated[str, OneOf(tuple(limits.QUALITIES))] | None = Field(
        default=None,
        description="sets samplers and steps that are not given: `fast` 6 steps and `balanced` 10, tuned for the model "
        "where `/models` says so and no prompt guides, `best` 20; best if absent",
    )
    sampler: Annotated[str, OneOf((*limits.SAMPLERS, limits.TUNED))] | None = Field(
        default=None,
        description="solver that turns noise into a clip; that of the quality if absent, which is dpmpp_2m for best. "
        "tuned takes only the numbers of steps that `/models` lists, and no prompt unless `prompt_scale` is 1",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=limits.MAX_STEPS,
        description="evaluations of the base network; those of the quality if absent",
    )
    spacing: Annotated[str, OneOf(limits.SPACINGS)] = Field(
        default=_DEFAULT["spacing"],
        description="spacing of the steps: uniform in log signal-to-noise ratio, in time, or in its square root",
    )
    order: int | None = Field(default=None, ge=1, le=limits.MAX_ORDER, description="order of dpm_solver; 3 if absent")
    eta: float | None = Field(
        default=None, ge=0, le=1, description="noise of ddim: 0 is deterministic, 1 as in ddpm; 0 if absent"
    )
    guidance: Annotated[str, OneOf(limits.GUIDANCE)] | None = Field(
        default=None, description="guidance method; the best that the model allows if absent"
    )
    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=limits.MAX_GUIDANCE_SCALE,
        description="strength of the guidance; if absent, the method's own",
    )
    priority: Annotated[str, OneOf(PRIORITIES)] = Field(
        default="normal", description="jobs of higher priority run first"
    )
    metadata: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict,
        max_length=16,
        description="at most 16 pairs of strings, returned unchanged; none if absent",
    )

    webhook: WebhookParameter = Field(
        default=None,
        description="URL that receives a signed message when the job has ended (Standard Webhooks); none if absent",
    )

    def asked(self) -> dict[str, Any]:
        """What an Idempotency-Key stands for. A request that earlier versions knew stands for what it did there."""
        given = self.model_dump()
        if self.quality is None:
            given |= {name: value for name, value in _BEST.items() if given[name] is None}
        return {name: value for name, value in given.items() if name not in _LATER or value != _LATER[name]}

    def sampling(self, kind: str, manifest: Manifest, settings: Settings) -> SamplingParams:
        """The parameters with a seed and every default filled in, but for what an upload decides. Raises Problem if the
        model or this service does not support them."""
        given = {name: getattr(self, name) for name in _SAMPLING if hasattr(self, name)}
        try:
            return resolve_params(kind, manifest, given, settings)
        except RequestError as error:
            raise refuse_parameter(error, given.get(error.field)) from error


class Lasting(BaseModel):
    """Parameter of jobs whose length can be chosen."""

    duration: float | None = Field(
        default=None,
        ge=limits.MIN_DURATION,
        le=limits.MAX_DURATION,
        description="seconds of the clip, in whole frames, at most DUET_MAX_OUTPUT_S; if absent, the rest of "
        "the upload from `start` on, or without an upload the model's own duration",
    )


class SuperResolutionParameters(BaseModel):
    """Parameters of jobs that generate frames."""

    super_resolution: bool | None = Field(
        default=None, description="enlarge the frames; if absent, true for models that can"
    )
    sr_sampler: Annotated[str, OneOf((*limits.SR_SAMPLERS, limits.TUNED))] | None = Field(
        default=None,
        description="from the noised frame with dpmpp_2m and tuned, from noise with ddim; that of the quality if "
        "absent, which is dpmpp_2m for best",
    )
    sr_steps: int | None = Field(
        default=None,
        ge=1,
        le=limits.MAX_SR_STEPS,
        description="evaluations of the super-resolution network; if absent those of the quality (fast 3, balanced 4, "
        "best 8), with ddim 25",
    )
    sr_start: int | None = Field(
        default=None,
        ge=1,
        le=limits.MAX_SR_START,
        description="diffusion time at which dpmpp_2m starts from the noised frame: an index of the model's schedule, "
        "at most its last, 999 in most models; the lower, the closer to the frame as it is. The last if absent",
    )


class Conditional(Lasting):
    """Parameters of jobs with an upload."""

    start: float = Field(default=0.0, ge=0, description="start of the window in the upload, in seconds")


class BestOf(BaseModel):
    """Parameters that keep the best outputs."""

    keep: int | None = Field(
        default=None,
        ge=1,
        le=limits.MAX_OUTPUTS,
        description="number of clips to keep, at most `num_outputs`: the best by `rank_by`; all if absent",
    )
    rank_by: Annotated[str, OneOf(limits.RANKINGS)] | None = Field(
        default=None, description="with `keep`, the score that decides, best first; sync if absent"
    )


class GenerateParameters(BestOf, SuperResolutionParameters, Lasting, Parameters):
    """Generate a video with sound."""


class V2AParameters(BestOf, Conditional, MixParameters, Parameters):
    """Generate sound for a video."""


class A2VParameters(BestOf, Conditional, SuperResolutionParameters, Parameters):
    """Generate video for a sound."""


class EditParameters(BestOf, EditFields, MixParameters, SuperResolutionParameters, Parameters):
    """Make parts of a video anew."""


async def json_parameters(request: Request) -> GenerateParameters:
    """Parameters from a JSON body; without a body, the defaults. Raises Problem 400, 415 or 422."""
    body = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != "application/json" and not media_type.endswith("+json"):
        raise Problem(415, "unsupported_media_type", "The body must be JSON, with Content-Type: application/json.")
    try:
        return GenerateParameters.model_validate(parse_json(body, "The body") if body else {})
    except ValidationError as error:
        raise refuse(error, GenerateParameters) from error


def parse_json(text: str | bytes, what: str) -> Any:
    """The value of `text`. Raises Problem 400 if it is not JSON; `what` is its name in the message."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        raise Problem(400, "malformed", f"{what} is not JSON: {error}.") from error


def refuse(error: ValidationError, model: type[Parameters]) -> Problem:
    """The problem that lists the invalid fields with their values and the allowed values."""
    errors = []
    for item in error.errors(include_url=False, include_context=False):
        name = _field(item["loc"])
        if not name:
            errors.append(FieldError("", item["input"], "a JSON object of parameters"))
        elif item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            errors.append(FieldError(name, item["input"], f"only {', '.join(model.model_fields)}"))
        else:
            errors.append(FieldError(name, item["input"], allowed(model, name)))
    names = ", ".join(dict.fromkeys(error.field or "the body" for error in errors))
    return Problem(422, "invalid_parameter", f"Invalid value: {names}.", errors)


def refuse_parameter(error: RequestError, given: Any) -> Problem:
    """The problem of a parameter that the model, the service or the upload does not allow."""
    return Problem(422, "invalid_parameter", f"{error}.", [FieldError(error.field, given, str(error))])


def _field(location: tuple[int | str, ...]) -> str:
    """The name of the field with the error; for a part of a field, such as `webhook.url`, that of the part."""
    parts = [str(part) for part in location if part not in mix_parameters.TAGS]
    names = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((name for name in names if _pattern(name) in _ALLOWED), parts[0] if parts else "")


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def allowed(model: type[BaseModel], name: str) -> str:
    """The allowed values of the field, in words."""
    if _pattern(name) in _ALLOWED:
        return _ALLOWED[_pattern(name)]
    if name == "metadata":
        return "an object of at most 16 strings of at most 512 characters, with names of 1 … 64 characters"
    schema = model.model_json_schema()["properties"][name]
    schema = next((choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"), schema)
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    words = _WORDS[schema["type"]]
    if "maximum" in schema:
        return f"{words} {schema['minimum']} … {schema['maximum']}"
    return f"{words} of at least {schema['minimum']}" if "minimum" in schema else words
