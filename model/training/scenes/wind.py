"""Wind over grass: blades bend in gusts, with a howl and a rustle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, paint
from model.training.scenes.group import Group, column
from model.training.scenes.noise import Ear, levelled, swell

GUSTS = 0.8
"""Seconds between gusts, about."""

RISE = 0.09
"""Seconds in which a gust grows."""


@dataclass(frozen=True)
class Wind:
    seen: Tensor
    heard: Tensor
    storm: Tensor
    tall: Tensor
    night: Tensor
    side: Tensor
    phase: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        times, _ = group.events(GUSTS, 0.85, 0.25)
        return cls(
            seen=times,
            heard=times,
            storm=group.attributes[:, 0],
            tall=group.attributes[:, 1],
            night=group.attributes[:, 2],
            side=torch.where(group.uniform() < 0.5, -1.0, 1.0),
            phase=group.uniform(),
            loudness=group.value(0, 0.14, 0.26),
        )

    def picture(self, view: View) -> Tensor:
        time, storm, night, phase = view.middle, column(self.storm), self.night, column(self.phase)
        side, tall = column(self.side), column(self.tall)
        age = view.age(self.seen)
        rise = (age / RISE).clamp(0, 1) * torch.exp(-age.clamp(min=0) / 0.35)
        gust = rise.amax(1)[:, :, None, None]
        sky = between((0.55, 0.76, 0.95), (0.09, 0.11, 0.24), night)
        cloud = view.noise(
            view.x * 2.5 + 2 * view.y - side * (0.8 + 2.2 * storm) * time + 20,
            view.y * 4.5 - 1.3 * view.x + 3 * phase + 4,
            4 * phase + 0.3 * time,
        )
        picture = sky.expand(*cloud.shape[:2], -1, *cloud.shape[2:])
        grey = between((0.97, 0.98, 1.0), (0.27, 0.29, 0.40), night)
        grey = torch.lerp(grey, grey * 0.55, self.storm.view(-1, 1, 1, 1, 1))
        picture = paint(picture, grey, ((cloud - 0.5 + 0.15 * storm) * 3).clamp(0, 0.9))
        # Two rows of blades; the nearer one is larger and brighter.
        for row, (root, size, light) in enumerate(((0.85, 0.72, 0.72), (1.06, 1.0, 1.0))):
            height = (0.20 + 0.36 * tall) * size
            up = ((root - view.y) / height).clamp(0, 1.4)
            wave = (
                view.noise(view.x * 3 - side * (2 + 3 * storm) * time + 20, 0 * view.y + 3 * row, 2 * time + 5 * phase)
                - 0.5
            )
            lean = side * (0.03 + (0.10 + 0.28 * storm) * gust) + (0.05 + 0.10 * storm) * wave
            foot = view.x - lean * up.square() * (0.55 + 0.6 * tall)
            tip = view.noise(foot * (13 - 3 * row) + 5, 0 * view.y + 2 + 3 * row, 5 * phase)
            blade = (foot * (9 - 2 * row) + 0.3 * row + phase) % 1.0
            point = 1 - (2 * blade - 1).abs()
            reach = 0.45 + 0.35 * tip + 0.35 * point
            mask = view.step((reach - up) * height, 0.02) * view.step(1.2 - up, 0.05)
            shade = (0.55 + 0.35 * point + 0.25 * up.clamp(0, 1) + 0.30 * gust * (wave + 0.5)) * light
            grass = between((0.36, 0.66, 0.20), (0.13, 0.30, 0.24), night) * shade[:, :, None]
            picture = paint(picture, grass, mask)
        return picture

    def sound(self, ear: Ear) -> Tensor:
        gust = ear.bursts(self.heard, RISE, 0.35, torch.ones_like(self.heard))
        storm, tall = self.storm[:, None], self.tall[:, None]
        low = ear.noise(90.0, 380.0)
        howl = ear.noise(450 + 250 * self.storm, 650 + 450 * self.storm)
        rustle = ear.noise(2500.0, 6500.0)
        slow = swell(ear.times, self.phase, 1.3, 0.3)
        air = low * slow * (0.35 + 1.1 * gust) + (0.25 + 0.7 * storm) * howl * (0.08 + 1.5 * gust)
        air = air + (0.12 + 0.5 * tall) * rustle * (0.10 + 1.2 * gust) * swell(ear.times, self.phase, 9.0, 0.4)
        ambience = torch.where(self.night[:, None] > 0.5, ear.crickets(self.phase), 0.8 * ear.birds(self.phase))
        return levelled(air + 0.06 * ambience, self.loudness)
