"""The samples of one kind in a batch: their attributes, random numbers, and events."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from model.training.scenes.drawing import View
from model.training.scenes.noise import Ear

NUMBERS = 48
"""Random numbers of a sample that do not belong to an event."""

SLOT = 0.2
"""Seconds; the smallest distance of the slots that hold one event each."""

SLOT_NUMBERS = 8

NEVER = 1e4
"""Time in seconds of an event that does not happen; finite, so that arithmetic with it is."""

BEYOND = 1.2
"""Seconds after the end of a clip for which events are drawn."""

LAST = 0.1
"""Seconds before the end of a clip in which no event begins."""


@dataclass
class Group:
    """`attributes` (batch, attributes) are 0.0 or 1.0. `numbers` (batch, NUMBERS) and `slots` (batch, slots,
    SLOT_NUMBERS) are uniform in [0, 1)."""

    attributes: Tensor
    numbers: Tensor
    slots: Tensor
    duration: float
    _used: int = field(default=0, init=False)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(batch,); another random number at each call."""
        self._used += 1
        return low + (high - low) * self.numbers[:, self._used - 1]

    def several(self, count: int, values: int) -> Tensor:
        """(batch, count, values) random numbers in [0, 1), made from few."""
        number = torch.arange(1, count * values + 1, device=self.numbers.device, dtype=torch.float32)
        start = self.uniform()[:, None] + 7.13 * self.uniform()[:, None] * (number * 0.7548777).frac()
        return (start * (1 + number.sqrt()) * 3.77 + number * 0.5698403).frac().view(-1, count, values)

    def value(self, attribute: int, first: float, second: float) -> Tensor:
        """(batch,): `first` or `second`, by the value of the attribute."""
        return first + (second - first) * self.attributes[:, attribute]

    def events(
        self, length: float, probability: Tensor | float = 1.0, early: float = 0.15, beyond: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Times (batch, events) of at most one event in each slot of `length` ≥ SLOT seconds, NEVER where there is
        none, and random numbers (batch, events, SLOT_NUMBERS - 2).

        Events are at least 0.4 `length` apart, and the first is not before `early` · length. There are none in the last
        LAST seconds of a clip, but some up to `beyond` ≤ BEYOND seconds after its end.
        """
        slots = self.slots[:, : max(1, math.ceil((self.duration + beyond) / length - 0.5))]
        times = (torch.arange(slots.shape[1], device=slots.device) + early + (0.75 - early) * slots[..., 0]) * length
        later = (times > self.duration + LAST) & (times < self.duration + beyond)
        there = (slots[..., 1] < probability) & ((times < self.duration - LAST) | later)
        return times.masked_fill(~there, NEVER), slots[..., 2:]

    def sparse_events(self, attribute: int, length: float, beyond: float = 0.0) -> tuple[Tensor, Tensor]:
        """As `events`: few, in every second slot, or many, by the value of the attribute."""
        number = torch.arange(math.ceil((self.duration + beyond) / length - 0.5), device=self.slots.device)
        many = self.attributes[:, attribute, None]
        return self.events(length, torch.where(number % 2 == 0, 0.75 + 0.1 * many, 0.85 * many), beyond=beyond)


class Scene(Protocol):
    """Scenes of one kind. `seen` and `heard` (batch, events): times of each event in the picture and in the sound."""

    @classmethod
    def draw(cls, group: Group) -> Self: ...

    @property
    def seen(self) -> Tensor: ...

    @property
    def heard(self) -> Tensor: ...

    def picture(self, view: View) -> Tensor:
        """(batch, frames, 3, height, width) in [0, 1]"""
        ...

    def sound(self, ear: Ear) -> Tensor:
        """(batch, samples), of any loudness"""
        ...

    @property
    def loudness(self) -> Tensor:
        """RMS of the sound (batch,), about 0.2."""
        ...


def fading(age: Tensor, decay: float) -> Tensor:
    """1 at the event, then decaying to 1/e in `decay` seconds; 0 before. `age` as from View.age."""
    return torch.exp(-age.clamp(min=0) / decay) * (age > 0)


def column(value: Tensor) -> Tensor:
    """(batch,) → (batch, 1, 1, 1), which broadcasts to masks and fields."""
    return value[:, None, None, None]
