"""Scores of an output: how well its sound fits its picture. docs/jobs.md says what each means.

They come from the detectors of `model.evaluation`, without training data, at the size of the network or smaller. Of an
edit they count only what is in the new spans or a frame beside them; the section around them is context.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from model.evaluation import alignment
from model.evaluation.alignment import MAX_LAG, Detections
from model.media.edits import Edit
from model.networks.config import ClipSpec
from model.runtime.edit import EditCondition
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

ROUNDING = 1e-6
"""Seconds."""


class Scorer:
    """Collects the frames and the sound of one output. `given`: the frames of v2a, the sound of a2v or the section of
    an edit, as in `ClipRequest`. Scorers of one job can share it. `edit`: the edit, of a job that is one."""

    def __init__(
        self, kind: str, spec: ClipSpec, given: Tensor | EditCondition | None, edit: Edit | None = None
    ) -> None:
        self._spec, self._edit = spec, edit
        self._frames: list[Tensor] = []
        self._audio: Tensor | None = None
        if isinstance(given, EditCondition):
            if "video" not in given.makes:
                self._frames.append(given.frames)
        elif given is not None and kind == "v2a":
            self._frames.append(given)
        elif given is not None:
            self._audio = given

    def add(self, part: ClipPart) -> None:
        if part.frames is not None:
            self._frames.append(_shrunk(part.frames.movedim(-1, 1)))

    def finish(self, clip: Clip, heard: Tensor | None = None) -> Scores:
        """The scores, once all parts were added. `heard`: the sound of an edit's section in the finished clip."""
        audio = heard if heard is not None else clip.audio if clip.audio is not None else self._audio
        if not self._frames or audio is None:
            return Scores(reason="the clip has no pictures" if audio is not None else "the clip has no sound")
        frames = self._frames[0] if len(self._frames) == 1 else torch.cat(self._frames)
        counted = None if self._edit is None else _counted(self._edit, len(frames), self._spec.fps)
        return score(frames, audio, self._spec, counted)


def score(frames: Tensor, audio: Tensor, spec: ClipSpec, counted: Tensor | None = None) -> Scores:
    """Score a clip of `frames` (frames, 3, height, width) uint8 and `audio` (1, samples) in [-1, 1], with the rates of
    `spec`. None for what cannot be said. `counted` (frames,), bool: only events in these frames count; None is all."""
    if len(frames) < SHORTEST:
        return Scores(reason=f"fewer than {SHORTEST} frames")
    if spec.sample_rate <= 2 * PITCHES[0]:
        return Scores(reason=f"onsets cannot be detected at {spec.sample_rate} Hz")
    sections = math.ceil(len(frames) / SECTION)
    edges = [len(frames) * number // sections for number in range(sections + 1)]
    sums = [
        _terms(
            _detect(frames[start:end], audio[:, start * spec.sample_rate // spec.fps :], spec),
            None if counted is None else counted[start:end],
        )
        for start, end in pairwise(edges)
    ]
    heard, seen, paired, peaks, aligned, union = (sum(each[0][k] for each in sums) for k in range(6))
    lags = torch.stack([each[1] for each in sums]).sum(0)
    best = int(lags.argmax())
    found = Scores(
        sync=round(paired / (heard + seen), 4) if heard and seen else None,
        av_align=round(aligned / union, 4) if heard and peaks else None,
        lag=round((best - MAX_LAG) / spec.fps, 4) if heard and lags[best] > 0 else None,
    )
    return replace(found, reason=_reason(found, not audio.any(), heard, counted is not None))


def _reason(found: Scores, silent: bool, heard: float, edited: bool) -> str | None:
    """Why scores are None, in words."""
    where = " in what is new" if edited else ""
    if silent:
        return "the sound is silent"
    if not heard:
        return f"no onset of a sound is heard{where}"
    missing = {
        "no flash and no reversal of a motion is seen": found.sync,
        "no peak of motion is seen": found.av_align,
        "sound and motion do not correlate": found.lag,
    }
    reasons = [f"{words}{where}" for words, value in missing.items() if value is None]
    return "; ".join(reasons) or None


def _counted(edit: Edit, frames: int, fps: int) -> Tensor:
    """(frames,), bool: the frames of the section of `edit` in which something is new, and one beside them, which is as
    far as sound and picture may be apart."""
    begins = edit.start + torch.arange(frames, dtype=torch.float64) / fps
    near = 1 / fps - ROUNDING
    counted = torch.zeros(frames, dtype=torch.bool)
    for start, end in edit.video + edit.audio:
        counted |= (begins < end + near) & (begins + 1 / fps > start - near)
    return counted


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


def _terms(found: Detections, counted: Tensor | None) -> tuple[tuple[float, ...], Tensor]:
    """Of one section, in the frames that are `counted`: onsets heard, events seen, and those of both that form pairs;
    flow peaks, and the two counts of AV-Align. And the correlation at each lag, weighted by the frames."""
    which = torch.ones(found.spec.frames, dtype=torch.bool) if counted is None else counted
    heard, seen = found.onsets.in_frames(found.spec.fps, found.spec.frames), found.discs.events
    pairs = sum(float((each & which).sum()) for each in alignment.paired(found))
    peaks, aligned, union = (float(value) for value in alignment.flow_agreement(found, counted)[0])
    counts = (float((heard & which).sum()), float((seen & which).sum()), pairs)
    return (*counts, peaks, aligned, union), alignment.lags(found, counted)[0].nan_to_num() * found.spec.frames
