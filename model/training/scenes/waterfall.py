"""Waterfall: a band of water falls over a cliff into a pool, with a steady roar. It has no events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, paint
from model.training.scenes.group import Group, column
from model.training.scenes.noise import Ear, levelled, swell


@dataclass(frozen=True)
class Waterfall:
    seen: Tensor
    heard: Tensor
    mighty: Tensor
    far: Tensor
    night: Tensor
    place: Tensor
    phase: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        none = group.attributes.new_zeros(len(group.attributes), 0)
        return cls(
            seen=none,
            heard=none,
            mighty=group.attributes[:, 0],
            far=group.attributes[:, 1],
            night=group.attributes[:, 2],
            place=group.uniform(0.42, 0.58),
            phase=group.uniform(),
            loudness=group.value(0, 0.18, 0.26) * group.value(1, 1.0, 0.8),
        )

    def picture(self, view: View) -> Tensor:
        time, mighty, far, night, phase = (
            view.middle,
            column(self.mighty),
            column(self.far),
            self.night,
            column(self.phase),
        )
        top, foot = 0.06 + 0.24 * far, 0.80 - 0.04 * far
        scale = 1 - 0.45 * far
        x = view.x - column(self.place)
        stone = (
            view.noise(
                (view.x * 6 + 3 * view.y) / scale + 2, (view.y * 6 - 2.5 * view.x) / scale + 5 * phase + 4, 3 * phase
            )
            + 0 * time
        )
        rock = between((0.36, 0.38, 0.30), (0.12, 0.13, 0.17), night) * (0.55 + 0.9 * stone[:, :, None])
        green = between((0.22, 0.45, 0.20), (0.04, 0.09, 0.07), night) * (0.7 + 0.6 * stone[:, :, None])
        sky = between((0.66, 0.84, 0.97), (0.04, 0.05, 0.14), night)
        ridge = top - 0.02 + 0.06 * (view.noise(view.x * 4 + 1, 5 * phase, 2 * phase) - 0.5)
        picture = paint(
            sky.expand(*stone.shape[:2], -1, *stone.shape[2:]), rock, view.step(view.y - ridge, 0.02) + 0 * stone
        )
        picture = paint(
            picture, green, torch.exp(-((view.y - ridge) / 0.07).square()) * view.step(view.y - ridge, 0.02)
        )
        half = (0.085 + 0.19 * mighty) * scale * (1 + 0.15 * (view.y - top))
        wobble = 0.03 * scale * (view.noise(view.x * 0 + 2, view.y * 6 - 7 * time, time) - 0.5)
        band = (
            view.step(half - (x + wobble).abs(), 0.03) * view.step(view.y - top, 0.03) * view.step(foot - view.y, 0.03)
        )
        down = view.y / scale - 1.9 * time
        thread = view.noise(x * 22 / scale + 4, down * 4.0, phase * 5 + time * 0.4)
        wide = view.noise(x * 8 / scale + 4, down * 6.5, phase * 3 + time * 0.4)
        light = (0.5 * thread + 0.7 * wide - 0.1).clamp(0, 1)
        water = between((0.45, 0.66, 0.80), (0.98, 1.0, 1.0), light) * between(
            (1.0, 1.0, 1.0), (0.42, 0.48, 0.62), night
        )
        picture = paint(picture, water, 0.95 * band)
        ripple = view.noise(view.x * 5 + 2, view.y * 18 - 4 * time, 2 * time + phase)
        pool = between((0.13, 0.40, 0.47), (0.03, 0.09, 0.17), night) * (0.65 + 0.7 * ripple[:, :, None])
        picture = paint(picture, pool, view.step(view.y - foot, 0.03) + 0 * stone)
        drift = view.noise(x * 6 / scale + 3, view.y * 6 / scale + 3 * time, 3 * time + 4 * phase)
        mist = torch.exp(-((view.y - foot) / (0.10 * scale)).square() - (x / (half + 0.10 * scale)).square())
        mist = mist * (0.35 + 0.55 * mighty + 0.9 * (drift - 0.5))
        spray = between((0.96, 0.98, 1.0), (0.45, 0.50, 0.64), night)
        return paint(picture, spray, mist.clamp(0, 1))

    def sound(self, ear: Ear) -> Tensor:
        top = 5500 - 3700 * self.far
        roar = ear.noise(350 - 250 * self.mighty, top, -1.5)
        bass = ear.noise(40.0, 180.0) * (0.08 + 0.75 * self.mighty[:, None])
        splash = ear.noise(2500.0, 6500.0) * 0.35 * (1 - 0.85 * self.far[:, None])
        water = (roar + bass + splash) * swell(ear.times, self.phase, 5.0, 0.08)
        ambience = torch.where(self.night[:, None] > 0.5, ear.crickets(self.phase), 0.8 * ear.birds(self.phase))
        return levelled(water + 0.16 * ambience, self.loudness)
