"""Thunder: lightning over dark clouds. Near: a big bolt, and a crack and a rumble at once. Far: a small one at the
horizon, and a dull rumble 0.5 … 0.7 s later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, paint, streaks
from model.training.scenes.group import NEVER, Group, column, fading
from model.training.scenes.noise import Ear, levelled, swell

HORIZON = 0.80
STROKES = 1.6
"""Seconds between strokes, about."""

DELAYS = ((0.02, 0.06), (0.5, 0.7))
"""Seconds from the flash to the sound: near, far."""

STREAKS = 18


@dataclass(frozen=True)
class Thunder:
    seen: Tensor
    heard: Tensor
    far: Tensor
    strong: Tensor
    rainy: Tensor
    phase: Tensor
    seeds: Tensor
    numbers: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        times, numbers = group.events(STROKES, early=0.12)
        # The first two fifths of a slot, so that the rumble is heard.
        start = torch.arange(times.shape[1], device=times.device) * STROKES
        times = torch.where(times < NEVER, start + 0.12 + 0.52 * (times - start) / STROKES, times)
        low, high = (group.value(0, DELAYS[0][end], DELAYS[1][end])[:, None] for end in (0, 1))
        return cls(
            seen=times,
            heard=times + low + (high - low) * numbers[..., 0],
            far=group.attributes[:, 0],
            strong=group.attributes[:, 1],
            rainy=group.attributes[:, 2],
            phase=group.uniform(),
            seeds=group.several(STREAKS, 3),
            numbers=numbers,
            loudness=group.value(1, 0.15, 0.25),
        )

    def picture(self, view: View) -> Tensor:
        time, far, strong = view.middle, column(self.far), column(self.strong)
        age = view.age(self.seen)
        # The flash flickers: a second peak after 0.2 s.
        light = (fading(age, 0.13) + 0.35 * fading(age - 0.2, 0.08)).amax(1)[:, :, None, None]
        coarse = view.noise(
            view.x * 2.5 + 1.8 * view.y + 0.9 * time, view.y * 4 - 1.2 * view.x + 4 * column(self.phase) + 2, 0.8 * time
        )
        fine = view.noise(
            view.x * 6 + 4 * view.y + 1.4 * time, view.y * 8 - 3 * view.x + 4, 1.2 * time + 3 * column(self.phase)
        )
        cloud = 0.65 * coarse + 0.35 * fine
        picture = between((0.05, 0.06, 0.12), (0.30, 0.31, 0.40), (1.3 * cloud - 0.15).clamp(0, 1))
        x0 = self.numbers[..., 1, None, None, None] * 0.5 + 0.25
        middle = x0[:, 0]
        # Far lightning lights the clouds above the horizon only.
        reach = torch.exp(-((view.y - HORIZON + 0.15) / 0.30).square() - ((view.x - middle) / 0.35).square())
        lit = light * torch.lerp(torch.ones_like(reach), reach, 0.9 * far) * (0.6 + 0.4 * strong)
        picture = paint(picture, (0.80, 0.82, 1.0), (lit * (0.55 + 0.6 * cloud)).clamp(0, 1))
        bolt = self._bolt(view, middle, light)
        picture = paint(picture, (1.0, 1.0, 1.0), bolt)
        hills = HORIZON + 0.05 * torch.sin(9 * view.x + 6.28 * column(self.phase))
        ground = view.step(view.y - hills, 0.03)
        shore = between((0.02, 0.03, 0.05), (0.20, 0.22, 0.26), (0.6 * light * (1 - 0.7 * far)).expand_as(cloud))
        picture = paint(picture, shore, ground.expand_as(cloud))
        shown = self.rainy[:, None].expand(-1, STREAKS) * 0.5
        fall = streaks(view, self.seeds, shown, 2.6 + 0 * self.far, 0.15 + 0 * self.far, 0.2)
        return paint(picture, (0.62, 0.68, 0.80), fall)

    def _bolt(self, view: View, middle: Tensor, light: Tensor) -> Tensor:
        far, strong = column(self.far), column(self.strong)
        top, end = HORIZON * (0.55 * far), HORIZON + 0.02
        along = view.y
        jag = view.noise(torch.zeros_like(view.x[:1]), along * (7 + 4 * far), 9 * column(self.phase))
        jag = jag - 0.5 + 0.5 * (view.noise(torch.ones_like(view.x[:1]), along * 15, 5 * column(self.phase)) - 0.5)
        centre = middle + 0.34 * jag * (1 - 0.65 * far)
        wide = (0.020 + 0.022 * strong) * (1 - 0.45 * far)
        shown = wide.clamp(min=0.5 * view.pixel)
        core = torch.exp(-((view.x - centre) / shown).square()) * (wide / shown)
        halo = 0.45 * torch.exp(-((view.x - centre) / (4 * wide)).square())
        inside = ((along - top) / 0.12 + (1 - far)).clamp(0, 1) * (along <= end)
        return ((core + halo) * inside * light * 1.25).clamp(0, 1)

    def sound(self, ear: Ear) -> Tensor:
        near = 1 - self.far[:, None]
        force = torch.ones_like(self.heard)
        rumble = ear.noise(25.0, 260 - 110 * self.far, -2.0)
        rumble = rumble * swell(ear.times, self.phase, 4.0, 0.6)
        attack = torch.where(
            near > 0, ear.bursts(self.heard, 0.01, 0.45, force), ear.bursts(self.heard, 0.07, 0.5, force)
        )
        crack = ear.noise(500.0, 5000.0, -2.0) * ear.bursts(self.heard, 0.003, 0.09, force) * near
        rolled = 3.0 * rumble * attack + (1.5 + 1.2 * self.strong[:, None]) * crack
        # Stronger thunder is louder than the wind and the rain beside it.
        rolled = rolled * (0.65 + 0.5 * self.strong[:, None])
        wind = 0.16 * ear.noise(80.0, 400.0) * swell(ear.times, self.phase, 0.7, 0.4)
        hiss = 0.28 * ear.noise(1500.0, 5500.0) * self.rainy[:, None]
        return levelled(rolled + wind + hiss, self.loudness)
