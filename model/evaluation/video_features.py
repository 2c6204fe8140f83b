"""Detects events in the frames of `bounce`: position and hue of the discs, flashes and reversals of motion. Uses only
the pixels, so that it works on generated clips.

Discs are colourful, or white, on a dim, greyish background.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, one_hot, pad

from model.training.bounce.scene import HUE_DEGREES, HUES

COLOURFUL = 0.35
"""Chroma (maximum minus minimum of red, green and blue, each in [0, 1]) that counts half as a disc."""

WHITE = 0.62
"""Minimum of the three channels that counts half as a flash."""

SOFTNESS = 0.05
"""Width of the transition around those values, for the edges of discs and blurred output."""

SMALLEST = 0.02
"""Fraction of the frame; less than half of the smallest disc."""

MINOR = 0.25
"""A hue is present in a clip if it has at least this fraction of the most frequent hue's area."""

TURN = 0.08
"""Widths per frame. Without a wall, upward speed only decreases and sideways speed is constant."""


@dataclass(frozen=True)
class Discs:
    """`flash` (clips, frames): whether something flashes. `place` (clips, frames, 2): x and y of the flash, else of all
    discs, in frame widths, y upwards. `hue` (clips, frames): class of the flashing disc, or without a
    flash the most frequent class. `turns` (clips, frames): whether a disc reverses its motion.

    `area` (clips, frames, hues): fraction of the frame covered by discs of a hue. `motion` (clips, frames): mean square
    of the change from the previous frame.
    """

    flash: Tensor
    place: Tensor
    hue: Tensor
    turns: Tensor
    area: Tensor
    motion: Tensor

    @property
    def events(self) -> Tensor:
        """(clips, frames): flashes, and reversals without a flash in the same or a neighbouring frame."""
        near = max_pool1d(self.flash.float(), 3, 1, 1).bool()
        return self.flash | (self.turns & ~near)


def detect_discs(video: Tensor) -> Discs:
    """Detect discs and events in `video` (clips, frames, 3, height, width), in [-1, 1]."""
    picture = (video.float().clamp(-1, 1) + 1) / 2
    chroma = picture.amax(2) - picture.amin(2)
    colourful = torch.sigmoid((chroma - COLOURFUL) / SOFTNESS)
    white = torch.sigmoid((picture.amin(2) - WHITE) / SOFTNESS)
    size = white.mean((-2, -1))
    flash = size > SMALLEST
    share = _shares(picture)
    discs = colourful[:, :, None] * share
    area = discs.mean((-2, -1))
    place = torch.where(flash[..., None], _centre(white), _centre(colourful))
    residual = (white[:, :, None] * share * chroma[:, :, None]).mean((-2, -1))
    change = (picture[:, 1:] - picture[:, :-1]).square().mean((2, 3, 4))
    hue, present = _flashing_hue(area, residual, flash)
    # A flash hides the hue of its disc, whose position is that of the flash.
    flashing = one_hot(hue, HUES).bool() & flash[..., None]
    disc_place = torch.where(flashing[..., None], place[:, :, None], _centre(discs))
    return Discs(
        flash=flash,
        place=place,
        hue=hue,
        turns=_turns(disc_place, ((area > SMALLEST) | flashing) & present),
        area=area,
        motion=pad(change, (1, 0)),
    )


def _shares(picture: Tensor) -> Tensor:
    """(clips, frames, 3, height, width) → (clips, frames, hues, height, width): one-hot class of the nearest hue."""
    red, green, blue = picture.unbind(2)
    # Hue as the angle around the grey axis; HSV's differs by 1.1 degrees at most.
    angle = torch.rad2deg(torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue))
    centres = torch.tensor(HUE_DEGREES, device=picture.device)
    apart = (torch.remainder(angle[..., None] - centres + 180, 360) - 180).abs()
    return one_hot(apart.argmin(-1), HUES).movedim(-1, 2).to(picture.dtype)


def _centre(weight: Tensor) -> Tensor:
    """Centre of mass (…, 2), x and upward y, of (…, height, width); the middle if it is empty."""
    height, width = weight.shape[-2:]
    across = (torch.arange(width, device=weight.device) + 0.5) / width
    upwards = 1 - (torch.arange(height, device=weight.device) + 0.5) / height
    total = weight.sum((-2, -1)) + 1e-6
    x = (weight.sum(-2) * across).sum(-1) / total
    y = (weight.sum(-1) * upwards).sum(-1) / total
    return torch.where((total > 1e-2)[..., None], torch.stack([x, y], dim=-1), 0.5)


def _flashing_hue(area: Tensor, residual: Tensor, flash: Tensor) -> tuple[Tensor, Tensor]:
    """During a flash, the hue of the clip that is missing and that tints the flash, else the most frequent; and which
    hues are present, (clips, 1, hues)."""
    typical = area.median(dim=1, keepdim=True).values
    present = typical >= MINOR * typical.amax(-1, keepdim=True)
    missing = 1 - area / typical.clamp(min=1e-4)
    tint = residual / residual.sum(-1, keepdim=True).clamp(min=1e-6)
    score = torch.where(flash[..., None], missing.clamp(0, 1) + tint, typical.expand_as(area))
    return score.masked_fill(~present, -1.0).argmax(-1), present


def _turns(place: Tensor, seen: Tensor) -> Tensor:
    """(clips, frames) from `place` (clips, frames, hues, 2): frames around which a disc gains more upward speed, or
    speed from a side towards the middle, than is possible without a wall."""
    before, after = place[:, 1:-3] - place[:, :-4], place[:, 4:] - place[:, 3:-1]
    gain, x = after - before, place[:, 2:-2, :, 0]
    inwards = torch.where(before[..., 0] * after[..., 0] < 0, gain[..., 0] * (0.5 - x).sign(), 0.0)
    known = seen.unfold(1, 5, 1).all(-1)
    score = torch.maximum(gain[..., 1], 2 * inwards).masked_fill(~known, 0.0)
    score = pad(score, (0, 0, 2, 2))
    highest = max_pool1d(score.movedim(1, -1), 3, 1, 1).movedim(-1, 1)
    return ((score == highest) & (score > TURN)).any(2)
