"""The procedural data set `scenes`: eight kinds of moving pictures with their sounds, captions, and known events.

docs/scenes.md describes the kinds and shows pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce.draws import Draws
from model.training.bounce.sound import limited
from model.training.scenes.bubbles import Bubbles
from model.training.scenes.captions import caption, mentions
from model.training.scenes.drawing import View
from model.training.scenes.explosion import Explosion
from model.training.scenes.fire import Fire
from model.training.scenes.group import BEYOND, NUMBERS, SLOT, SLOT_NUMBERS, Group, Scene
from model.training.scenes.kinds import KINDS, MOST_ATTRIBUTES, NAMES, Split
from model.training.scenes.noise import Ear
from model.training.scenes.rain import Rain
from model.training.scenes.thunder import Thunder
from model.training.scenes.waterfall import Waterfall
from model.training.scenes.waves import Waves
from model.training.scenes.wind import Wind

__all__ = ["Scenes", "Split", "Truth"]

Groups = list[tuple[Tensor, Scene]]
"""The rows of each kind in a batch, on the CPU, and their scenes."""

SCENES: tuple[type[Scene], ...] = (Fire, Rain, Thunder, Waves, Waterfall, Wind, Bubbles, Explosion)
"""By kind, in the order of KINDS."""

CLIPS_ON_A_CPU = 32
"""Clips rendered together on a CPU."""

LATTICE = (8, 12, 12)
"""Depth, rows and columns of the random numbers that smooth noise is made from."""


@dataclass(frozen=True)
class Truth:
    """`kind` (batch,) numbers KINDS; `attributes` (batch, MOST_ATTRIBUTES) are values 0 or 1, and -1 where the kind has
    fewer. `seen` and `heard` (batch, events): seconds of each event in the picture and in the sound, padded with
    infinity. All on the CPU."""

    kind: Tensor
    attributes: Tensor
    seen: Tensor
    heard: Tensor


class Scenes:
    """Endless clips in the format `clip`. Sample i depends only on (seed, split, i), and on the device by rounding.

    Its kind is i modulo 8, so every batch has the same mixture. `split` "held_out" draws the combination of attributes
    of each kind that "train" leaves out. `factor` is that of super-resolution, for `frames`. `kind`: all samples are of
    this one.
    """

    def __init__(self, clip: ClipSpec, seed: int, split: Split, factor: int = 4, kind: str | None = None) -> None:
        if split not in ("train", "held_out"):
            raise ValueError(f"split must be train or held_out; got {split!r}")
        if factor < 1:
            raise ValueError(f"factor must be at least 1; got {factor}")
        if kind is not None and kind not in NAMES:
            raise ValueError(f"kind must be one of {', '.join(NAMES)}; got {kind!r}")
        self.clip, self.seed, self.split, self.factor = clip, seed, split, factor
        self._kind = None if kind is None else NAMES.index(kind)

    @torch.no_grad()
    def batch(self, indexes: Tensor, device: torch.device | str = "cpu") -> Latents:
        """Samples `indexes` (batch,) int64: video (batch, frames, 3, height, width) in [-1, 1], audio (batch, 1,
        samples), float32."""
        parts = [
            self._batch(part, torch.device(device)) for part in indexes.cpu().split(_at_once(device, len(indexes)))
        ]
        return Latents(torch.cat([part["video"] for part in parts]), torch.cat([part["audio"] for part in parts]))

    @torch.no_grad()
    def frames(self, indexes: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """A random frame of each of the same scenes, (batch, 3, height · factor, width · factor)."""
        device, indexes = torch.device(device), indexes.cpu()
        number = (self._draws(indexes, device).uniform("frame", 1) * self.clip.frames).long()
        height, width = self.clip.height * self.factor, self.clip.width * self.factor
        return self._pictures(self._groups(indexes, device), indexes, number, (height, width), device)[:, 0]

    @torch.no_grad()
    def truth(self, indexes: Tensor) -> Truth:
        """Kinds, attributes and events of the samples."""
        indexes = indexes.cpu()
        kind, attributes = self._attributes(indexes)
        groups = self._groups(indexes, torch.device("cpu"))
        most = max(scene.seen.shape[1] for _, scene in groups)
        seen, heard = (torch.full((len(indexes), most), torch.inf) for _ in range(2))
        for rows, scene in groups:
            for table, times in ((seen, scene.seen), (heard, scene.heard)):
                table[rows, : times.shape[1]] = times.masked_fill(times >= self.clip.duration, torch.inf)
        order = seen.argsort(dim=1, stable=True)
        return Truth(kind, attributes, seen.gather(1, order), heard.gather(1, order))

    @torch.no_grad()
    def captions(self, indexes: Tensor, complete: bool = False) -> list[str]:
        """What each sample shows, in words; computed on the CPU. `complete`: in the plainest words, with every
        attribute; otherwise the sample's own wording, which may leave some out."""
        indexes = indexes.cpu()
        kinds, attributes = (table.tolist() for table in self._attributes(indexes))
        words = self._draws(indexes, "cpu").uniform("caption", mentions(MOST_ATTRIBUTES)).tolist()
        return [
            caption(kind, values, None if complete else u)
            for kind, values, u in zip(kinds, attributes, words, strict=True)
        ]

    def _draws(self, indexes: Tensor, device: torch.device | str) -> Draws:
        return Draws(f"scenes/{self.seed}/{self.split}", indexes.to(device, torch.int64, non_blocking=True))

    def _kinds(self, indexes: Tensor) -> Tensor:
        kind = indexes % len(KINDS)
        return kind if self._kind is None else torch.full_like(kind, self._kind)

    def _attributes(self, indexes: Tensor) -> tuple[Tensor, Tensor]:
        """Kinds (batch,) and values of attributes (batch, MOST_ATTRIBUTES), on the CPU."""
        kind = self._kinds(indexes)
        table, count = _combinations(self.split)
        chosen = (self._draws(indexes, "cpu").uniform("attributes") * count[kind]).long()
        return kind, table[kind, chosen]

    def _groups(self, indexes: Tensor, device: torch.device) -> Groups:
        kind, attributes = self._attributes(indexes)
        draws, duration = self._draws(indexes, device), self.clip.duration
        values = attributes.float().to(device, non_blocking=True)
        numbers = draws.uniform("numbers", NUMBERS).float()
        slots = draws.uniform("slots", math.ceil((duration + BEYOND) / SLOT), SLOT_NUMBERS).float()
        groups = []
        for number in range(len(KINDS)):
            rows = (kind == number).nonzero()[:, 0]
            if len(rows):
                at = rows.to(device, non_blocking=True)
                groups.append((rows, SCENES[number].draw(Group(values[at], numbers[at], slots[at], duration))))
        return groups

    def _batch(self, indexes: Tensor, device: torch.device) -> Latents:
        number = torch.arange(self.clip.frames, device=device).expand(len(indexes), -1)
        groups = self._groups(indexes, device)
        video = self._pictures(groups, indexes, number, (self.clip.height, self.clip.width), device)
        return Latents(video, self._sounds(groups, indexes, device))

    def _pictures(
        self, groups: Groups, indexes: Tensor, number: Tensor, size: tuple[int, int], device: torch.device
    ) -> Tensor:
        """The frames `number` (batch, count) of each sample, (batch, count, 3, height, width)."""
        lattice = self._draws(indexes, device).uniform("lattice", 1, *LATTICE).float()
        start = number[..., None, None].float() / self.clip.fps
        y, x = ((torch.arange(pixels, device=device) + 0.5) / pixels for pixels in size)
        pictures = []
        for rows, scene in groups:
            at = rows.to(device, non_blocking=True)
            own = start[at]
            view = View(own + 0.5 / self.clip.fps, own + 1 / self.clip.fps, x, y[:, None], lattice[at])
            pictures.append(scene.picture(view))
        return _joined(groups, pictures).clamp(0, 1) * 2 - 1

    def _sounds(self, groups: Groups, indexes: Tensor, device: torch.device) -> Tensor:
        """(batch, 1, samples)"""
        count, rate = self.clip.samples, self.clip.sample_rate
        spectrum = torch.fft.rfft(self._draws(indexes, device).uniform("noise", count).float() - 0.5)
        times = torch.arange(count, device=device) / rate
        hertz = torch.fft.rfftfreq(count, 1 / rate, device=device)
        sounds = [
            scene.sound(Ear(times, spectrum[rows.to(device, non_blocking=True)], hertz, rate)) for rows, scene in groups
        ]
        return limited(_joined(groups, sounds))[:, None]


def _at_once(device: torch.device | str, count: int) -> int:
    return CLIPS_ON_A_CPU if torch.device(device).type == "cpu" else max(1, count)


def _joined(groups: Groups, parts: list[Tensor]) -> Tensor:
    """The samples of all groups, in the order of the batch."""
    order = torch.cat([rows for rows, _ in groups]).argsort()
    return torch.cat(parts)[order.to(parts[0].device, non_blocking=True)]


@lru_cache
def _combinations(split: Split) -> tuple[Tensor, Tensor]:
    """The allowed combinations of each kind (kinds, combinations, MOST_ATTRIBUTES), padded, and their numbers."""
    every = [kind.combinations(split) for kind in KINDS]
    table = torch.full((len(KINDS), max(map(len, every)), MOST_ATTRIBUTES), -1)
    for number, combinations in enumerate(every):
        for place, values in enumerate(combinations):
            table[number, place, : len(values)] = torch.tensor(values)
    return table, torch.tensor([len(each) for each in every])
