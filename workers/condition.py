"""What a conditional job gives to the network: the uploaded side, decoded to the network's format."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from model.media.decode import decode_audio, write_frames
from model.request import clip_of
from model.runtime.edit import EditCondition
from model.runtime.pipeline import Pipeline
from service.jobs.record import Job
from workers.decoder import DecoderFault, clip_bounds, confined_within, no_check
from workers.edit_condition import edit_condition


def decode_condition(
    job: Job, pipeline: Pipeline, source: Path | None, folder: Path, check: Callable[[], None] = no_check
) -> Tensor | EditCondition | None:
    """Frames (frames, 3, height, width) uint8 for `v2a`, sound (1, samples) for `a2v`, both with masks for `edit`, None
    for `generate`.

    Decoded in a child process. Frames are kept in a file without a name on the disk of `folder`, whose pages the kernel
    reads as they are used. Raises MediaError for a file that cannot be decoded, OSError if the disk is full,
    DecoderLost, DecoderFault, and what `check` raises, which is called every half second.
    """
    if job.input is None or source is None:
        return None
    clip, start = clip_of(job.params.duration, pipeline.manifest.config.clip), job.input.used.start
    bounds = clip_bounds(clip.duration, check)
    if job.edit is not None:
        return edit_condition(job, job.edit, clip, source, bounds)
    if job.kind == "a2v":
        return confined_within(bounds, decode_audio, source, clip, start, folder)
    file = folder / "frames.rgb"
    try:
        confined_within(bounds, write_frames, source, clip, start, file)
        size = prod(clip.video_shape)
        if file.stat().st_size != size:
            raise DecoderFault("the decoder wrote another number of frames than are needed")
        return torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).reshape(clip.video_shape)
    finally:
        file.unlink(missing_ok=True)
