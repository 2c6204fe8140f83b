"""`POST /verify`: what an uploaded file says of its making."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.api.auth import CallerHere
from service.api.problems import FieldError, Problem, responses
from service.api.services import Services, ServicesHere
from service.api.uploads import receive_upload
from service.credentials.reading import UnknownFileError, read_credentials
from service.credentials.report import Report, Verdict
from service.jobs.intake import Source

router = APIRouter(tags=["verify"])


class ActionView(BaseModel):
    """Something that was done."""

    action: str | None = Field(description="a term of C2PA, such as `c2pa.created`")
    source_type: str | None = Field(description="digital source type of the IPTC")
    description: str | None = Field(description="in words")
    when: str | None = Field(description="time")


class IngredientView(BaseModel):
    """A file that was used."""

    title: str | None = Field(description="its title")
    media_type: str | None = Field(description="its media type")
    relationship: str | None = Field(description="`parentOf`, `componentOf` or `inputTo`")
    credentials: Verdict = Field(description="its own credentials when it was used")


class GeneratorModel(BaseModel):
    """The model of Duet that made it."""

    name: str | None = Field(description="name")
    weights_sha256: str | None = Field(description="SHA-256 that identifies the weights")


class VerifyReport(BaseModel):
    """What a file says of its making. All texts come from the file."""

    credentials: Verdict = Field(
        description="`valid`: unchanged since it was signed by a trusted certificate; `untrusted`: by an unknown one; "
        "`tampered`: changed afterwards; `unreadable`: damaged, or too much work; `none`: it has none"
    )
    generated: Literal["all", "part"] | None = Field(
        description="how much of it a model made; null: the file does not say"
    )
    made_by: str | None = Field(description="the program that signed it")
    signed_by: str | None = Field(description="name in the signer's certificate")
    signed_at: str | None = Field(description="time stamp of the signature; null without one")
    model: GeneratorModel | None = Field(description="the model, if Duet made it")
    actions: list[ActionView] = Field(description="what was done, in order; at most 100")
    ingredients: list[IngredientView] = Field(description="files that were used; at most 100")
    problems: list[str] = Field(description="codes of the C2PA specification, or a reason why it is unreadable")
    comment: str | None = Field(description="comment of Duet's mp4s, which is not signed")


_FILE = {
    "type": "string",
    "format": "binary",
    "description": "a video or a sound, made by Duet or by others",
}
_FORM = {"schema": {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}}


@router.post(
    "/verify",
    response_model=VerifyReport,
    response_description="what the file says of its making",
    responses=responses(400, 403, 408, 413, 415, 422, 429, 503, 507),
    openapi_extra=_BODY,
)
async def verify(request: Request, services: ServicesHere, caller: CallerHere) -> Report:
    """Read the Content Credentials (C2PA) of a file, of any origin. The file is not kept."""
    async with receive_upload(request, services.settings, services.concurrency, caller.name) as upload:
        if upload.fields:
            name = next(iter(upload.fields))
            raise Problem(422, "invalid_parameter", f"Unknown field: {name}.", [FieldError(name, None, "only file")])
        async with services.threads.probes.slot(caller.name):
            return await to_thread.run_sync(partial(_read, services, upload.source), limiter=services.threads.probing)


def _read(services: Services, source: Source) -> Report:
    """Raises Problem, ProbeUnavailableError."""
    try:
        return read_credentials(source.path, services.trusted)
    except UnknownFileError as error:
        wrong = FieldError("file", None, error.allowed)
        code, status = ("empty_file", 422) if source.bytes == 0 else ("unsupported_media", 415)
        raise Problem(status, code, f"{source.filename}: {error}.", [wrong]) from error
