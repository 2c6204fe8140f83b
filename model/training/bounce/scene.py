"""Which scenes there are: how many discs, which motion, which hues, and what of it is held out.

Motions are drawn several times for each sample. The first one is taken whose impacts are far enough apart to be told
from each other; where none is, the one that comes closest. Hues are drawn last, among those that the split allows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from model.networks.config import ClipSpec
from model.training.bounce.draws import Draws
from model.training.bounce.motion import LOWEST_APEX, RADII, SPEEDS, Motion

Split = Literal["train", "held_out"]

DISCS = 2
"""At most."""

TWO_DISCS = 0.3
"""The share of clips with two discs."""

HUES = 4
HUE_DEGREES = (0.0, 90.0, 180.0, 270.0)
"""Red, yellow-green, cyan and violet: as far from each other as four can be."""
HUE_SPREAD = 10.0
"""Degrees that a disc's hue is off at most."""

HELD_OUT = ((0.250, 0.375), (0.500, 0.625), (0.375, 0.500), (0.625, 0.750))
"""For every hue the x at which no disc of it meets the floor in training. Away from the walls, so that what is asked of
a model is to combine what it knows, and each an eighth of the range of pitch: four and a half semitones."""

GAP = 0.1
"""Seconds, one frame at 10 hertz: impacts should be so far apart."""

LAST = 0.05
"""Seconds before the end in which there should be no impact: it could hardly be heard."""

CANDIDATES = 16
"""Motions for each sample. In the last one discs drop straight down, one to each half of HELD_OUT's range: both splits
can always have that."""

PITCHES = (200.0, 1600.0)
"""Hertz at x = 0 and at x = 1; between them even in x on a logarithmic scale."""


@dataclass(frozen=True)
class Scene:
    """The truth about a batch of clips. Discs that are not there have `present` False, and no impacts.

    Impacts are in the order of time, (batch, events), the infinite times of none at the end. `frame` is the one that
    holds the impact, `speed` what is normal to the wall, in widths a second, `pitch` in hertz. `flash` (batch, discs,
    frames): whether the disc meets a wall in the frame. `position` (batch, discs, frames, 2) is (x, y) of the centres,
    y upwards, in widths of the frame, in the middle of each frame's time.
    """

    motion: Motion
    present: Tensor
    hue: Tensor
    degrees: Tensor
    position: Tensor
    flash: Tensor
    time: Tensor
    frame: Tensor
    disc: Tensor
    x: Tensor
    speed: Tensor
    pitch: Tensor
    background: Tensor

    @property
    def impact(self) -> Tensor:
        """(batch, events) whether there is such an impact."""
        return self.time.isfinite()


def draw_scene(clip: ClipSpec, draws: Draws, split: Split) -> Scene:
    """The scenes of `draws`' samples."""
    motion = _candidates(draws)
    two = draws.uniform("discs") < TWO_DISCS
    present = torch.stack([torch.ones_like(two), two], dim=1)
    floor, floor_x = motion.floor_impacts(clip.duration)
    wall, wall_x = motion.wall_impacts(clip.duration)
    absent = ~present[:, None, :, None]
    floor, wall = floor.masked_fill(absent, torch.inf), wall.masked_fill(absent, torch.inf)

    hue, possible = _hues(draws.uniform("hue", DISCS, HUES), floor, floor_x, present, split)
    chosen = _choose(torch.cat([floor, wall], dim=-1).flatten(2), possible, clip.duration)
    motion = Motion(*(_take(getattr(motion, field.name), chosen) for field in fields(Motion)))
    hue = _take(hue, chosen)
    floor, floor_x, wall, wall_x = (_take(v, chosen) for v in (floor, floor_x, wall, wall_x))

    times = torch.cat([floor, wall], dim=-1)
    speed = torch.cat([motion.floor_speed[..., None].expand_as(floor), motion.speed[..., None].expand_as(wall)], dim=-1)
    disc = torch.arange(DISCS, device=times.device)[:, None].expand_as(times)
    time, order = times.flatten(1).sort(dim=1, stable=True)
    disc, x, speed = (v.flatten(1).gather(1, order) for v in (disc, torch.cat([floor_x, wall_x], dim=-1), speed))

    frames = torch.arange(clip.frames, device=times.device)
    middle = (frames + 0.5).double() / clip.fps
    position = torch.stack([motion.x(middle), motion.y(middle)], dim=-1)
    held = torch.where(times.isfinite(), times * clip.fps, -1).floor()
    degrees = torch.tensor(HUE_DEGREES, device=times.device, dtype=torch.float64)[hue]
    return Scene(
        motion=motion,
        present=present,
        hue=hue,
        degrees=degrees + draws.between("degrees", -HUE_SPREAD, HUE_SPREAD, DISCS),
        position=position,
        flash=(held[..., None, :] == frames[:, None]).any(-1),
        time=time,
        frame=torch.where(time.isfinite(), time * clip.fps, -1).floor().long(),
        disc=disc,
        x=x,
        speed=speed,
        pitch=PITCHES[0] * (PITCHES[1] / PITCHES[0]) ** x,
        background=draws.uniform("background", 8),
    )


def held_out(hue: Tensor, x: Tensor) -> Tensor:
    """Whether a disc of class `hue` is to meet the floor at `x` only in held-out clips."""
    low, high = torch.tensor(HELD_OUT, device=x.device, dtype=x.dtype).T
    return (x >= low[hue]) & (x < high[hue])


def _candidates(draws: Draws) -> Motion:
    """Motions (batch, candidates, discs). A disc keeps its radius."""
    radius = draws.between("radius", *RADII, 1, DISCS).expand(-1, CANDIDATES, -1)
    shape = (CANDIDATES, DISCS)
    width = 1 - 2 * radius
    apex = LOWEST_APEX + (width - LOWEST_APEX) * draws.uniform("apex", *shape)
    motion = Motion(
        radius, apex, apex, draws.uniform("way", *shape) * 2 * width, draws.between("speed", *SPEEDS, *shape)
    )
    middle = (HELD_OUT[0][0] + HELD_OUT[-1][1]) / 2
    to_side = torch.tensor([-1.0, 1.0], device=radius.device, dtype=torch.float64)
    straight = middle + to_side * (0.01 + 0.23 * draws.uniform("straight", DISCS)) - radius[:, -1]
    last = torch.arange(CANDIDATES, device=radius.device)[:, None] == CANDIDATES - 1
    return Motion(
        radius=radius,
        apex=apex,
        fallen=draws.uniform("fallen", *shape) * motion.period,
        way=torch.where(last, straight[:, None], motion.way),
        speed=motion.speed.masked_fill(last, 0.0),
    )


def _hues(priority: Tensor, floor: Tensor, x: Tensor, present: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """For every candidate a class for each disc (batch, candidates, discs), the highest `priority` (batch, discs,
    hues) of those allowed, and whether there was one. Two discs differ."""
    each = torch.arange(HUES, device=x.device)
    within = (held_out(each, x[..., None]) & floor.isfinite()[..., None]).any(dim=-2)
    allowed = within if split == "held_out" else ~within
    score = torch.where(allowed, priority[:, None], -1.0)
    first = score[:, :, 0].argmax(-1)
    second = score[:, :, 1].scatter(-1, first[..., None], -1.0)
    hue = torch.stack([first, second.argmax(-1)], dim=-1)
    found = torch.stack([score[:, :, 0].amax(-1) >= 0, second.amax(-1) >= 0], dim=-1)
    return hue, (found | ~present[:, None]).all(-1)


def _choose(times: Tensor, possible: Tensor, duration: float) -> Tensor:
    """(batch,) which candidate: the first that is possible and has gaps of GAP and more, or the widest."""
    # The end counts as an impact, so that gaps are kept to it as well.
    end = torch.full_like(times[..., :1], duration - LAST + GAP)
    ordered = torch.cat([times, end], dim=-1).sort(dim=-1).values
    gaps = (ordered[..., 1:] - ordered[..., :-1]).nan_to_num(torch.inf)
    score = gaps.amin(-1).clamp(max=GAP)
    score = torch.where(possible, score, -torch.inf)
    # The straight one only where nothing else is possible.
    score[:, -1] = torch.where(possible[:, -1], -1e9, -torch.inf)
    # argmax says not which one of several equals; times by their number does.
    number = torch.arange(CANDIDATES, device=times.device)
    best = score == score.amax(-1, keepdim=True)
    return torch.where(best, number, CANDIDATES).amin(-1)


def _take(value: Tensor, chosen: Tensor) -> Tensor:
    """(batch, candidates, …) → (batch, …)"""
    return value[torch.arange(len(value), device=value.device), chosen]
