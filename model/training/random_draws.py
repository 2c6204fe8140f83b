"""Random numbers of a training step. They depend on (seed, step) only, so a resumed run draws the same ones.

Each process draws for the whole batch and takes its own rows, so neither the number of GPUs nor the number of
accumulation parts changes the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.networks.config import MODALITIES, ClipSpec
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.configuration import TimesConfig


def step_generator(seed: int, step: int, device: torch.device, purpose: str = "step") -> torch.Generator:
    """Generator for one step, on `device`."""
    digest = hashlib.sha256(f"duet/train/{purpose}/{seed}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@dataclass(frozen=True)
class Times:
    """Integer times of each sample (batch,), and masks (batch,), bool, of samples whose modality is clean."""

    video: Tensor
    audio: Tensor
    clean_video: Tensor
    clean_audio: Tensor


def draw_times(config: TimesConfig, schedule: NoiseSchedule, batch: int, generator: torch.Generator) -> Times:
    """Times of `schedule`, with the density and mix of `config`. A clean modality has t = 0."""
    device = generator.device
    video = draw_time(config, schedule, batch, generator)
    audio = draw_time(config, schedule, batch, generator)
    u = torch.rand(batch, generator=generator, device=device)
    if not config.independent_timesteps:
        none = torch.zeros(batch, dtype=torch.bool, device=device)
        return Times(video, video, none, none)
    shared = config.shared_t
    clean_video = (u >= shared) & (u < shared + config.clean_video)
    clean_audio = (u >= shared + config.clean_video) & (u < shared + config.clean_video + config.clean_audio)
    audio = torch.where(u < shared, video, audio)
    return Times(video.masked_fill(clean_video, 0), audio.masked_fill(clean_audio, 0), clean_video, clean_audio)


def draw_time(config: TimesConfig, schedule: NoiseSchedule, batch: int, generator: torch.Generator) -> Tensor:
    """Times of `schedule` (batch,), int64, with the density of `config`."""
    device = generator.device
    if config.density == "uniform":
        return torch.randint(len(schedule.betas), (batch,), generator=generator, device=device)
    drawn = torch.randn(batch, generator=generator, device=device) * config.log_snr_std + config.log_snr_mean
    noise = _noisiness(schedule, device)
    return torch.searchsorted(noise, -drawn).clamp(max=len(noise) - 1)


@lru_cache(maxsize=8)
def _noisiness(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    """−λ_t of every time, ascending. Cached on the device, since a copy in every step would synchronise."""
    return torch.tensor([-schedule.log_snr(t) for t in range(len(schedule.betas))], device=device)


def draw_shifts(max_shifts: Sequence[int], batch: int, generator: torch.Generator) -> Tensor:
    """RS-MMA window shifts (batch, blocks), block k uniform over 0 … max_shifts[k]."""
    device = generator.device
    limits = _limits(tuple(max_shifts), device)
    u = torch.rand(batch, len(max_shifts), generator=generator, device=device)
    return (u * limits).long().minimum(limits.long() - 1)  # u · limit may round up to the limit


@lru_cache(maxsize=8)
def _limits(max_shifts: tuple[int, ...], device: torch.device) -> Tensor:
    """Number of possible shifts per block. Cached on the device, since a copy in every step would synchronise."""
    return torch.tensor(max_shifts, dtype=torch.float32, device=device) + 1


def draw_noise(x0: Latents, batch: int, rows: slice, generator: torch.Generator) -> Latents:
    """Standard normal noise for the `rows` of a batch with the sample shapes of `x0`; video is drawn first."""
    noise = Latents(None, None)
    for name in MODALITIES:
        value = getattr(x0, name)
        if value is not None:
            drawn = torch.randn((batch, *value.shape[1:]), generator=generator, device=value.device)
            noise = noise.replace(name, drawn[rows])
    return noise


def draw_clip_noise(
    clip: ClipSpec, modalities: Sequence[str], batch: int, rows: slice, generator: torch.Generator
) -> Latents:
    """The same for clips of `modalities`."""
    shapes = {"video": clip.video_shape, "audio": clip.audio_shape}
    none = {name: torch.empty(0, *shapes[name], device=generator.device) for name in modalities}
    return draw_noise(Latents(none.get("video"), none.get("audio")), batch, rows, generator)
