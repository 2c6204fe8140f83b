"""`duet edit`: make parts of a video anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from duet.cli.clips import make
from duet.cli.exit_status import usage_error
from duet.cli.job_spec import JobSpec
from duet.cli.options import (
    BEST,
    CLIP_OPTIONS,
    FRAMES,
    MIX,
    BestOptions,
    ClipOptions,
    FrameOptions,
    MixOptions,
    option,
    within,
)
from model.request import MAX_DURATION

EDIT = "The edit"


@Parameter(name="*", group=EDIT)
@dataclass(frozen=True)
class EditOptions:
    """What is made anew."""

    retake: Annotated[
        list[str] | None,
        option(
            "A span of sound or pictures to make anew, in seconds; may be repeated.", metavar="audio|video=START-END"
        ),
    ] = None
    extend: Annotated[float | None, option("Seconds to add after the end.", validator=within(0, MAX_DURATION))] = None
    extend_before: Annotated[
        float | None, option("Seconds to add before the beginning.", validator=within(0, MAX_DURATION))
    ] = None
    region: Annotated[
        str | None,
        option(
            "A part of the picture to make anew, in shares of it, and the seconds from and to which; with --mask only "
            "the seconds.",
            metavar="X,Y,WIDTH,HEIGHT[@START-END]",
        ),
    ] = None
    mask: Annotated[ExistingFile | None, option("A PNG that says where the region is: white is made anew.")] = None
    new_sound: Annotated[bool, option("With --region: make the sound of that time too.")] = False

    def params(self) -> dict[str, Any]:
        """Parameters of the API. Ends the command (exit status 2) if there is not exactly one edit, or one cannot be
        read."""
        found: dict[str, Any] = {}
        if self.retake:
            found["retake"] = _retake(self.retake)
        if self.extend is not None or self.extend_before is not None:
            sides = {"before": self.extend_before, "after": self.extend}
            found["extend"] = {name: seconds for name, seconds in sides.items() if seconds is not None}
        if self.region is not None or self.mask is not None:
            found["region"] = _region(self.region or "", self.mask is not None)
            found["region"] |= {"audio": "new"} if self.new_sound else {}
        if len(found) != 1:
            raise usage_error("--retake, --extend, --region", "exactly one kind of edit is needed")
        if self.new_sound and "region" not in found:
            raise usage_error("--new-sound", "only a region takes it")
        return found


EDIT_OPTIONS = EditOptions()


def edit(
    file: Annotated[ExistingFile, Parameter(help="A video.")],
    /,
    *,
    what: EditOptions = EDIT_OPTIONS,
    mix: MixOptions = MIX,
    options: ClipOptions = CLIP_OPTIONS,
    best: BestOptions = BEST,
    frames: FrameOptions = FRAMES,
) -> None:
    """Make parts of a video anew, in place, and keep the rest; prints the path of the new video."""
    params = options.params(best, frames, mix) | what.params()
    make(JobSpec("edit", params, file, mask=what.mask), f"{file.stem}-edit.mp4", options)


def _retake(given: list[str]) -> dict[str, Any]:
    spans: dict[str, list[list[float]]] = {}
    for text in given:
        side, equals, span = text.partition("=")
        if side not in ("audio", "video") or not equals:
            raise usage_error("--retake", f"{text!r} is not of the form audio=START-END or video=START-END")
        spans.setdefault(side, []).append(_span("--retake", span))
    return {side: sorted(each) for side, each in spans.items()}


def _region(text: str, has_mask: bool) -> dict[str, Any]:
    """`0.5,0.5,0.3,0.3@0-1.5`, or with a mask `0-1.5` or nothing."""
    rectangle, at, span = text.partition("@")
    if has_mask and not at:
        rectangle, span = "", text
    found: dict[str, Any] = {}
    if rectangle:
        try:
            x, y, width, height = (float(each) for each in rectangle.split(","))
        except ValueError as error:
            raise usage_error("--region", f"{text!r} is not of the form X,Y,WIDTH,HEIGHT[@START-END]") from error
        found = {"x": x, "y": y, "width": width, "height": height}
    if span:
        found["start"], found["end"] = _span("--region", span)
    return found


def _span(name: str, text: str) -> list[float]:
    try:
        start, end = (float(each) for each in text.split("-"))
    except ValueError as error:
        raise usage_error(name, f"{text!r} is not of the form START-END, in seconds") from error
    return [start, end]
