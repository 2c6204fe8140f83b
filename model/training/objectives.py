"""Training objectives: denoising of clips, and super-resolution of frames. The loop depends on neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.captions import CaptionTokens
from model.training.configuration import TrainingConfig
from model.training.dataset import Source
from model.training.degradation import draw_degradation
from model.training.denoising_loss import denoising_loss
from model.training.random_draws import draw_noise, draw_shifts, draw_time, draw_times, step_generator
from model.training.super_resolution_loss import super_resolution_loss


@dataclass(frozen=True)
class Term:
    """One loss term: its sum over samples, and the number of samples it covers."""

    sum: Tensor
    count: Tensor | int


Terms = dict[str, Term]


class Objective(Protocol):
    """A network and its loss."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        ...

    def build(self) -> nn.Module:
        """The network at the start of training."""
        ...

    def losses(self, predict: Callable[..., Any], source: Source, step: int, rows: range) -> Iterator[Terms]:
        """Loss terms of `rows` of the batch of `step`, one dictionary per accumulation part."""
        ...


def parts(rows: range, count: int) -> list[range]:
    """`rows` split into `count` consecutive parts of equal size."""
    size = len(rows) // count
    return [rows[k * size : (k + 1) * size] for k in range(count)]


class DenoisingObjective:
    """The coupled network, or one of the single-modality baselines."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.schedule = NoiseSchedule.from_config(config.model.schedule)
        self.terms = config.model.base.modalities
        self.captions = CaptionTokens(config.text, config.seed, device) if config.model.base.text is not None else None

    def build(self) -> CoupledUNet:
        return CoupledUNet(self.config.model.base)

    def losses(self, predict: Callable[..., Any], source: Source, step: int, rows: range) -> Iterator[Terms]:
        config, clip = self.config, self.config.model.clip
        draw = step_generator(config.seed, step, self.device)
        times = draw_times(config.times, self.schedule, config.batch, draw)
        shifts = None
        if config.model.base.coupled:
            shifts = draw_shifts(config.model.base.max_shifts(clip.frames), config.batch, draw)
        shapes = {"video": (*clip.video_shape,), "audio": (*clip.audio_shape,)}
        blank = Latents(None, None)
        for name in self.terms:
            blank = blank.replace(name, torch.empty(0, *shapes[name], device=self.device))
        noise = draw_noise(blank, config.batch, slice(rows.start, rows.stop), draw)
        kept = self.captions.draw_kept(step, config.batch) if self.captions is not None else None
        for part in parts(rows, config.accumulate):
            own = slice(part.start, part.stop)
            indexes = step * config.batch + torch.arange(part.start, part.stop)
            x0 = source.batch(indexes, self.device)
            text = None
            if self.captions is not None and kept is not None:
                text = self.captions.encode(source.captions(indexes) or [""] * len(part), kept[own])
            x0 = Latents(
                x0.video if "video" in self.terms else None,
                x0.audio if "audio" in self.terms else None,
            )
            terms = denoising_loss(
                predict,
                self.schedule,
                x0,
                times.video[own],
                times.audio[own],
                noise.map(lambda value, part=part: value[part.start - rows.start : part.stop - rows.start]),
                None if shifts is None else shifts[own],
                (times.clean_video[own], times.clean_audio[own]),
                config.model.base.prediction,
                text,
            )
            given = {"video": times.clean_video[own], "audio": times.clean_audio[own]}
            yield {name: Term(getattr(terms, name).sum(), (~given[name]).sum()) for name in self.terms}


class SuperResolutionObjective:
    """The super-resolution network, on single frames."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        assert config.model.sr is not None
        self.config, self.device, self.sr = config, device, config.model.sr
        self.schedule = NoiseSchedule.from_config(config.model.schedule)
        self.terms = ("mse", "vb") if self.sr.learn_sigma else ("mse",)

    def build(self) -> SRUNet:
        return SRUNet(self.sr)

    def losses(self, predict: Callable[..., Any], source: Source, step: int, rows: range) -> Iterator[Terms]:
        config, clip = self.config, self.config.model.clip
        draw = step_generator(config.seed, step, self.device)
        t = draw_time(config.times, self.schedule, config.batch, draw)
        shape = (config.batch, 3, clip.height * self.sr.factor, clip.width * self.sr.factor)
        noise = torch.randn(shape, generator=draw, device=self.device)[rows.start : rows.stop]
        degradation = draw_degradation(
            config.degradation, config.batch, (clip.height, clip.width), self.sr.factor, draw
        )
        for part in parts(rows, config.accumulate):
            own = slice(part.start, part.stop)
            large = source.frames(step * config.batch + torch.arange(part.start, part.stop), self.device)
            small = degradation.apply(large, own)
            local = slice(part.start - rows.start, part.stop - rows.start)
            terms = super_resolution_loss(
                predict, self.schedule, large, small, t[own], noise[local], self.sr.prediction
            )
            yield {name: Term(value.sum(), len(part)) for name, value in terms.items()}


def make_objective(config: TrainingConfig, device: torch.device) -> Objective:
    return SuperResolutionObjective(config, device) if config.kind == "sr" else DenoisingObjective(config, device)
