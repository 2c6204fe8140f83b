"""What an edit gives to the network: a section of the upload, and masks of what is new in it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from model.media.content_box import ContentBox, content_box
from model.media.edits import MASK_NAME, Edit, Span
from model.media.region_mask import read_scaled_mask, rectangle_mask
from model.media.splice import displayed_shape, section_frames, section_sound
from model.networks.config import ClipSpec
from model.runtime.edit import EditCondition
from service.jobs.record import Job
from workers.decoder import Bounds, confined_within

ROUNDING = 1e-6
"""Seconds."""


def edit_condition(job: Job, edit: Edit, clip: ClipSpec, source: Path, bounds: Bounds) -> EditCondition:
    """The section of `source`, of the length of `clip`, and its masks. A mask picture is beside the source.

    A file without sound gives none to keep, so all of it is new; what is outside the spans is not used. Decoded in
    child processes. Raises MediaError, DecoderLost, DecoderFault.
    """
    assert job.input is not None
    frames = confined_within(bounds, section_frames, source, clip, edit.start)
    rows, columns, wide, high = json.loads(confined_within(bounds, displayed_shape, source))
    box = content_box(rows, columns, Fraction(wide, high), clip.height, clip.width)
    picture = None
    if edit.mask is not None:
        picture = confined_within(bounds, read_scaled_mask, source.with_name(MASK_NAME), box.rows, box.columns)
    new_video = video_mask(edit, clip, box, picture)
    if job.input.audio is None:
        return EditCondition(frames, torch.zeros(clip.audio_shape), new_video, torch.ones(clip.samples))
    sound = confined_within(bounds, section_sound, source, clip, edit.start)
    return EditCondition(frames, sound, new_video, audio_mask(edit, clip))


def video_mask(edit: Edit, clip: ClipSpec, box: ContentBox, picture: Tensor | None) -> Tensor:
    """(frames, height, width): 1 where the section is new. The black around a letter-boxed picture is known.

    `picture`: the mask picture at the size of `box`, in [0, 1], if there is one.
    A frame is new if any of the time for which it is shown is; with `extend`, if it begins in what is added.
    """
    inside = torch.ones(box.rows, box.columns)
    if edit.region is not None:
        if picture is not None:
            inside = picture
        elif edit.region.rectangle is not None:
            inside = rectangle_mask(edit.region.rectangle, box.rows, box.columns)
    whole = torch.zeros(clip.height, clip.width)
    whole[box.top : box.top + box.rows, box.left : box.left + box.columns] = (inside > 0).float()
    begins = edit.start + torch.arange(clip.frames, dtype=torch.float64) / clip.fps
    stays = 0.0 if edit.extend is not None else 1 / clip.fps
    return _in_spans(_unknown(edit), begins, begins + stays).float()[:, None, None] * whole


def audio_mask(edit: Edit, clip: ClipSpec) -> Tensor:
    """(samples,): 1 where the section's sound is new."""
    spans = _unknown(edit) if edit.extend is not None else edit.audio
    times = edit.start + torch.arange(clip.samples, dtype=torch.float64) / clip.sample_rate
    return _in_spans(spans, times, times).float()


def _unknown(edit: Edit) -> tuple[Span, ...]:
    """Spans of new pictures; what an extension adds, to the end of the section."""
    if edit.extend is None:
        return edit.video
    before = ((-float("inf"), 0.0),) if edit.before else ()
    return (*before, (edit.length, float("inf"))) if edit.after else before


def _in_spans(spans: tuple[Span, ...], begins: Tensor, ends: Tensor) -> Tensor:
    """Whether any of [begin, end], or its beginning if that is all, is in a span."""
    found = torch.zeros(begins.shape, dtype=torch.bool)
    for start, end in spans:
        found |= (begins < end - ROUNDING) & ((ends > start + ROUNDING) | (begins >= start - ROUNDING))
    return found
