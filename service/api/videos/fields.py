"""The fields of a request for a video, and what they are as parameters of Duet's own routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from model import request as limits
from model.checkpoint.manifest import Manifest
from service.api.edit_parameters import NAMES as EDITS
from service.api.models import resolutions
from service.api.parameters import (
    A2VParameters,
    EditParameters,
    GenerateParameters,
    V2AParameters,
    allowed,
    parse_json,
    refuse,
)
from service.api.problems import FieldError, Problem
from service.api.prompt_parameters import Words
from service.jobs.intake import Kind

JobParameters = GenerateParameters | V2AParameters | A2VParameters | EditParameters

_PARAMETERS: dict[Kind, type[JobParameters]] = {
    "generate": GenerateParameters,
    "v2a": V2AParameters,
    "a2v": A2VParameters,
    "edit": EditParameters,
}
_KEEPS_FRAMES = ("v2a", "edit")
"""Kinds of job whose result has the frames of the upload."""

_NAMES = {
    "seconds": "duration",
    "num_frames": "duration",
    "num_inference_steps": "steps",
    "guidance_scale": "prompt_scale",
    "size": "super_resolution",
    "width": "super_resolution",
    "user": "metadata",
}
"""Parameters of Duet by the fields that set them, where the names differ."""

FILE = "input_reference"
"""Name of the part of a form that is a file."""

_SECONDS = r"^\d{1,4}(\.\d{1,6})?$"
_SIZE = r"^\d{1,5}x\d{1,5}$"
_ALLOWED = {
    "seconds": f"a number {limits.MIN_DURATION:g} … {limits.MAX_DURATION:g}",
    "size": "width and height in pixels, such as 128x128",
    "generate_sound": "true: Duet makes no video without sound",
    "user": "a string of at most 512 characters",
    "extra_params": 'a JSON object of Duet\'s own parameters, such as {"sampler": "ddim"}',
    FILE: "a video or a sound as an uploaded file; URLs and ids of files are not fetched",
    "image_reference": "nothing: no model of this service begins with a picture",
    "video_reference": "nothing: upload the video as `input_reference`",
    "audio_reference": "nothing: upload the sound as `input_reference`",
}
"""Allowed values of fields, where the schema does not say them, and of fields that are known but not taken."""


def _true(value: bool) -> bool:
    if not value:
        raise ValueError(_ALLOWED["generate_sound"])
    return value


class VideoParameters(BaseModel):
    """Fields of `POST /v1/videos` and `POST /v1/videos/sync`, without the file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Words | None = Field(
        default=None,
        examples=["", "a heavy thunderstorm at night"],
        description="what the video shows and sounds like; left out or empty for models that know no words",
    )
    model: str | None = Field(
        default=None, examples=["demo"], description="name from /models; the default model if absent"
    )
    seconds: (
        Annotated[
            float,
            Field(ge=limits.MIN_DURATION, le=limits.MAX_DURATION),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "number", "minimum": limits.MIN_DURATION, "maximum": limits.MAX_DURATION},
                        {"type": "string", "pattern": _SECONDS},
                    ]
                }
            ),
        ]
        | None
    ) = Field(
        default=None,
        examples=["1.6"],
        description="length of the clip; if absent, the model's own, or to the end of the upload",
    )
    size: str | None = Field(
        default=None,
        pattern=_SIZE,
        examples=["128x128"],
        description="one of the model's `resolutions` in /models; the largest if absent. Not with a video",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=limits.MAX_SEED,
        description="the same seed reproduces the video; drawn by the server if absent",
    )
    negative_prompt: Words | None = Field(
        default=None, examples=["wind"], description="with `prompt`, what the video moves away from; nothing if absent"
    )
    width: int | None = Field(default=None, ge=1, le=99_999, description="with `height`, in place of `size` if absent")
    height: int | None = Field(default=None, ge=1, le=99_999, description="with `width`, in place of `size` if absent")
    num_frames: int | None = Field(
        default=None, ge=1, le=600_000, description="in place of `seconds`: frames at the model's rate; none if absent"
    )
    fps: float | None = Field(
        default=None, ge=1, le=1000, description="frames a second, which must be the model's; the model's if absent"
    )
    num_inference_steps: int | None = Field(
        default=None, ge=1, le=limits.MAX_STEPS, description="parameter `steps`; those of the quality if absent"
    )
    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=limits.MAX_PROMPT_SCALE,
        description="parameter `prompt_scale`: with `prompt`, how strongly it guides; that of the model if absent",
    )
    generate_sound: (
        Annotated[bool, AfterValidator(_true), WithJsonSchema({"type": "boolean", "enum": [True]})] | None
    ) = Field(default=None, description="every video has sound, also if absent")
    user: str | None = Field(
        default=None, max_length=512, description="kept in the job's `metadata`; nothing if absent"
    )
    extra_params: dict[str, Any] | None = Field(
        default=None,
        max_length=40,
        json_schema_extra={"examples": [{"quality": "fast"}]},
        description="further parameters of Duet, such as `quality`, `sampler`, `mix` or `webhook`; with `retake`, "
        "`extend` or `region` the uploaded video is edited; not `model`, which is a field; none if absent",
    )

    def asked(self) -> dict[str, Any]:
        """What an Idempotency-Key stands for."""
        return self.model_dump(exclude_none=True)

    @property
    def edits(self) -> bool:
        """Whether an edit is asked for."""
        return any(name in EDITS for name in self.extra_params or {})

    @property
    def start(self) -> float:
        """Seconds into the upload; 0 for a value that `parameters` refuses."""
        start = (self.extra_params or {}).get("start")
        return float(start) if isinstance(start, int | float) and 0 <= start <= limits.MAX_DURATION else 0.0

    def duration(self, manifest: Manifest) -> float | None:
        """Seconds of the clip; None if it is not given. Raises Problem."""
        if self.num_frames is None:
            return self.seconds
        if self.seconds is not None:
            raise _invalid("num_frames", self.num_frames, "left out with seconds")
        return round(self.num_frames / manifest.config.clip.fps, 6)

    def parameters(self, kind: Kind, manifest: Manifest) -> JobParameters:
        """The parameters of a job of `kind`, which is "edit" exactly if `edits`. Raises Problem."""
        own = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "model": self.model,
            "seed": self.seed,
            "steps": self.num_inference_steps,
            "prompt_scale": self.guidance_scale,
            "duration": self.duration(manifest),
            "super_resolution": self._super_resolution(kind, manifest),
            "metadata": None if self.user is None else {"user": self.user},
        }
        self._check_rate(kind, manifest)
        given = {name: value for name, value in own.items() if value is not None}
        further = self.extra_params or {}
        if twice := sorted(given.keys() & further.keys()):
            field = self._given_names().get(twice[0], twice[0])
            words = f"given only once, here or as extra_params.{twice[0]}"
            raise _invalid(field, getattr(self, field), words)
        model = _PARAMETERS[kind]
        try:
            return model.model_validate(given | further)
        except ValidationError as error:
            raise refuse(error, model) from error

    def in_dialect(self, problem: Problem) -> Problem:
        """The problem with the names of the given fields in place of the parameters that they set."""
        names = self._given_names() | {"file": FILE}
        errors, detail = [], problem.detail
        for each in problem.errors:
            name = names.get(each.field, each.field)
            said = each.allowed
            if name != each.field and name not in ("num_frames", FILE):
                said, detail = (re.sub(rf"\b{each.field}\b", name, text) for text in (said, detail))
            if name == "prompt" and said.endswith("knows no words"):
                detail += " Send an empty prompt."
            errors.append(FieldError(name, each.got, said))
        return Problem(problem.status_code, problem.code, detail, errors, problem.headers)

    def _given_names(self) -> dict[str, str]:
        """The fields that are given, by the parameters that they set, where the names differ."""
        return {parameter: field for field, parameter in _NAMES.items() if getattr(self, field) is not None}

    def _super_resolution(self, kind: Kind, manifest: Manifest) -> bool | None:
        """Whether the frames of the size that is asked for are enlarged. None if no size is. Raises Problem."""
        if (self.width is None) != (self.height is None):
            given, other = ("width", "height") if self.height is None else ("height", "width")
            raise _invalid(given, getattr(self, given), f"given together with {other}")
        field, size = ("size", self.size) if self.width is None else ("width", f"{self.width}x{self.height}")
        if size is None:
            return None
        if field == "width" and self.size is not None:
            raise _invalid("width", self.width, "left out with size")
        if kind in _KEEPS_FRAMES:
            raise _invalid(field, size, "left out with a video, whose frames keep their size")
        sizes = {f"{each.width}x{each.height}": each.super_resolution for each in resolutions(manifest)}
        if size not in sizes:
            raise _invalid(field, size, f"one of {', '.join(sizes)} for the model {manifest.name}")
        return sizes[size]

    def _check_rate(self, kind: Kind, manifest: Manifest) -> None:
        """Raise Problem for a rate or a number of frames that does not apply."""
        rate = manifest.config.clip.fps
        for field in ("fps", "num_frames"):
            if getattr(self, field) is not None and kind in _KEEPS_FRAMES:
                raise _invalid(field, getattr(self, field), "left out with a video, whose frames are kept")
        if self.fps is not None and self.fps != rate:
            raise _invalid("fps", self.fps, f"{rate}, the rate of the model {manifest.name}")


def from_form(fields: Mapping[str, str]) -> VideoParameters:
    """The fields of a form. Raises Problem 400, 422."""
    _refuse_references(fields)
    given: dict[str, Any] = dict(fields)
    extra = given.pop("extra_params", None)
    try:
        found = VideoParameters.model_validate_strings(given)
        if extra is None:
            return found
        nested = VideoParameters.model_validate({"extra_params": parse_json(extra, "The field extra_params")})
        return _checked(found.model_copy(update={"extra_params": nested.extra_params}))
    except ValidationError as error:
        raise _refuse(error) from error


def from_json(body: bytes) -> VideoParameters:
    """The fields of a JSON object. Raises Problem 400, 422."""
    given = parse_json(body, "The body")
    if isinstance(given, dict):
        _refuse_references(given)
        if isinstance(given.get("seconds"), str) and re.fullmatch(_SECONDS, given["seconds"]):
            given["seconds"] = float(given["seconds"])
    try:
        return _checked(VideoParameters.model_validate(given))
    except ValidationError as error:
        raise _refuse(error) from error


def _checked(found: VideoParameters) -> VideoParameters:
    """The fields. Raises Problem if `extra_params` has a model: sizes, frames and rates are those of the field's."""
    further = found.extra_params or {}
    if "model" in further:
        raise _invalid("extra_params.model", further["model"], "left out: the model is given by the field `model`")
    return found


def _refuse_references(given: Mapping[str, Any]) -> None:
    """Raise Problem for a file that is not uploaded. OpenAI's clients send the fields of an object in a form as
    `input_reference[image_url]`."""
    for name, value in given.items():
        field = name.partition("[")[0]
        if field in _ALLOWED and (field != name or field not in VideoParameters.model_fields):
            raise _invalid(field, value, _ALLOWED[field])


def _refuse(error: ValidationError) -> Problem:
    errors = []
    for item in error.errors(include_url=False, include_context=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        if not name:
            words = "a JSON object of fields"
        elif name not in VideoParameters.model_fields:
            words = f"only {', '.join(VideoParameters.model_fields)} and the file {FILE}"
        else:
            words = _ALLOWED.get(name) or allowed(VideoParameters, name)
        errors.append(FieldError(name, item["input"], words))
    names = ", ".join(dict.fromkeys(each.field or "the body" for each in errors))
    return Problem(422, "invalid_parameter", f"Invalid value: {names}.", errors)


def _invalid(field: str, got: Any, words: str) -> Problem:
    return Problem(422, "invalid_parameter", f"Invalid value: {field}.", [FieldError(field, got, words)])
