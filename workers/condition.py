"""What a conditional job gives to the network: the uploaded side, decoded to the network's format."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from model.media.decode import decode_audio, decode_frames
from model.request import clip_of
from model.runtime.pipeline import Pipeline
from service.jobs.record import Job
from workers.decoder import clip_limits, confined_within


def decode_condition(job: Job, pipeline: Pipeline, source: Path | None) -> Tensor | None:
    """Frames (frames, 3, height, width) uint8 for `v2a`, sound (1, samples) for `a2v`, None for `generate`.

    Decoded in a child process. Raises MediaError for a file that cannot be decoded, DecoderLost and DecoderFault.
    """
    if job.input is None or source is None:
        return None
    decode = decode_frames if job.kind == "v2a" else decode_audio
    clip = clip_of(job.params.duration, pipeline.manifest.config.clip)
    return confined_within(clip_limits(clip.duration), decode, source, clip, job.input.used.start)
