"""Explosion: a flash, a fireball that turns into smoke, a boom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, blobs, paint
from model.training.scenes.group import Group, column, fading
from model.training.scenes.noise import Ear, levelled, swell

BLASTS = 1.6
"""Seconds between blasts, about."""

PIECES = 9
GRAVITY = 1.1
"""Frame heights per second squared."""


@dataclass(frozen=True)
class Explosion:
    seen: Tensor
    heard: Tensor
    big: Tensor
    far: Tensor
    debris: Tensor
    night: Tensor
    place: Tensor
    phase: Tensor
    pieces: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        times, _ = group.events(BLASTS, early=0.1)
        start = torch.arange(times.shape[1], device=times.device) * BLASTS
        times = torch.where(times < BLASTS * times.shape[1], start + 0.15 + 0.45 * (times - start) / BLASTS, times)
        return cls(
            seen=times,
            heard=times,
            big=group.attributes[:, 0],
            far=group.attributes[:, 1],
            debris=group.attributes[:, 2],
            night=group.attributes[:, 3],
            place=group.uniform(0.38, 0.62),
            phase=group.uniform(),
            pieces=group.several(PIECES, 2),
            loudness=group.value(0, 0.17, 0.25) * group.value(1, 1.0, 0.85),
        )

    def picture(self, view: View) -> Tensor:
        time, far, night, phase = view.middle, column(self.far), self.night, column(self.phase)
        horizon = 0.78 - 0.10 * far
        age = view.age(self.seen)
        flash = fading(age, 0.07).amax(1)[:, :, None, None]
        fire = fading(age, 0.30).amax(1)[:, :, None, None]
        old = _latest(age)[:, :, None, None]
        cloud = view.noise(
            view.x * 2.5 + 2 * view.y + 0.8 * time + 2,
            view.y * 4 - 1.2 * view.x + 3 * phase + 3,
            0.6 * time + 3 * phase,
        )
        sky = between((0.60, 0.74, 0.88), (0.08, 0.09, 0.20), night) * (0.82 + 0.36 * cloud[:, :, None])
        ground = between((0.50, 0.44, 0.30), (0.15, 0.13, 0.13), night) * (0.85 + 0.3 * cloud[:, :, None])
        picture = paint(sky, ground, view.step(view.y - horizon, 0.02) + 0 * cloud)
        scale = (0.62 + 0.50 * column(self.big)) * (1 - 0.50 * far)
        size = scale * (0.12 + 0.30 * (1 - torch.exp(-old / 0.16)) + 0.06 * old)
        rise = 0.25 * scale * old
        x0, y0 = column(self.place), horizon - 0.06 * scale - 0.5 * size - rise
        picture = paint(
            picture,
            (1.0, 0.75, 0.45),
            fire * 0.55 * torch.exp(-((view.x - x0).square() + (view.y - y0).square()) / (2.2 * size).square()),
        )
        lump = view.noise((view.x - x0) / scale * 7 + 4, (view.y - y0) / scale * 7 + 4, 3.5 * time + 5 * phase)
        fine = view.noise((view.x - x0) / scale * 15 + 4, (view.y - y0) / scale * 15 + 4, 5 * time + 2 * phase)
        off = (
            ((view.x - x0).square() + (view.y - y0).square()).sqrt() / size - 0.55 * (lump - 0.5) - 0.25 * (fine - 0.5)
        )
        there = (old > 0).float()
        ball = view.step((1 - off) * size, 0.04) * there
        heat = (1.25 - off - 1.9 * old + 0.9 * (lump - 0.4)).clamp(0, 1)
        smoke = between((0.16, 0.14, 0.13), (0.42, 0.38, 0.35), (0.3 + 0.7 * (lump - 0.2)).clamp(0, 1))
        picture = paint(
            picture, smoke * between((1.0, 1.0, 1.0), (0.6, 0.6, 0.65), night), ball * (0.95 - 0.25 * old.clamp(0, 1))
        )
        picture = paint(picture, (0.92, 0.25, 0.04), ball * (2.4 * heat).clamp(0, 1))
        picture = paint(picture, (1.0, 0.68, 0.12), ball * (2.4 * heat - 0.7).clamp(0, 1))
        picture = paint(picture, (1.0, 0.97, 0.75), ball * (2.4 * heat - 1.4).clamp(0, 1))
        picture = self._pieces(picture, view, age, scale, horizon)
        reach = torch.exp(-((view.x - x0).square() + (view.y - y0).square()) / (0.9 * scale).square())
        return paint(picture, (1.0, 0.98, 0.90), (flash * (0.15 + 0.85 * reach) * (1.0 - 0.25 * far)).clamp(0, 1))

    def _pieces(self, picture: Tensor, view: View, age: Tensor, scale: Tensor, horizon: Tensor) -> Tensor:
        old = age.clamp(min=0)[:, :, None]
        turn = self.pieces[:, None, :, :, None]
        reach = scale[:, None, :, :, 0]
        x = self.place[:, None, None, None] + (turn[..., 0, :] - 0.5) * 2.2 * old * reach
        y = (
            horizon[:, None, :, :, 0]
            - (0.05 + (0.9 + 0.7 * turn[..., 1, :]) * old * reach)
            + GRAVITY * old.square() * reach
        )
        weight = (fading(age, 0.6)[:, :, None] * self.debris[:, None, None, None]).expand_as(x)
        radius = (0.035 * reach).expand_as(x)
        spots = blobs(view, *(each.flatten(1, 2) for each in (x, y, radius, weight)))
        return paint(picture, (1.0, 0.70, 0.25), (1.4 * spots).clamp(0, 1))

    def sound(self, ear: Ear) -> Tensor:
        force = torch.ones_like(self.heard)
        near = 1 - self.far[:, None]
        boom = ear.noise(25.0, 220 - 80 * self.big, -2.0) * ear.bursts(self.heard, 0.004, 0.28 + 0.2 * self.big, force)
        blast = ear.noise(150.0, 4500 - 3700 * self.far, -3.0) * ear.bursts(self.heard, 0.002, 0.11, force)
        thump = ear.blips(self.heard, 75 - 25 * self.big[:, None] * force + 20, -1.5, 0.2 * force, force)
        late = self.heard + 0.12
        patter = ear.noise(1500.0, 6000.0).pow(3) * ear.bursts(late, 0.1, 0.35, force) * self.debris[:, None]
        air = ear.noise(100.0, 500.0) * swell(ear.times, self.phase, 0.8, 0.3)
        ambience = torch.where(self.night[:, None] > 0.5, ear.crickets(self.phase), 0.8 * ear.birds(self.phase))
        sound = 2.6 * boom + (1.2 + 1.6 * near) * blast + 1.6 * thump + 0.10 * patter * (0.4 + 0.6 * near)
        return levelled(sound + 0.06 * air + 0.07 * ambience, self.loudness)


def _latest(age: Tensor) -> Tensor:
    """(batch, frames): the age of the last event that has happened, 0 before the first."""
    happened = torch.where(age > 0, age, 1e9).amin(1)
    return torch.where(happened < 1e8, happened, 0.0)
