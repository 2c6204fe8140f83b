"""What the OpenAPI description says of `/v1/videos`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.api.conditional import without_null
from service.api.files import BINARY
from service.api.videos.creation import FORM, JSON, URLENCODED
from service.api.videos.fields import FILE, VideoParameters

_FILE_TYPES = "video/mp4, video/quicktime, video/webm, audio/wav, audio/mpeg, audio/mp4"


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of error responses, with those that every route of the dialect has."""
    content = {JSON: {"schema": {"$ref": "#/components/schemas/VideosError"}}}
    wanted = sorted({401, 429, 503, *statuses})
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in wanted}


def body() -> dict[str, Any]:
    """OpenAPI description of the three kinds of body, which `creation` reads."""
    whole = VideoParameters.model_json_schema()
    form = whole | {"properties": without_null(whole["properties"])}
    file = {
        "type": "string",
        "format": "binary",
        "description": "a video, which gets a sound, or a sound, which gets a video",
    }
    upload = form | {"properties": {FILE: file, **form["properties"]}}
    content = {
        FORM: {"schema": upload, "encoding": {FILE: {"contentType": _FILE_TYPES}}},
        JSON: {"schema": whole},
        URLENCODED: {"schema": form},
    }
    return {"requestBody": {"content": content}}


def media(*media_types: str) -> dict[str, Any]:
    """OpenAPI description of the content of a file."""
    return dict.fromkeys(media_types, BINARY)
