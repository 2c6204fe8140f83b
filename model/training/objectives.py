"""Training objectives: denoising of clips, super-resolution of frames, and distillation. The loop depends on none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

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
from model.training.distillation import DistillationObjective
from model.training.loss_terms import Inputs, Objective, Term, Terms, parts, tensor_of
from model.training.random_draws import draw_clip_noise, draw_shifts, draw_time, draw_times, step_generator
from model.training.super_resolution_loss import super_resolution_loss


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
        noise = draw_clip_noise(clip, self.terms, config.batch, slice(rows.start, rows.stop), draw)
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
        given = {name: tensor_of(inputs, f"clean_{name}") for name in MODALITIES}
        tokens, mask = inputs["tokens"], inputs["tokens_mask"]
        terms = denoising_loss(
            predict,
            self.schedule,
            Latents(inputs["video"], inputs["audio"]),
            tensor_of(inputs, "t_video"),
            tensor_of(inputs, "t_audio"),
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
        large, small, t, noise = (tensor_of(inputs, name) for name in ("large", "small", "t", "noise"))
        terms = super_resolution_loss(predict, self.schedule, large, small, t, noise, self.sr.prediction)
        return {name: Term(value.sum(), torch.ones_like(t).sum()) for name, value in terms.items()}


def make_objective(config: TrainingConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> Objective:
    """The objective of a configuration; a teacher computes in `dtype`. Raises CheckpointError, ManifestError."""
    if config.kind == "sr":
        return SuperResolutionObjective(config, device)
    if config.distillation.teacher:
        return DistillationObjective(config, device, dtype)
    return DenoisingObjective(config, device)
