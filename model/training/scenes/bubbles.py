"""Bubbles under water: they rise, and each pops at the surface with a blip; small ones are high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, blobs, distances, paint, rings
from model.training.scenes.group import BEYOND, NEVER, Group, column, fading
from model.training.scenes.noise import Ear, levelled, swell

SURFACE = 0.14
ROW = 0.2
"""Seconds between possible bubbles."""


@dataclass(frozen=True)
class Bubbles:
    seen: Tensor
    heard: Tensor
    big: Tensor
    many: Tensor
    deep: Tensor
    phase: Tensor
    radius: Tensor
    place: Tensor
    pitch: Tensor
    rise: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        times, numbers = group.sparse_events(1, ROW, BEYOND)
        spread = numbers[..., 0]
        big = group.attributes[:, 0, None]
        return cls(
            seen=times,
            heard=times,
            big=group.attributes[:, 0],
            many=group.attributes[:, 1],
            deep=group.attributes[:, 2],
            phase=group.uniform(),
            radius=(0.042 + 0.062 * big) * (0.88 + 0.24 * spread),
            place=0.12 + 0.76 * numbers[..., 1],
            # Minnaert, 1933: the pitch is inverse to the radius.
            pitch=(1300 - 950 * big) / (0.8 + 0.4 * spread),
            rise=0.55 + 0.25 * numbers[..., 2],
            loudness=group.value(1, 0.16, 0.22),
        )

    def picture(self, view: View) -> Tensor:
        time, deep, phase = view.middle, self.deep, column(self.phase)
        down = view.y.expand(-1, len(view.x))[None, None]
        top = between((0.45, 0.85, 0.90), (0.05, 0.24, 0.42), deep)
        low = between((0.06, 0.42, 0.62), (0.01, 0.04, 0.14), deep)
        ray = view.noise((view.x + 0.35 * view.y) * 5 + 2, 0 * view.y + 4 * phase, 1.3 * time + 3 * phase)
        picture = torch.lerp(top, low, down[:, :, None].clamp(0, 1)) + 0 * ray[:, :, None]
        picture = paint(
            picture, (0.85, 1.0, 0.97), ((ray - 0.42) * (1 - view.y) * (0.75 - 0.5 * column(deep))).clamp(0, 1)
        )
        level = SURFACE - 0.05 + 0.02 * torch.sin(9 * view.x + 5 * time + 6.28 * phase)
        surface = torch.exp(-((view.y - level) / 0.025).square())
        picture = paint(picture, between((0.95, 1.0, 1.0), (0.40, 0.62, 0.75), deep), 0.75 * surface)
        age = view.age(self.seen)
        before = (-age).clamp(min=0) * (self.seen[..., None] < NEVER) + 10.0 * (self.seen[..., None] >= NEVER)
        y = SURFACE + self.rise[..., None] * before
        x = self.place[..., None] + 0.03 * torch.sin(7 * before + 20 * self.place[..., None])
        there = (age <= 0) & (before < 9)
        radius = self.radius[..., None].expand_as(x) * (1 - 0.25 * (y - SURFACE).clamp(0, 1))
        far = distances(view, x, y)
        size = radius[..., None, None]
        body = view.step(size - far, 0.015) * there[..., None, None]
        rim = torch.exp(-((far - 0.82 * size) / (0.25 * size).clamp(min=0.5 * view.pixel)).square()) * body
        picture = paint(picture, (0.70, 0.93, 0.98), 0.35 * body.amax(1))
        picture = paint(picture, (0.93, 1.0, 1.0), 0.85 * rim.amax(1))
        glint = blobs(view, x - 0.35 * radius, y - 0.35 * radius, 0.30 * radius, there.float())
        picture = paint(picture, (1.0, 1.0, 1.0), glint)
        # A pop: a flat ring at the surface, and a flash in its first frame.
        old, base = age.clamp(min=0), torch.full_like(age, SURFACE - 0.03)
        ring = rings(view, x, base, self.radius[..., None] * (1.0 + 5 * old), 0.03, fading(age, 0.12), 0.5)
        flash = blobs(view, x, base, 1.3 * self.radius[..., None].expand_as(x), fading(age, 0.05))
        return paint(picture, (1.0, 1.0, 1.0), (ring + 1.6 * flash).clamp(0, 1))

    def sound(self, ear: Ear) -> Tensor:
        long = torch.lerp(self.pitch.new_tensor(0.04), self.pitch.new_tensor(0.09), self.big[:, None])
        blip = ear.blips(self.heard, self.pitch, 2.5, long.expand_as(self.pitch), torch.ones_like(self.pitch))
        hum = ear.noise(50.0, 260 - 140 * self.deep) * (0.12 + 0.10 * self.deep[:, None])
        shimmer = 0.05 * ear.noise(700.0, 3000.0) * (1 - self.deep[:, None]) * swell(ear.times, self.phase, 4.0, 0.6)
        return levelled(blip + hum + shimmer, self.loudness)
