"""The tools: their names, descriptions and argument schemas.

The arguments that describe a clip are the parameters of the API, with its descriptions and limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_types import Tool, ToolAnnotations

from duet.client.parameters import Kind
from duet.mcp.sources import ANYWHERE, HERE
from service.api.parameters import A2VParameters, EditParameters, GenerateParameters, Parameters, V2AParameters

MAX_WAIT = 600
"""Seconds."""

DEFAULT_WAIT = 45
"""Seconds. Many hosts end a tool call after 60."""

_LEFT_OUT = ("priority", "metadata", "webhook")
"""Parameters of the API that agents have no use for."""


@dataclass(frozen=True)
class Making:
    """A tool that makes a clip: the kind of its job, its parameters, and a description."""

    kind: Kind
    parameters: type[Parameters]
    title: str
    description: str
    file: str | None = None


MAKING = {
    "generate": Making(
        "generate",
        GenerateParameters,
        "Generate a video with sound",
        "Generate a new video with matching sound, from noise or from a prompt if the model knows words.",
    ),
    "sound_for_video": Making(
        "v2a",
        V2AParameters,
        "Make a sound for a video",
        "Generate a soundtrack that fits a video. The pictures stay as they are.",
        "the video",
    ),
    "video_for_sound": Making(
        "a2v",
        A2VParameters,
        "Make a video for a sound",
        "Generate a video that fits a sound, or the sound of a video. The sound stays as it is.",
        "the sound, or a video with sound",
    ),
    "edit": Making(
        "edit",
        EditParameters,
        "Make parts of a video anew",
        "Make parts of a video anew and keep the rest. Takes exactly one of retake (spans of sound or pictures), "
        "extend (more at either end) and region (a part of the picture).",
        "the video",
    ),
}
"""By name."""

_RESULT = (
    " Returns the job and links to its files: video.mp4, audio.wav, a poster, a spectrogram and a manifest. If it has "
    "not ended within `wait` seconds, it goes on: call `job` with its id."
)


def tools(local: bool) -> list[Tool]:
    """All tools. `local`: files are on the caller's machine, so paths are allowed."""
    file = HERE if local else ANYWHERE
    folder = {"save_to": _text("absolute path of a folder to save video.mp4 and audio.wav of each clip to")}
    saving = folder if local else {}
    making = [
        Tool(
            name=name,
            title=each.title,
            description=each.description + _RESULT,
            input_schema=_schema(
                ({"file": _text(f"{each.file}: {file}")} if each.file else {})
                | (
                    {"mask": _text(f"a PNG that says where the region is, white is made anew: {file}")}
                    if name == "edit"
                    else {}
                )
                | _parameters(each.parameters)
                | {"wait": _wait(DEFAULT_WAIT)}
                | saving,
                required=["file"] if each.file else [],
            ),
            annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False),
        )
        for name, each in MAKING.items()
    ]
    job = {"id": _text("id of a job, as the tools that make clips return it")}
    return [
        *making,
        Tool(
            name="job",
            title="Look at a job",
            description="The state of a job, and its files once it has completed.",
            input_schema=_schema(job | {"wait": _wait(0)} | saving, required=["id"]),
            annotations=ToolAnnotations(read_only_hint=not local, destructive_hint=False, open_world_hint=False),
        ),
        Tool(
            name="cancel",
            title="Cancel a job",
            description="Cancel a job: at once if it is queued, within a step if it runs.",
            input_schema=_schema(job, required=["id"]),
            annotations=ToolAnnotations(
                read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
            ),
        ),
        Tool(
            name="verify",
            title="Check how a file was made",
            description="What a video or a sound, of any origin, says about its making, by its Content Credentials "
            "(C2PA): valid, untrusted, tampered, unreadable or none; whether a model made all or part of it, and "
            "which. The file is not kept.",
            input_schema=_schema({"file": _text(f"a video or a sound: {file}")}, required=["file"]),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
        Tool(
            name="models",
            title="List the models",
            description="The models of the service: which one is the default, whether they take prompts (`text`, with "
            "examples), and how fast they are.",
            input_schema=_schema({}, required=[]),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
    ]


def _schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _wait(default: int) -> dict[str, Any]:
    return {
        "type": "number",
        "minimum": 0,
        "maximum": MAX_WAIT,
        "default": default,
        "description": "seconds to wait for the result; 0 returns at once",
    }


def _parameters(model: type[Parameters]) -> dict[str, Any]:
    """JSON schemas of the parameters. An absent parameter replaces null, which some hosts cannot express."""
    found = model.model_json_schema()["properties"]
    return {name: _argument(schema) for name, schema in found.items() if name not in _LEFT_OUT}


def _argument(schema: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in schema.items() if name != "title"}
    if "description" in rest:
        rest["description"] = re.sub(r"`?/models`?", "the tool `models`", rest["description"])
    choices = [each for each in rest.get("anyOf", ()) if each.get("type") != "null"]
    if choices and rest.get("default") is None:
        rest.pop("default", None)
    if len(choices) == 1:
        rest = choices[0] | {name: value for name, value in rest.items() if name != "anyOf"}
    return rest
