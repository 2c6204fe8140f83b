"""Draws scenes: number of discs, motion, hues, and the combinations that are held out.

Several motions are drawn for each sample. The first one whose impacts are far enough apart is used, else the one with
the widest gaps. Hues are drawn last, among those that the split allows.
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
"""Maximum number of discs."""

TWO_DISCS = 0.3
"""Fraction of clips with two discs."""

HUES = 4
HUE_DEGREES = (0.0, 90.0, 180.0, 270.0)
"""Red, yellow-green, cyan and violet: evenly spaced."""
HUE_SPREAD = 10.0
"""Largest deviation of a disc's hue, in degrees."""

HELD_OUT = ((0.250, 0.375), (0.500, 0.625), (0.375, 0.500), (0.625, 0.750))
"""For each hue the range of x without floor impacts in training. Away from the walls, so that a model must only combine
what it knows; each covers an eighth of the pitch range, four and a half semitones."""

GAP = 0.1
"""Smallest desired distance between impacts in seconds; one frame at 10 hertz."""

LAST = 0.05
"""Seconds before the end that should have no impact, because it could hardly be heard."""

CANDIDATES = 16
"""Motions drawn for each sample. In the last one discs drop straight down, one into each half of HELD_OUT's range,
which both splits always allow."""

PITCHES = (200.0, 1600.0)
"""Hertz at x = 0 and x = 1, logarithmically interpolated."""


@dataclass(frozen=True)
class Scene:
    """Ground truth of a batch of clips. Absent discs have `present` False and no impacts.

    Impacts (batch, events) are sorted by time and padded with infinite times. `frame` is the frame of the impact,
    `speed` the speed normal to the wall in frame widths per second, `pitch` is in hertz. `flash` (batch, discs,
    frames): whether the disc meets a wall in the frame. `position` (batch, discs, frames, 2) is (x, y) of the centres,
    y upwards, in frame widths, in the middle of each frame.
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
        """(batch, events), bool: whether the entry is an impact."""
        return self.time.isfinite()


def draw_scene(clip: ClipSpec, draws: Draws, split: Split) -> Scene:
    """Draw the scenes of the samples of `draws`."""
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
    """Whether a floor impact of a disc of class `hue` at `x` is held out."""
    low, high = torch.tensor(HELD_OUT, device=x.device, dtype=x.dtype).T
    return (x >= low[hue]) & (x < high[hue])


def _candidates(draws: Draws) -> Motion:
    """Motions (batch, candidates, discs). A disc has the same radius in all candidates."""
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
    """For each candidate the class of each disc (batch, candidates, discs): the allowed one with the highest `priority`
    (batch, discs, hues); and whether all discs have one. Two discs differ."""
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
    """Index of the candidate (batch,): the first possible one with gaps of at least GAP, else that with the widest."""
    # The end counts as an impact, so that it keeps its distance too.
    end = torch.full_like(times[..., :1], duration - LAST + GAP)
    ordered = torch.cat([times, end], dim=-1).sort(dim=-1).values
    gaps = (ordered[..., 1:] - ordered[..., :-1]).nan_to_num(torch.inf)
    score = gaps.amin(-1).clamp(max=GAP)
    score = torch.where(possible, score, -torch.inf)
    # The straight one only if no other is possible.
    score[:, -1] = torch.where(possible[:, -1], -1e9, -torch.inf)
    # argmax does not define which of several equal values it returns; the smallest number does.
    number = torch.arange(CANDIDATES, device=times.device)
    best = score == score.amax(-1, keepdim=True)
    return torch.where(best, number, CANDIDATES).amin(-1)


def _take(value: Tensor, chosen: Tensor) -> Tensor:
    """(batch, candidates, …) → (batch, …)"""
    return value[torch.arange(len(value), device=value.device), chosen]
