"""Scores of an output: how well its sound fits its picture. docs/jobs.md says what each means.

They come from the detectors of `model.evaluation`, without training data, at the size of the network or smaller.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from model.evaluation import alignment
from model.evaluation.alignment import MAX_LAG, Detections
from model.networks.config import ClipSpec
from model.runtime.pipeline import Clip, ClipPart
from model.sampling.latents import Latents
from model.training.bounce.scene import PITCHES
from service.jobs.record import Scores

SIDE = 32
"""Pixels; larger frames are averaged down to this size."""

SECTION = 128
"""Frames that are scored together, so that the memory needed does not grow with the clip."""

SHORTEST = 5
"""Frames in which a reversal can be seen."""


class Scorer:
    """Collects the frames and the sound of one output. `given`: the frames of v2a or the sound of a2v, as in
    `ClipRequest`. Scorers of one job can share it."""

    def __init__(self, kind: str, spec: ClipSpec, given: Tensor | None) -> None:
        self._spec = spec
        self._scorable = kind != "edit"
        self._frames: list[Tensor] = []
        self._audio: Tensor | None = None
        if given is not None and kind == "v2a":
            self._frames.append(given)
        elif given is not None:
            self._audio = given

    def add(self, part: ClipPart) -> None:
        if part.frames is not None and self._scorable:
            self._frames.append(_shrunk(part.frames.movedim(-1, 1)))

    def finish(self, clip: Clip) -> Scores:
        """The scores, once all parts were added."""
        audio = clip.audio if clip.audio is not None else self._audio
        if not self._scorable or not self._frames or audio is None:
            return Scores()
        frames = self._frames[0] if len(self._frames) == 1 else torch.cat(self._frames)
        return score(frames, audio, self._spec)


def score(frames: Tensor, audio: Tensor, spec: ClipSpec) -> Scores:
    """Score a clip of `frames` (frames, 3, height, width) uint8 and `audio` (1, samples) in [-1, 1], with the rates of
    `spec`. None for what cannot be said."""
    if len(frames) < SHORTEST or spec.sample_rate <= 2 * PITCHES[0]:
        return Scores()
    sections = math.ceil(len(frames) / SECTION)
    edges = [len(frames) * number // sections for number in range(sections + 1)]
    sums = [
        _terms(_detect(frames[start:end], audio[:, start * spec.sample_rate // spec.fps :], spec))
        for start, end in pairwise(edges)
    ]
    heard, seen, paired, peaks, aligned, union = (sum(each[0][k] for each in sums) for k in range(6))
    lags = torch.stack([each[1] for each in sums]).sum(0)
    best = int(lags.argmax())
    return Scores(
        sync=round(2 * paired / (heard + seen), 4) if heard and seen else None,
        av_align=round(aligned / union, 4) if heard and peaks else None,
        lag=round((best - MAX_LAG) / spec.fps, 4) if heard and lags[best] > 0 else None,
    )


def _shrunk(frames: Tensor) -> Tensor:
    """(frames, 3, height, width), uint8, to SIDE at most."""
    height, width = (min(SIDE, side) for side in frames.shape[-2:])
    if (height, width) == tuple(frames.shape[-2:]):
        return frames.contiguous()
    return adaptive_avg_pool2d(frames.float(), (height, width)).round().to(torch.uint8)


def _detect(frames: Tensor, audio: Tensor, spec: ClipSpec) -> Detections:
    """`audio` begins with the frames, and is cut or padded to their length."""
    samples = len(frames) * (spec.sample_rate // spec.fps)
    sound = pad(audio[:, :samples].float(), (0, max(0, samples - audio.shape[1]))).nan_to_num()
    video = _shrunk(frames).float() / 127.5 - 1
    spec = ClipSpec(
        frames=len(frames), fps=spec.fps, height=video.shape[-2], width=video.shape[-1], sample_rate=spec.sample_rate
    )
    return alignment.detect(Latents(video=video[None], audio=sound[None]), spec)


def _terms(found: Detections) -> tuple[tuple[float, ...], Tensor]:
    """Of one section: onsets heard, events seen and pairs; flow peaks, and the two counts of AV-Align. And the
    correlation at each lag, weighted by the frames."""
    heard = found.onsets.in_frames(found.spec.fps, found.spec.frames)
    peaks, aligned, union = (float(value) for value in alignment.flow_agreement(found)[0])
    counts = (float(heard.sum()), float(found.discs.events.sum()), float(alignment.paired(found)[0].sum()))
    return (*counts, peaks, aligned, union), alignment.lags(found)[0].nan_to_num() * found.spec.frames
