"""Measures of audio-video alignment, computed from detected events; docs/evaluation.md defines them.

Each measure is a function of sums over clips, so that a bootstrap can resample clips by weighting rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from model.evaluation import flow
from model.evaluation.audio_features import Onsets, detect_onsets, frame_of
from model.evaluation.video_features import MINOR, SMALLEST, Discs, detect_discs
from model.networks.config import ClipSpec
from model.sampling.latents import Latents

MAX_LAG = 4
"""Largest lag, in frames, in both directions."""

OF_PALETTE = 0.75
"""Share of the coloured area that has the hues of a clip's palette, in a frame that keeps them."""

MOST_FRAMES = 0.9
"""Share of such frames, of those that show a disc, in a clip that keeps its hues."""


@dataclass(frozen=True)
class Detections:
    """Detections in a set of clips: onsets, discs, and the optical flow (clips, frames). All on the CPU. Sounds, and
    the palettes that discs should keep, are those of the clips `shuffled_by` further on."""

    spec: ClipSpec
    onsets: Onsets
    discs: Discs
    flow: Tensor
    shuffled_by: int = 0

    @property
    def clips(self) -> int:
        return self.onsets.clips

    def shuffled(self, by: int) -> Detections:
        """Each clip's sound and palette paired with the picture of the clip `by` further on."""
        onsets = self.onsets
        clip = (onsets.clip + by) % onsets.clips
        sounds = replace(onsets, clip=clip, envelope=onsets.envelope.roll(by, 0))
        return replace(self, onsets=sounds, shuffled_by=self.shuffled_by + by)


def detect(clips: Latents, spec: ClipSpec, at_once: int = 32) -> Detections:
    """Run the detectors on `clips`, which have both modalities, in batches of `at_once`."""
    parts = [
        (
            detect_onsets(part["audio"].cpu(), spec.sample_rate, spec.fps),
            detect_discs(part["video"].cpu()),
            flow.motion(part["video"].cpu()),
        )
        for part in clips.split([len(chunk) for chunk in torch.arange(clips.batch).split(at_once)])
    ]
    return Detections(
        spec=spec,
        onsets=Onsets(
            clips=clips.batch,
            clip=torch.cat([onsets.clip + at_once * number for number, (onsets, _, _) in enumerate(parts)]),
            **{
                name: torch.cat([getattr(onsets, name) for onsets, _, _ in parts])
                for name in ("time", "pitch", "timbre", "envelope")
            },
        ),
        discs=Discs(
            **{name: torch.cat([getattr(discs, name) for _, discs, _ in parts]) for name in Discs.__dataclass_fields__}
        ),
        flow=torch.cat([motion for _, _, motion in parts]),
    )


@dataclass(frozen=True)
class Measure:
    """`statistics`: of detections, the terms of each clip (clips, terms). `value`: of their sums (…, terms)."""

    name: str
    label: str
    statistics: Callable[[Any], Tensor]
    value: Callable[[Tensor], Tensor]


def ratio(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp(min=1e-9)


def paired(found: Detections) -> tuple[Tensor, Tensor]:
    """Sound events and picture events that form pairs, as `paired_events`."""
    return paired_events(found.onsets.in_frames(found.spec.fps, found.spec.frames), found.discs.events)


def paired_events(heard: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Of the events `heard` and `seen` those that form pairs, at most one frame apart, as many as possible: two masks
    (clips, frames), as are the arguments."""
    heard_paired, free = torch.zeros_like(heard), seen.clone()
    for frame in range(seen.shape[1]):
        # Taking the earliest free event finds the most pairs, because later sounds cannot reach it.
        open_ = heard[:, frame].clone()
        for near in range(max(0, frame - 1), min(seen.shape[1], frame + 2)):
            pair = open_ & free[:, near]
            heard_paired[:, frame] |= pair
            free[:, near] &= ~pair
            open_ &= ~pair
    return heard_paired, seen & ~free


def _onsets(found: Detections) -> Tensor:
    """Twice the number of pairs, and the number of events of both kinds; their ratio is F1."""
    heard = found.onsets.in_frames(found.spec.fps, found.spec.frames)
    pairs = paired(found)[0].sum(1).float()
    return torch.stack([2 * pairs, (heard.sum(1) + found.discs.events.sum(1)).float()], dim=1)


def _frame_seen(found: Detections) -> Tensor:
    """The frame that shows each onset: its own if it has an event, else the one before or after with an event, else its
    own."""
    frames = found.spec.frames
    now = frame_of(found.onsets.time, found.spec.fps, frames)
    chosen = now
    for step in (1, -1, 0):  # later steps take precedence
        near = (now + step).clamp(0, frames - 1)
        chosen = torch.where(found.discs.events[found.onsets.clip, near], near, chosen)
    return chosen


def _per_clip(found: Detections, terms: Tensor) -> Tensor:
    """Sum (onsets, terms) over the onsets of each clip."""
    return torch.zeros(found.onsets.clips, terms.shape[1]).index_add_(0, found.onsets.clip, terms.float())


def _pitch_and_x(found: Detections) -> Tensor:
    x = found.discs.place[found.onsets.clip, _frame_seen(found), 0] - 0.5
    pitch = torch.log2(found.onsets.pitch / 566)  # centred, so that sums of squares keep their precision
    return _per_clip(found, torch.stack([torch.ones_like(x), x, pitch, x * x, pitch * pitch, x * pitch], dim=1))


def _correlation(sums: Tensor) -> Tensor:
    """Pearson's correlation from (count, Σx, Σy, Σx², Σy², Σxy); 0 where x or y is constant."""
    count, x, y, xx, yy, xy = (sums.double() / sums[..., :1].double().clamp(min=1)).unbind(-1)
    covariance, spread = xy - x * y, ((xx - x * x).clamp(min=0) * (yy - y * y).clamp(min=0)).sqrt()
    return torch.where(spread > 1e-9, covariance / spread.clamp(min=1e-9), 0.0) * (count > 0)


def _hue_and_timbre(found: Detections) -> Tensor:
    hue = found.discs.hue[found.onsets.clip, _frame_seen(found)]
    agree = hue == found.onsets.timbre
    return _per_clip(found, torch.stack([agree, torch.ones_like(agree)], dim=1))


def _hue_kept(found: Detections) -> Tensor:
    """Whether the discs of each clip have the hues of its palette, that is, those of most of its frames, in nearly all
    frames; a flash hides a hue and is not counted."""
    area = found.discs.area
    largest = area.amax(-1)
    seen = largest > SMALLEST
    frames = seen.sum(1).clamp(min=1)
    there = (area >= MINOR * largest[..., None]) & seen[..., None]
    palette = (there.sum(1) > frames[:, None] / 2).roll(found.shuffled_by, 0)
    inside = (area * palette[:, None]).sum(-1) >= OF_PALETTE * area.sum(-1)
    kept = ((inside & seen).sum(1) >= MOST_FRAMES * frames) & seen.any(1)
    return torch.stack([kept.float(), torch.ones(len(kept))], dim=1)


def lags(found: Detections, counted: Tensor | None = None) -> Tensor:
    """(clips, 2 MAX_LAG + 1): correlation of the sound's envelope with motion energy; a positive lag is late sound.

    `counted` (frames,), bool: a pair of frames counts if either of them is in `counted`; None is all."""

    def standard(value: Tensor) -> Tensor:
        value = value - value.mean(1, keepdim=True)
        return value / value.square().sum(1, keepdim=True).sqrt().clamp(min=1e-9)

    # Only rises of the envelope: a tone decays over several frames.
    sound = standard(pad(found.onsets.envelope.diff(dim=1).clamp(min=0), (1, 0)))
    picture = standard(found.discs.motion)
    columns = []
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        late, early = (sound, picture) if lag >= 0 else (picture, sound)
        size = sound.shape[1] - abs(lag)
        products = late[:, abs(lag) :] * early[:, :size]
        if counted is not None:
            products = products * (counted[abs(lag) :] | counted[:size])
        columns.append(products.sum(1))
    return torch.stack(columns, dim=1)


def _in_step(found: Detections) -> Tensor:
    best = lags(found).argmax(1) - MAX_LAG
    return torch.stack([(best.abs() <= 1).float(), torch.ones(len(best))], dim=1)


def flow_agreement(found: Detections, counted: Tensor | None = None) -> Tensor:
    """(clips, 3): flow peaks; flow peaks and sound onsets that have one of the other kind within a frame; the union.
    Of those in the frames `counted` (frames,), bool; None is all.

    As in the AV-Align paper, the second is the mean of both counts; published programs count onsets only, which can
    exceed the union.
    """
    motion, frames = found.flow, found.spec.frames
    peak = torch.zeros_like(motion, dtype=torch.bool)
    peak[:, 1:-1] = (motion[:, 1:-1] > motion[:, :-2]) & (motion[:, 1:-1] > motion[:, 2:])
    sounding = found.onsets.in_frames(found.spec.fps, frames)
    heard_near, seen_near = (max_pool1d(each.float(), 3, 1, 1).bool() for each in (sounding, peak))
    if counted is not None:
        peak, sounding = peak & counted, sounding & counted
    both = ((sounding & seen_near).sum(1) + (peak & heard_near).sum(1)) / 2
    union = sounding.sum(1) + peak.sum(1) - both
    return torch.stack([peak.sum(1).float(), both, union], dim=1)


def _av_align(found: Detections) -> Tensor:
    _, both, union = flow_agreement(found).unbind(1)
    return torch.stack([both / union.clamp(min=1), torch.ones_like(both)], dim=1)


MEASURES = (
    Measure("onset_f1", "onset F1", _onsets, ratio),
    Measure("pitch_x", "pitch-x correlation", _pitch_and_x, _correlation),
    Measure("hue_timbre", "hue-timbre accuracy", _hue_and_timbre, ratio),
    Measure("lag", "in step within a frame", _in_step, ratio),
    Measure("av_align", "AV-Align", _av_align, ratio),
    Measure("hue_kept", "hues kept", _hue_kept, ratio),
)
