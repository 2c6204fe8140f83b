"""Every random number of a training step, drawn from (seed, step) alone: a resumed run draws what the first would have.

The draws are for the whole batch over all GPUs, and each takes its own rows: so neither the number of GPUs nor the
number of parts a step is worked off in changes what is learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.config import MODALITIES
from model.latents import Latents
from model.training.configuration import TimesConfig


def step_generator(seed: int, step: int, device: torch.device, purpose: str = "step") -> torch.Generator:
    """The random numbers of one step, on the device itself."""
    digest = hashlib.sha256(f"duet/train/{purpose}/{seed}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@dataclass(frozen=True)
class Times:
    """Integer times of each sample (batch,), and where a modality is given without noise instead (batch,), bool."""

    video: Tensor
    audio: Tensor
    clean_video: Tensor
    clean_audio: Tensor


def draw_times(config: TimesConfig, steps: int, batch: int, generator: torch.Generator) -> Times:
    """Times 0 … steps − 1, uniform, in the mix of `config`. A clean modality stands at t = 0, as in clean
    conditioning."""
    device = generator.device
    video = torch.randint(steps, (batch,), generator=generator, device=device)
    audio = torch.randint(steps, (batch,), generator=generator, device=device)
    u = torch.rand(batch, generator=generator, device=device)
    if not config.independent_timesteps:
        none = torch.zeros(batch, dtype=torch.bool, device=device)
        return Times(video, video, none, none)
    shared = config.shared_t
    clean_video = (u >= shared) & (u < shared + config.clean_video)
    clean_audio = (u >= shared + config.clean_video) & (u < shared + config.clean_video + config.clean_audio)
    audio = torch.where(u < shared, video, audio)
    return Times(video.masked_fill(clean_video, 0), audio.masked_fill(clean_audio, 0), clean_video, clean_audio)


def draw_shifts(max_shifts: Sequence[int], batch: int, generator: torch.Generator) -> Tensor:
    """RS-MMA window shifts (batch, blocks), block k uniform over 0 … max_shifts[k]."""
    device = generator.device
    limits = _limits(tuple(max_shifts), device)
    u = torch.rand(batch, len(max_shifts), generator=generator, device=device)
    return (u * limits).long().minimum(limits.long() - 1)  # u · limit may round up to the limit


@lru_cache(maxsize=8)
def _limits(max_shifts: tuple[int, ...], device: torch.device) -> Tensor:
    """How many shifts there are to choose from. Kept on the device: sending them in every step would wait for it."""
    return torch.tensor(max_shifts, dtype=torch.float32, device=device) + 1


def draw_noise(x0: Latents, batch: int, rows: slice, generator: torch.Generator) -> Latents:
    """Standard normal noise for the `rows` of a batch whose samples are shaped as those of `x0`, video first."""
    noise = Latents(None, None)
    for name in MODALITIES:
        value = getattr(x0, name)
        if value is not None:
            drawn = torch.randn((batch, *value.shape[1:]), generator=generator, device=value.device)
            noise = noise.replace(name, drawn[rows])
    return noise
