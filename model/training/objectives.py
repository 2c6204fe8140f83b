"""Training objectives: denoising of clips, and super-resolution of frames. The loop depends on neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.networks.config import MODALITIES
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.networks.text import TextTokens
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
    """One loss term: its sum over samples, and the number of samples it covers; tensors () on the device."""

    sum: Tensor
    count: Tensor


Terms = dict[str, Term]

Inputs = dict[str, Tensor | None]
"""Named tensors on the device, the batch first; None where a network or its data have no such input."""


class Objective(Protocol):
    """A network and its loss."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        ...

    def build(self) -> nn.Module:
        """The network at the start of training."""
        ...

    def inputs(self, source: Source, step: int, rows: range) -> Iterator[Inputs]:
        """What `losses` needs for `rows` of the batch of `step`, one mapping for each accumulation part."""
        ...

    def losses(self, predict: Callable[..., Any], inputs: Inputs) -> Terms:
        """Loss terms of one part. The same work for all values of the inputs, and nothing waits for the device, so that
        it can be recorded as a CUDA graph."""
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

    def inputs(self, source: Source, step: int, rows: range) -> Iterator[Inputs]:
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
            local = slice(part.start - rows.start, part.stop - rows.start)
            indexes = step * config.batch + torch.arange(part.start, part.stop)
            x0 = source.batch(indexes, self.device)
            text = None
            if self.captions is not None and kept is not None:
                text = self.captions.encode(source.captions(indexes) or [""] * len(part), kept[own])
            yield {
                "video": x0.video if "video" in self.terms else None,
                "audio": x0.audio if "audio" in self.terms else None,
                "video_noise": None if noise.video is None else noise.video[local],
                "audio_noise": None if noise.audio is None else noise.audio[local],
                "t_video": times.video[own],
                "t_audio": times.audio[own],
                "clean_video": times.clean_video[own],
                "clean_audio": times.clean_audio[own],
                "shifts": None if shifts is None else shifts[own],
                "tokens": None if text is None else text.tokens,
                "tokens_mask": None if text is None else text.mask,
            }

    def losses(self, predict: Callable[..., Any], inputs: Inputs) -> Terms:
        given = {name: _tensor(inputs, f"clean_{name}") for name in MODALITIES}
        tokens, mask = inputs["tokens"], inputs["tokens_mask"]
        terms = denoising_loss(
            predict,
            self.schedule,
            Latents(inputs["video"], inputs["audio"]),
            _tensor(inputs, "t_video"),
            _tensor(inputs, "t_audio"),
            Latents(inputs["video_noise"], inputs["audio_noise"]),
            inputs["shifts"],
            (given["video"], given["audio"]),
            self.config.model.base.prediction,
            None if tokens is None or mask is None else TextTokens(tokens, mask),
        )
        return {name: Term(getattr(terms, name).sum(), (~given[name]).sum()) for name in self.terms}


class SuperResolutionObjective:
    """The super-resolution network, on single frames."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        assert config.model.sr is not None
        self.config, self.device, self.sr = config, device, config.model.sr
        self.schedule = NoiseSchedule.from_config(config.model.schedule)
        self.terms = ("mse", "vb") if self.sr.learn_sigma else ("mse",)

    def build(self) -> SRUNet:
        return SRUNet(self.sr)

    def inputs(self, source: Source, step: int, rows: range) -> Iterator[Inputs]:
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
            local = slice(part.start - rows.start, part.stop - rows.start)
            large = source.frames(step * config.batch + torch.arange(part.start, part.stop), self.device)
            yield {"large": large, "small": degradation.apply(large, own), "t": t[own], "noise": noise[local]}

    def losses(self, predict: Callable[..., Any], inputs: Inputs) -> Terms:
        large, small, t, noise = (_tensor(inputs, name) for name in ("large", "small", "t", "noise"))
        terms = super_resolution_loss(predict, self.schedule, large, small, t, noise, self.sr.prediction)
        return {name: Term(value.sum(), torch.ones_like(t).sum()) for name, value in terms.items()}


def _tensor(inputs: Inputs, name: str) -> Tensor:
    value = inputs[name]
    assert value is not None, name
    return value


def make_objective(config: TrainingConfig, device: torch.device) -> Objective:
    return SuperResolutionObjective(config, device) if config.kind == "sr" else DenoisingObjective(config, device)
