"""Waves: crests come towards a beach, break with a roar, and their foam runs up the sand and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View, between, paint
from model.training.scenes.group import LAST, NEVER, Group, column
from model.training.scenes.noise import Ear, levelled, swell

HORIZON = 0.28
BREAK = 0.62
"""Where waves break, from the top."""

PERIODS = (1.25, 0.72)
"""Seconds between waves: slow, fast."""


@dataclass(frozen=True)
class Waves:
    seen: Tensor
    heard: Tensor
    stormy: Tensor
    fast: Tensor
    night: Tensor
    phase: Tensor
    period: Tensor
    first: Tensor
    loudness: Tensor

    @classmethod
    def draw(cls, group: Group) -> Self:
        period = group.value(1, *PERIODS) * group.uniform(0.95, 1.05)
        first = group.uniform(0.15, 0.75) * period
        count = 1 + int(group.duration / PERIODS[1])
        times = first[:, None] + torch.arange(count, device=first.device) * period[:, None]
        times = times.masked_fill(times > group.duration - LAST, NEVER)
        return cls(
            seen=times,
            heard=times,
            stormy=group.attributes[:, 0],
            fast=group.attributes[:, 1],
            night=group.attributes[:, 2],
            phase=group.uniform(),
            period=period,
            first=first,
            loudness=group.value(0, 0.15, 0.25),
        )

    def picture(self, view: View) -> Tensor:
        time, stormy, night = view.middle, column(self.stormy), self.night
        period, first = column(self.period), column(self.first)
        ripple = view.noise(view.x * 4 + 2, (view.y - HORIZON) * 16 - 3 * time, 1.2 * time + 4 * column(self.phase))
        sky = between((0.62, 0.80, 0.95), (0.04, 0.05, 0.13), night)
        sky = torch.lerp(sky, sky * 0.62, self.stormy.view(-1, 1, 1, 1, 1))
        sea = between((0.08, 0.42, 0.62), (0.02, 0.08, 0.19), night)
        sea = sea * (0.75 + 0.5 * ripple[:, :, None])
        sand = between((0.86, 0.75, 0.52), (0.20, 0.18, 0.19), night)
        foam = between((0.97, 0.99, 1.0), (0.60, 0.66, 0.78), night)
        picture = paint(
            sky.expand(*ripple.shape[:2], -1, *ripple.shape[2:]), sea, view.step(view.y - HORIZON, 0.02) + 0 * ripple
        )
        # Turns since the last break, measured so that the break shows in its own frame.
        turn = ((view.end - first) / period).remainder(1.0)
        wobble = 0.05 * (view.noise(view.x * 5 + 1, 0 * view.y, 0.8 * time + 6 * column(self.phase)) - 0.5)
        # A crest before it breaks: it comes from the horizon, and grows.
        for ahead in (0.0, 0.5):
            way = ((turn + ahead) % 1.0) if ahead else turn
            place = HORIZON + (BREAK - HORIZON) * way.square() + wobble * way
            wide = (0.018 + 0.045 * stormy) * (0.25 + way)
            face = torch.exp(-((view.y - place) / wide).square()) * way * (1.0 if not ahead else 0.7)
            picture = paint(
                picture, sea * 0.45, 0.9 * torch.exp(-((view.y - place - 1.3 * wide) / wide).square()) * way
            )
            picture = paint(picture, foam, face * (0.25 + 0.55 * stormy))
        # The swash: the edge of the water runs up the beach after a break, and back.
        run = (0.10 + 0.14 * stormy) * torch.sin(torch.pi * turn.clamp(0, 1) ** 0.55)
        edge = BREAK + 0.10 + run + wobble
        beach = view.step(view.y - edge, 0.02)
        wet = view.step(view.y - (BREAK + 0.20 + 0.14 * stormy), 0.08)
        picture = paint(picture, sand * 0.62, beach)
        picture = paint(picture, sand, beach * wet)
        white = torch.exp(-turn * 2.2)
        texture = view.noise(view.x * 9 + 2, view.y * 14 - 2 * turn, 1.5 * time + 2 * column(self.phase))
        crash = white * torch.exp(-((view.y - edge + 0.06 + 0.06 * stormy) / (0.06 + 0.07 * stormy)).square())
        picture = paint(picture, foam, (crash * (0.75 + 0.7 * texture)).clamp(0, 1) * (1 - beach))
        rim = torch.exp(-((view.y - edge + 0.012) / 0.022).square())
        return paint(picture, foam, 0.9 * rim)

    def sound(self, ear: Ear) -> Tensor:
        turn = ((ear.times - self.first[:, None]) / self.period[:, None]).remainder(1.0)
        before = turn.pow(4)
        since = turn * self.period[:, None]
        after = (since / 0.03).clamp(0, 1) * torch.exp(-since / 0.32)
        low = ear.noise(60.0, 500.0, -2.0)
        mid = ear.noise(300.0, 2200.0)
        high = ear.noise(1500.0, 6000.0)
        strong = self.stormy[:, None]
        surf = (0.10 + 0.5 * strong) * low * (0.3 + before + after) + mid * (0.07 + 0.25 * before + after)
        surf = surf + (0.45 + 0.2 * strong) * high * (0.06 + 1.1 * after)
        ambience = torch.where(self.night[:, None] > 0.5, ear.crickets(self.phase), 0.7 * ear.birds(self.phase))
        return levelled(surf * swell(ear.times, self.phase, 7.0, 0.12) + 0.045 * ambience, self.loudness)
