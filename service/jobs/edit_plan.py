"""Checks an edit against the upload, and chooses the section of it that the network sees.

The section has all that is new and, on each side, as much context as one window of the model lasts, so that half a
second of ten minutes costs as much as half a second of ten.
"""

from __future__ import annotations

import math
from dataclasses import replace

from model.media.edits import MIN_SPAN, Edit, Span
from model.networks.config import ClipSpec
from model.request import MIN_DURATION, RequestError, is_divisible

ROUNDING = 1e-6
"""Seconds."""

TOLERANCE = 0.001
"""Seconds by which a span may exceed a file's length, which containers round."""


def check_edit(edit: Edit, has_mask: bool) -> None:
    """Raise RequestError for an edit that no upload allows."""
    given = [name for name in ("retake", "extend", "region") if getattr(edit, name) is not None]
    if has_mask and given and given != ["region"]:
        raise RequestError("mask", "mask belongs to region only")
    if len(given) != 1:
        raise RequestError(given[1] if given else "retake", "exactly one of retake, extend and region is needed")
    if edit.retake is not None and not (edit.retake.audio or edit.retake.video):
        raise RequestError("retake", "retake needs at least one span of audio or video")
    if edit.extend is not None and not (edit.extend.before or edit.extend.after):
        raise RequestError("extend", "extend needs seconds before or after")
    for name, seconds in (("before", edit.before), ("after", edit.after)):
        if 0 < seconds < MIN_SPAN:
            raise RequestError(f"extend.{name}", f"extend.{name} must be 0 or at least {MIN_SPAN:g} s; got {seconds:g}")
    if edit.region is None:
        return
    region = edit.region
    for name in ("x", "y", "width", "height"):
        if (getattr(region, name) is None) != has_mask:
            why = "is left out with a mask" if has_mask else "is needed without a mask"
            raise RequestError(f"region.{name}", f"region.{name} {why}")
    if region.rectangle is not None:
        x, y, width, height = region.rectangle
        for name, first, size in (("width", x, width), ("height", y, height)):
            if first + size > 1 + ROUNDING:
                side = "x" if name == "width" else "y"
                raise RequestError(
                    f"region.{name}", f"region.{name} must be at most {1 - first:g}, from {side} {first:g} to the edge"
                )
    if region.end is not None and region.end - region.start < MIN_SPAN:
        raise RequestError("region.end", f"region.end must be at least {MIN_SPAN:g} s after region.start")


def plan_edit(edit: Edit, length: float, clip: ClipSpec, most: float) -> tuple[Edit, float]:
    """The edit of an upload of `length` seconds, with the section that a model of `clip` sees, and its seconds.

    `most`: seconds of a section, and of what is added. Raises RequestError.
    """
    edit = _within(replace(edit, length=length), length, clip, most)
    first, last = edit.extent
    window = clip.frames / clip.fps
    field = next(name for name in ("retake", "extend", "region") if getattr(edit, name) is not None)
    allowed = math.floor(most * clip.fps + ROUNDING) if is_divisible(clip) else clip.frames
    limit = allowed / clip.fps
    start = -math.ceil(edit.before * clip.fps - ROUNDING) / clip.fps if edit.before else first
    needed = math.ceil((last - start) * clip.fps - 1e-3)
    if edit.after:  # at least one frame begins after the upload's end
        needed = max(needed, math.ceil((length - start) * clip.fps - ROUNDING) + 1)
    if needed > allowed:
        why = f"{limit:g} s are the limit here" if is_divisible(clip) else f"the model makes {window:g} s only"
        if edit.before and edit.after:
            why += f", and the {length:g} s of the film between the two ends count"
        raise RequestError(field, f"{field} must lie within {limit:g} s, from the first to the last that is new: {why}")
    context = min(window, (limit - (last - first)) / 2)
    before = min(math.floor(min(context, max(0.0, first)) * clip.fps + ROUNDING), allowed - needed)
    start -= before / clip.fps
    end = max(last, min(last + context, length))
    frames = min(allowed, max(needed + before, math.ceil((end - start) * clip.fps - 1e-3)))
    if not is_divisible(clip):
        frames = clip.frames
    frames = max(frames, math.ceil(MIN_DURATION * clip.fps))
    return replace(edit, start=start), frames / clip.fps


def _within(edit: Edit, length: float, clip: ClipSpec, most: float) -> Edit:
    """The edit with spans that end where the upload does. Raises RequestError for what is beyond it."""
    if edit.extend is not None:
        for name, seconds in (("before", edit.before), ("after", edit.after)):
            if seconds > most:
                raise RequestError(f"extend.{name}", f"extend.{name} must be at most {most:g} s; got {seconds:g}")
        return edit
    if edit.retake is not None:
        sides = {name: _clipped(f"retake.{name}", getattr(edit.retake, name), length) for name in ("audio", "video")}
        edit = replace(edit, retake=replace(edit.retake, **sides))
    if edit.region is not None:
        region = edit.region
        if region.start > length - MIN_SPAN:
            raise RequestError(
                "region.start", f"region.start must be at most {length - MIN_SPAN:g}, before the file ends"
            )
        if region.end is not None and region.end > length + TOLERANCE:
            raise RequestError("region.end", f"region.end must be at most {length:g}, where the file ends")
        edit = replace(edit, region=replace(region, end=length if region.end is None else min(region.end, length)))
    whole_picture = edit.region is None or edit.region.rectangle == (0, 0, 1, 1)
    if whole_picture and all(_covers(spans, length, clip) for spans in (edit.audio, edit.video)):
        field = "retake" if edit.retake is not None else "region"
        raise RequestError(field, f"{field} must leave something of sound or pictures; all anew is what generate makes")
    return edit


def _clipped(field: str, spans: tuple[Span, ...], length: float) -> tuple[Span, ...]:
    for number, (_, end) in enumerate(spans):
        if end > length + TOLERANCE:
            raise RequestError(
                f"{field}.{number}", f"{field}.{number} must end at {length:g} at most, where the file does"
            )
    return tuple((start, min(end, length)) for start, end in spans)


def _covers(spans: tuple[Span, ...], length: float, clip: ClipSpec) -> bool:
    """Whether they leave less than a frame of the model."""
    return sum(end - start for start, end in spans) > length - 1 / clip.fps
