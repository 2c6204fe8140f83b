"""Rain: falling streaks over a wet ground, with a hiss; big drops make rings and plinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, blobs, paint, rings, streaks
from model.training.scenes.group import Group, column, fading
from model.training.scenes.noise import Ear, levelled, swell

GROUND = 0.72
STREAKS = 26
DROPS = 0.4
"""Seconds between big drops, about."""


@dataclass(frozen=True)
class Rain:
    seen: Tensor
    heard: Tensor
    heavy: Tensor
    windy: Tensor
    night: Tensor
    phase: Tensor
    slant: Tensor
    seeds: Tensor
    numbers: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        times, numbers = group.events(DROPS, 0.9)
        side = torch.where(group.uniform() < 0.5, -1.0, 1.0)
        return cls(
            seen=times,
            heard=times,
            heavy=group.attributes[:, 0],
            windy=group.attributes[:, 1],
            night=group.attributes[:, 2],
            phase=group.uniform(),
            slant=side * group.value(1, 0.03, 0.5),
            seeds=group.several(STREAKS, 3),
            numbers=numbers,
            loudness=group.value(0, 0.15, 0.25),
        )

    def picture(self, view: View) -> Tensor:
        time, heavy = view.middle, self.heavy
        drift = view.noise(
            view.x * 2.5 + 1.5 * view.y + (0.2 + column(self.windy)) * time,
            view.y * 3 - view.x + 3,
            0.5 * time + column(self.phase),
        )
        sky = between((0.50, 0.56, 0.63), (0.08, 0.10, 0.17), self.night)
        sky = sky * (1 - 0.18 * column(heavy)[:, None]) * (0.78 + 0.45 * drift[:, :, None])
        wet = view.noise(view.x * 5 + 2, view.y * 14, 1.5 * time + 4 * column(self.phase))
        floor = between((0.33, 0.36, 0.38), (0.05, 0.06, 0.10), self.night) * (0.75 + 0.5 * wet[:, :, None])
        picture = paint(sky, floor, view.step(view.y - GROUND, 0.04).expand_as(drift))
        number = torch.arange(STREAKS, device=heavy.device)
        shown = (number < (8 + 18 * heavy)[:, None]) * (0.6 + 0.3 * heavy)[:, None]
        fall = streaks(view, self.seeds, shown, 2.2 + 0.9 * heavy, self.slant, 0.20)
        ink = between((0.87, 0.92, 0.98), (0.55, 0.63, 0.78), self.night)
        picture = paint(picture, ink, fall * (1 - 0.5 * view.step(view.y - GROUND, 0.1)))
        age = view.age(self.seen)
        x = (0.12 + 0.76 * self.numbers[..., 0])[..., None].expand_as(age)
        y = (0.80 + 0.12 * self.numbers[..., 1])[..., None].expand_as(age)
        old = age.clamp(min=0)
        ring = rings(view, x, y, 0.04 + 0.42 * old, 0.022, fading(age, 0.22), 0.38)
        splash = blobs(view, x, y - 0.05, torch.full_like(age, 0.06), fading(age, 0.05) * (age > 0))
        return paint(picture, (0.93, 0.97, 1.0), (1.1 * ring + 1.2 * splash).clamp(0, 1))

    def sound(self, ear: Ear) -> Tensor:
        hiss = ear.noise(900 - 500 * self.heavy, 5200.0 - 800 * self.heavy, 2.0)
        # A power of the noise is sparse: single drops.
        drops = hiss * hiss.square()
        drops = drops / drops.square().mean(-1, keepdim=True).sqrt()
        patter = torch.lerp(drops, hiss, 0.25 + 0.6 * self.heavy[:, None])
        wind = ear.noise(80.0, 350.0) * swell(ear.times, self.phase, 0.9, 0.5) * (0.06 + 0.75 * self.windy[:, None])
        pitch = 700 + 900 * self.numbers[..., 2]
        plink = ear.blips(self.heard, pitch, 4.0, torch.full_like(pitch, 0.05), torch.full_like(pitch, 3.6))
        night = 0.10 * ear.crickets(self.phase) * self.night[:, None]
        return levelled(patter + wind + plink + night, self.loudness)
