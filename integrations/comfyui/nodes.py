"""The nodes, by ComfyUI's contract of classes (`INPUT_TYPES`, `RETURN_TYPES`, `FUNCTION`), which all versions load.

A node has no IS_CHANGED: the same inputs with the same seed give the same clip, so ComfyUI may reuse the last result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths

from duet.client.blocking import Job

from . import media
from .running import connect, run

MAX_SEED = 2**53 - 1
LONGEST = 86_400.0
"""Greatest number of a widget for seconds. The server has the limit that counts."""

Input = tuple[Any, dict[str, Any]]
Inputs = dict[str, dict[str, Input]]

EDITS = {
    "retake sound": ("audio",),
    "retake pictures": ("video",),
    "retake both": ("audio", "video"),
    "extend": (),
    "region": (),
}
"""Kinds of edit, and what a retake makes anew."""


def _seconds(tooltip: str) -> Input:
    return "FLOAT", {"default": 0.0, "min": 0.0, "max": LONGEST, "step": 0.01, "tooltip": tooltip}


def _share(default: float, tooltip: str) -> Input:
    return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip}


def _words(tooltip: str, multiline: bool = True) -> Input:
    return "STRING", {"default": "", "multiline": multiline, "tooltip": tooltip}


SAMPLING: dict[str, Input] = {
    "seed": (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": MAX_SEED,
            "control_after_generate": True,
            "tooltip": "The same seed gives the same clip.",
        },
    ),
    "quality": (["best", "balanced", "fast"], {"tooltip": "20, 10 or 6 steps, with the samplers that suit them."}),
}
WORDS: dict[str, Input] = {
    "prompt": _words("Only for models that take words: others refuse it."),
    "negative_prompt": _words("What the clip should not be like. Only for models that take words."),
    "model": _words("Name of a model of the server; empty: its default.", multiline=False),
}
DURATION = _seconds("Seconds to make; 0: the server's default.")
MIX = (["replace", "under", "over"], {"tooltip": "New sound in place of the video's own, below it or above it."})


class _Node:
    """Class attributes that the nodes share."""

    CATEGORY = "Duet"
    FUNCTION = "execute"


class DuetGenerate(_Node):
    """A video with sound, from noise."""

    DESCRIPTION = "Generates a video with its sound, on a Duet server."
    RETURN_TYPES = ("VIDEO", "IMAGE", "AUDIO")
    RETURN_NAMES = ("video", "images", "audio")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {**SAMPLING, "duration": DURATION}, "optional": WORDS}

    def execute(self, seed: int, quality: str, duration: float = 0.0, **words: str) -> tuple[Any, ...]:
        arguments = _arguments(seed, quality, words, duration=duration)
        with connect() as duet:
            video, sound = _result(run(lambda _: duet.generate(**arguments)))
        return media.read_video(video), media.read_frames(video), media.read_sound(sound)


class DuetSoundForVideo(_Node):
    """v2a: a soundtrack for a video."""

    DESCRIPTION = "Generates a soundtrack for a video or for frames, on a Duet server. The frames stay as they are."
    RETURN_TYPES = ("VIDEO", "AUDIO")
    RETURN_NAMES = ("video", "audio")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                **SAMPLING,
                "start": _seconds("Where in the video the part begins that is used."),
                "duration": _seconds("Seconds to use; 0: all."),
                "mix": MIX,
                "frame_rate": (
                    "FLOAT",
                    {"default": 24.0, "min": 1.0, "max": 240.0, "step": 0.01, "tooltip": "Of `images` only."},
                ),
            },
            "optional": {
                "video": ("VIDEO", {"tooltip": "Either this or images."}),
                "images": ("IMAGE", {"tooltip": "Frames, in place of a video."}),
                "audio": ("AUDIO", {"tooltip": "Own sound of `images`, for the mix."}),
                **WORDS,
            },
        }

    def execute(
        self,
        seed: int,
        quality: str,
        start: float,
        duration: float,
        mix: str,
        frame_rate: float,
        video: Any = None,
        images: Any = None,
        audio: dict[str, Any] | None = None,
        **words: str,
    ) -> tuple[Any, ...]:
        _exactly_one(video=video, images=images)
        if audio is not None and images is None:
            raise ValueError("audio: allowed only with images, because a video has its own sound")
        arguments = _arguments(seed, quality, words, start=start, duration=duration)
        if mix != "replace":
            arguments["mix"] = mix
        with _temporary() as folder, connect() as duet:
            if video is not None:
                file = media.video_file(video, folder)
            else:
                file = media.frames_file(images, frame_rate, audio, folder)
            made, sound = _result(run(lambda on_upload: duet.v2a(file, on_upload=on_upload, **arguments)))
        return media.read_video(made), media.read_sound(sound)


class DuetVideoForSound(_Node):
    """a2v: a video for a sound."""

    DESCRIPTION = "Generates a video for a sound, or for the sound of a video, on a Duet server."
    RETURN_TYPES = ("VIDEO", "IMAGE", "AUDIO")
    RETURN_NAMES = ("video", "images", "audio")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                **SAMPLING,
                "start": _seconds("Where in the sound the part begins that is used."),
                "duration": _seconds("Seconds to use; 0: all."),
            },
            "optional": {
                "audio": ("AUDIO", {"tooltip": "Either this or video."}),
                "video": ("VIDEO", {"tooltip": "A video whose sound is used."}),
                **WORDS,
            },
        }

    def execute(
        self,
        seed: int,
        quality: str,
        start: float,
        duration: float,
        audio: dict[str, Any] | None = None,
        video: Any = None,
        **words: str,
    ) -> tuple[Any, ...]:
        _exactly_one(audio=audio, video=video)
        arguments = _arguments(seed, quality, words, start=start, duration=duration)
        with _temporary() as folder, connect() as duet:
            file = media.sound_file(audio, folder) if audio is not None else media.video_file(video, folder)
            made, sound = _result(run(lambda on_upload: duet.a2v(file, on_upload=on_upload, **arguments)))
        return media.read_video(made), media.read_frames(made), media.read_sound(sound)


class DuetEdit(_Node):
    """Parts of a video made anew; the rest stays."""

    DESCRIPTION = "Makes a span, more at either end, or a region of a video anew, on a Duet server. The rest stays."
    RETURN_TYPES = ("VIDEO", "AUDIO")
    RETURN_NAMES = ("video", "audio")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "video": ("VIDEO", {}),
                "edit": (list(EDITS), {"tooltip": "What is made anew."}),
                **SAMPLING,
                "start": _seconds("Retake and region: where it begins."),
                "end": _seconds("Retake and region: where it ends; 0 for a region: the end of the video."),
                "before": _seconds("Extend: seconds to add before the video."),
                "after": _seconds("Extend: seconds to add after the video."),
                "x": _share(0.25, "Region: left edge, in shares of the width."),
                "y": _share(0.25, "Region: upper edge, in shares of the height."),
                "width": _share(0.5, "Region: share of the width."),
                "height": _share(0.5, "Region: share of the height."),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "Region: 1 where the picture is made anew, in place of the rectangle."}),
                **WORDS,
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        edit: str | None = None,
        start: float | None = None,
        end: float | None = None,
        before: float | None = None,
        after: float | None = None,
    ) -> bool | str:
        """Refuse what cannot work before anything is queued; a value that comes from another node is None here."""
        if edit is None:
            return True
        if edit not in EDITS:
            return f"edit: got {edit!r}, allowed: {', '.join(EDITS)}"
        ends_early = start is not None and end is not None and end <= start
        if EDITS[edit] and ends_early:
            return f"end: got {end:g}, allowed: more than start ({start:g})"
        if edit == "region" and end and ends_early:
            return f"end: got {end:g}, allowed: more than start ({start:g}), or 0 for the end of the video"
        if edit == "extend" and before == 0 and after == 0:
            return "before, after: got 0 for both, allowed: seconds to add in at least one of them"
        return True

    def execute(
        self, video: Any, edit: str, seed: int, quality: str, mask: Any = None, **given: Any
    ) -> tuple[Any, ...]:
        if mask is not None and edit != "region":
            raise ValueError(f"mask: allowed only with the edit region, not with {edit}")
        with _temporary() as folder, connect() as duet:
            arguments = _arguments(seed, quality, given) | _edit(edit, given, mask is not None)
            if mask is not None:
                arguments["mask"] = media.mask_file(mask, folder)
            file = media.video_file(video, folder)
            made, sound = _result(run(lambda on_upload: duet.edit(file, on_upload=on_upload, **arguments)))
        return media.read_video(made), media.read_sound(sound)


def _edit(edit: str, given: dict[str, Any], has_mask: bool) -> dict[str, Any]:
    """The argument of the client that says what is made anew."""
    if kinds := EDITS[edit]:
        return {"retake": {kind: [[given["start"], given["end"]]] for kind in kinds}}
    if edit == "extend":
        return {"extend": {side: given[side] for side in ("before", "after") if given[side] > 0}}
    names = () if has_mask else ("x", "y", "width", "height")
    times = {name: given[name] for name in ("start", "end") if given[name] > 0}
    return {"region": {name: given[name] for name in names} | times}


def _arguments(seed: int, quality: str, given: dict[str, Any], **seconds: float) -> dict[str, Any]:
    """Arguments of the client: 0 seconds and empty words are omitted, so that the server's defaults apply."""
    words = {name: given.get(name, "").strip() for name in WORDS}
    optional = {name: value for name, value in {**words, **seconds}.items() if value}
    return {"seed": seed, "quality": quality, **optional}


def _exactly_one(**inputs: Any) -> None:
    """Raises ValueError unless one of the two inputs is connected."""
    connected = [name for name, value in inputs.items() if value is not None]
    if len(connected) != 1:
        got = "both" if connected else "neither"
        raise ValueError(f"{', '.join(inputs)}: got {got}, allowed: exactly one of them connected")


def _result(job: Job) -> tuple[Path, Path]:
    """The video and the sound of the completed job, in ComfyUI's folder for temporary files, which ComfyUI empties."""
    folder = Path(folder_paths.get_temp_directory()) / "duet" / job.id
    folder.mkdir(parents=True, exist_ok=True)
    return job.save(folder / "video.mp4"), job.save(folder / "audio.wav", file="audio.wav")


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for what is uploaded."""
    parent = Path(folder_paths.get_temp_directory())
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="duet-", dir=parent) as name:
        yield Path(name)


NODE_CLASS_MAPPINGS: dict[str, type[_Node]] = {
    "DuetGenerate": DuetGenerate,
    "DuetSoundForVideo": DuetSoundForVideo,
    "DuetVideoForSound": DuetVideoForSound,
    "DuetEdit": DuetEdit,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DuetGenerate": "Duet: Generate",
    "DuetSoundForVideo": "Duet: Sound for Video",
    "DuetVideoForSound": "Duet: Video for Sound",
    "DuetEdit": "Duet: Edit Video",
}
