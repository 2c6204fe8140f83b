"""How clips of several windows hold together: measures near the borders of windows against elsewhere, and drift.

Borders are frames, at which one window ends or the next begins: frame b is the first after border b. A frame is near a
border if it is one of the REACH frames before or after it. Every measure is a mean near borders over the mean
elsewhere: 1 if borders leave no trace. Sides that the user gave are not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from model.evaluation.alignment import Detections, paired
from model.evaluation.audio_features import HOP, THRESHOLD, flux
from model.evaluation.bootstrap import interval, resample_weights
from model.evaluation.intervals import Interval
from model.evaluation.video_features import SMALLEST
from model.sampling.latents import Latents

REACH = 2
"""Frames before and after a border that are near it."""

LABELS = {
    "onset_f1": "onset F1",
    "flux": "spectral flux without an event",
    "change": "change of pixels",
    "jump": "change of pixels over the border",
    "hue": "changes of hue",
    "hue_kept": "hue kept from window to window",
    "loudness_drift": "loudness from window to window, dB",
}


@dataclass(frozen=True)
class SeamScore:
    """One measure of clips near borders and elsewhere, and their ratio; and the ratio of real clips at the same
    places, which is 1 but for chance."""

    measure: str
    near: Interval
    elsewhere: Interval
    ratio: Interval
    real: Interval


@dataclass(frozen=True)
class Drift:
    """A measure of the change from each window to the next, of generated and of real clips."""

    measure: str
    value: Interval
    real: Interval


@dataclass(frozen=True)
class Measured:
    """Clips with what is detected in them."""

    clips: Latents
    found: Detections


def seam_scores(made: Measured, real: Measured, borders: Sequence[Sequence[int]], given: str | None) -> list[SeamScore]:
    """The measures of `made` at the `borders` of each clip, except those of the modality that was `given`.

    Intervals are bootstrap percentiles over clips.
    """
    weights = resample_weights(made.clips.batch, torch.Generator().manual_seed(0))
    own, others = (_terms(each, borders, given) for each in (made, real))
    scores = []
    for name, terms in own.items():
        near, elsewhere, ratio = _compared(weights, terms)
        real_ratio = _compared(weights, others[name])[2]
        scores.append(SeamScore(name, *(interval(each) for each in (near, elsewhere, ratio, real_ratio))))
    return scores


def drift(made: Measured, real: Measured, window: int, given: str | None) -> list[Drift]:
    """`hue_kept`: the share of frames whose most frequent hue is that of `window` frames earlier. `loudness_drift`: the
    absolute difference in decibels of neighbouring windows."""
    weights = resample_weights(made.clips.batch, torch.Generator().manual_seed(0))

    def means(each: Measured) -> dict[str, Tensor]:
        found = {}
        if given != "video":
            hue = each.found.discs.area.argmax(-1)
            found["hue_kept"] = (hue[:, window:] == hue[:, :-window]).double().mean(1)
        if given != "audio":
            spec = each.found.spec
            size = window * spec.samples // spec.frames
            sound = each.clips["audio"][:, 0]
            power = sound[:, : sound.shape[1] // size * size].unflatten(1, (-1, size)).double().square().mean(-1)
            found["loudness_drift"] = (10 * power.clamp(min=1e-8).log10()).diff(dim=1).abs().mean(1)
        return found

    own, others = means(made), means(real)
    return [
        Drift(name, interval(weights @ own[name] / len(weights[0])), interval(weights @ others[name] / len(weights[0])))
        for name in own
    ]


def near_borders(frames: int, borders: Sequence[int], reach: int = REACH) -> Tensor:
    """(frames,), bool."""
    number = torch.arange(frames)
    near = torch.zeros(frames, dtype=torch.bool)
    for border in borders:
        near |= (number >= border - reach) & (number < border + reach)
    return near


def _terms(each: Measured, borders: Sequence[Sequence[int]], given: str | None) -> dict[str, Tensor]:
    """For each measure (clips, 4): sum and count near borders, sum and count elsewhere."""
    found, frames = each.found, each.found.spec.frames
    near = torch.stack([near_borders(frames, places) for places in borders])
    first = torch.zeros_like(near)
    for row, places in zip(first, borders, strict=True):
        row[list(places)] = True
    heard = found.onsets.in_frames(found.spec.fps, frames)
    seen = found.discs.events
    heard_paired, seen_paired = paired(found)
    terms = {"onset_f1": _split(heard_paired.double() + seen_paired, heard.double() + seen, near)}
    if given != "audio":
        # Limited, because a few onsets of made clips that no event explains would otherwise outweigh all the rest.
        rise = flux(each.clips["audio"][:, 0].float(), found.spec.sample_rate).clamp(max=THRESHOLD).double()
        hop, per_frame = round(HOP * found.spec.sample_rate), found.spec.samples // frames
        step = (torch.arange(rise.shape[1]) * hop // per_frame).clamp(max=frames - 1)
        quiet = ~max_pool1d(seen.float(), 3, 1, 1).bool()
        terms["flux"] = _split(rise * quiet[:, step], quiet[:, step].double(), near[:, step])
    if given != "video":
        change = found.discs.motion.double()
        has_change = torch.ones_like(change)
        has_change[:, 0] = 0
        terms["change"] = _split(change, has_change, near)
        terms["jump"] = _split(change * (first | ~near), has_change * (first | ~near), near)
        hue, known = found.discs.area.argmax(-1), found.discs.area.amax(-1) > SMALLEST
        other = torch.zeros_like(change)
        other[:, 1:] = hue[:, 1:] != hue[:, :-1]
        both = has_change.clone()
        both[:, 1:] *= known[:, 1:] & known[:, :-1]
        terms["hue"] = _split(other * both, both, near)
    return terms


def _split(value: Tensor, count: Tensor, near: Tensor) -> Tensor:
    """Sums over frames of `value` and `count` near borders and elsewhere, (clips, 4)."""
    return torch.stack([(each * place).sum(1) for place in (near, ~near) for each in (value, count)], dim=1)


def _compared(weights: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums = weights @ terms
    near, elsewhere = (sums[:, k] / sums[:, k + 1].clamp(min=1e-9) for k in (0, 2))
    return near, elsewhere, torch.where(elsewhere > 0, near / elsewhere.clamp(min=1e-12), 1.0)
