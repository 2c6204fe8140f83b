"""The procedural data set `bounce`: discs bounce and sound at each impact.

The ground truth is known exactly: time, place, speed and hue of every impact. docs/bounce.md has formulas and pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import picture, sound
from model.training.bounce.captions import captions
from model.training.bounce.draws import Draws
from model.training.bounce.scene import Scene, Split, draw_scene

__all__ = ["Bounce", "Scene", "Split"]

CLIPS_ON_A_CPU = 16
"""Clips rendered together on a CPU, where intermediate results then fit the cache. A GPU renders all at once."""


class Bounce:
    """Endless clips in the format `clip`. Sample i depends only on (seed, split, i), and on the device by rounding.

    `split` "train" has no held-out combination of hue and x at a floor impact (scene.HELD_OUT); in "held_out" every
    disc has at least one. `factor` is that of super-resolution, for `frames`.
    """

    def __init__(self, clip: ClipSpec, seed: int, split: Split, factor: int = 4) -> None:
        if split not in ("train", "held_out"):
            raise ValueError(f"split must be train or held_out; got {split!r}")
        if factor < 1:
            raise ValueError(f"factor must be at least 1; got {factor}")
        self.clip = clip
        self.seed = seed
        self.split = split
        self.factor = factor

    @torch.no_grad()
    def batch(self, indexes: Tensor, device: torch.device | str = "cpu") -> Latents:
        """Samples `indexes` (batch,) int64: video (batch, frames, 3, height, width) in [-1, 1], audio (batch, 1,
        samples), float32."""
        at_once = CLIPS_ON_A_CPU if torch.device(device).type == "cpu" else max(1, len(indexes))
        parts = [self.render(self.scene(part, device)) for part in indexes.split(at_once)]
        return Latents(torch.cat([part["video"] for part in parts]), torch.cat([part["audio"] for part in parts]))

    @torch.no_grad()
    def frames(self, indexes: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """A random frame of each of the same scenes, (batch, 3, height · factor, width · factor)."""
        scene = self.scene(indexes, device)
        number = (self._draws(indexes, device).uniform("frame", 1) * self.clip.frames).long()
        return picture.render(scene, number, self.clip.height * self.factor, self.clip.width * self.factor)[:, 0]

    @torch.no_grad()
    def captions(self, indexes: Tensor) -> list[str]:
        """What happens in each sample, in words; computed on the CPU."""
        return captions(self.scene(indexes), self._draws(indexes, "cpu"))

    @torch.no_grad()
    def scene(self, indexes: Tensor, device: torch.device | str = "cpu") -> Scene:
        """Ground truth of the samples."""
        return draw_scene(self.clip, self._draws(indexes, device), self.split)

    @torch.no_grad()
    def render(self, scene: Scene) -> Latents:
        """Video and sound of scenes."""
        number = torch.arange(self.clip.frames, device=scene.time.device).expand(len(scene.time), -1)
        video = picture.render(scene, number, self.clip.height, self.clip.width)
        return Latents(video, sound.render(scene, self.clip))

    def _draws(self, indexes: Tensor, device: torch.device | str) -> Draws:
        return Draws(f"bounce/{self.seed}/{self.split}", indexes.to(device, torch.int64))
