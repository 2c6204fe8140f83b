"""Fire: flames that flicker over logs, with a roar; sparks fly at each crackle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, blobs, paint
from model.training.scenes.group import Group, column, fading
from model.training.scenes.noise import Ear, levelled, swell

BASE = 0.86
"""Height of the logs, from the top."""

SPARKS = 4
"""Sparks of a crackle."""

ROW = 0.2
"""Seconds between possible crackles."""


@dataclass(frozen=True)
class Fire:
    seen: Tensor
    heard: Tensor
    size: Tensor
    night: Tensor
    place: Tensor
    phase: Tensor
    force: Tensor
    flight: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        events, numbers = group.sparse_events(1, ROW)
        return cls(
            seen=events,
            heard=events,
            size=group.value(0, 0.62, 1.15) * group.uniform(0.92, 1.08),
            night=group.attributes[:, 2],
            place=group.uniform(0.42, 0.58),
            phase=group.uniform(),
            force=0.6 + 0.4 * numbers[..., 0],
            flight=numbers,
            loudness=group.value(0, 0.16, 0.24),
        )

    def picture(self, view: View) -> Tensor:
        age = view.age(self.seen)
        flare = fading(age, 0.09).amax(1)[:, :, None, None]
        night, time = self.night, view.middle
        ground = view.step(view.y - BASE + 0.03, 0.05)
        picture = between((0.50, 0.63, 0.78), (0.03, 0.03, 0.09), night).expand(-1, time.shape[1], -1, *_size(view))
        floor = between((0.42, 0.40, 0.28), (0.07, 0.05, 0.05), night)
        picture = paint(picture, floor, ground.expand(*time.shape[:2], -1, len(view.x)))
        x, size = view.x - column(self.place), column(self.size)
        height = (BASE - view.y) / (0.62 * size)
        # The glow around the flames.
        near = torch.exp(-((x / 0.42).square() + ((view.y - BASE + 0.22 * size) / 0.4).square()) / size)
        glow = near * (0.22 + 0.30 * column(night)) * (0.85 + 0.5 * flare)
        picture = paint(picture, (1.0, 0.45, 0.12), glow)
        rising = view.y * 5 / size.sqrt() + 7.5 * time
        coarse = view.noise(x * 4 / size.sqrt() + 3, rising, 2.5 * time + 5 * column(self.phase))
        fine = view.noise(x * 9 / size.sqrt() + 3, 1.7 * rising, 4 * time + 3 * column(self.phase))
        sway = (coarse - 0.5) * 0.22 * height.clamp(0, 1.2)
        width = 0.25 * size * (1 - 0.75 * height.clamp(0, 1.3))
        heat = 1.15 - ((x + sway) / width.clamp(min=0.03)).square() - 0.75 * height.clamp(min=0)
        heat = heat + 1.1 * (coarse - 0.5) * (0.4 + height.clamp(0, 1)) + 0.6 * (fine - 0.5) + 0.25 * flare
        heat = torch.where(height > -0.06, heat, -1.0)
        picture = paint(picture, (0.78, 0.12, 0.03), (heat * 3 + 0.4).clamp(0, 1))
        picture = paint(picture, (1.0, 0.50, 0.05), (heat * 2.4 - 0.35).clamp(0, 1))
        picture = paint(picture, (1.0, 0.87, 0.35), (heat * 2.2 - 0.95).clamp(0, 1))
        picture = paint(picture, (1.0, 0.98, 0.85), (heat * 2.2 - 1.7 + flare).clamp(0, 1))
        for slope in (-0.25, 0.25):
            off = (view.y - BASE - 0.03 - slope * x).abs()
            log = view.step(0.035 - off, 0.02) * view.step(0.26 * size.sqrt() - x.abs(), 0.02)
            picture = paint(picture, (0.20, 0.10, 0.06), log)
        return self._sparks(picture, view, age)

    def _sparks(self, picture: Tensor, view: View, age: Tensor) -> Tensor:
        spark = torch.arange(SPARKS, device=age.device)
        turn = (self.flight[..., 1, None] + 0.37 * spark) % 1.0  # (batch, events, sparks)
        old = age.clamp(min=0)[:, :, None]
        sideways = (turn - 0.5)[..., None]
        x = self.place[:, None, None, None] + sideways * (0.12 + 1.7 * old)
        up = (0.7 + 0.6 * (turn * 7.3 % 1.0))[..., None] * old
        y = BASE - 0.22 * self.size[:, None, None, None] - up + 0.7 * old.square()
        weight = (fading(age, 0.28) * self.force[..., None])[:, :, None].expand_as(x)
        spots = blobs(
            view, x.flatten(1, 2), y.flatten(1, 2), torch.full_like(x, 0.026).flatten(1, 2), weight.flatten(1, 2)
        )
        return paint(picture, (1.0, 0.92, 0.55), (1.3 * spots).clamp(0, 1))

    def sound(self, ear: Ear) -> Tensor:
        roar = ear.noise(40.0, 150 + 350 * self.size, -3.0) * swell(ear.times, self.phase, 3.0, 0.35)
        hiss = 0.16 * ear.noise(1200.0, 3500.0)
        snap = ear.noise(1500.0, 7000.0) * ear.bursts(self.heard, 0.001, 0.012, 5.0 * self.force)
        snap = snap + ear.noise(500.0, 2500.0) * ear.bursts(self.heard, 0.002, 0.035, 1.6 * self.force)
        ambience = torch.where(self.night[:, None] > 0.5, ear.crickets(self.phase), 0.8 * ear.birds(self.phase))
        return levelled(0.65 * roar + hiss + snap + 0.10 * ambience, self.loudness)


def _size(view: View) -> tuple[int, int]:
    return view.y.shape[0], view.x.shape[0]
