"""Samples drawn with the averaged weights during a run, by the same pipeline as the service."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from model.checkpoint.manifest import Manifest
from model.media.encode import write_clip, write_wav
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.request import SamplingParams
from model.runtime.evaluator import Evaluator, drive
from model.runtime.pipeline import Clip, ClipRequest, Pipeline, to_uint8
from model.sampling.samplers import dpmpp_2m
from model.sampling.schedule import NoiseSchedule
from model.sampling.tuned_solver import TunedSolvers
from model.sampling.upsampling import super_resolve
from model.training.captions import text_encoding
from model.training.configuration import TrainingConfig
from model.training.dataset import Source, evaluation_indexes
from model.training.degradation import draw_degradation
from model.training.random_draws import step_generator


def sample_clips(
    config: TrainingConfig,
    average: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    student: TunedSolvers | None = None,
) -> list[Clip]:
    """`sample_count` clips from noise, the same seeds every time, and the examples of prompts in turn. A distilled
    network takes its own steps, those of `student`."""
    assert isinstance(average, CoupledUNet)
    network = copy.deepcopy(average).to_compute(dtype)
    schedule = NoiseSchedule.from_config(config.model.schedule)
    model, examples = replace(config.model, sr=None), config.text.examples or (None,)
    text = text_encoding(config.text)
    manifest = Manifest(config.name, model, True, config.description, config.licence, text=text, tuned=student)
    pipeline = Pipeline(manifest, Evaluator(network, None, schedule), device)
    params = SamplingParams(seed=config.seed, steps=config.output.sample_steps)
    if student is not None:
        params = replace(params, sampler="tuned", steps=config.distillation.evaluations)
    return [
        pipeline.run(ClipRequest("generate", replace(params, prompt=examples[index % len(examples)]), index))
        for index in range(config.output.sample_count)
    ]


def sample_frames(
    config: TrainingConfig, average: nn.Module, source: Source, device: torch.device, dtype: torch.dtype
) -> np.ndarray:
    """One picture (height, width, 3) uint8: one row per frame: input, output, target."""
    assert isinstance(average, SRUNet)
    assert config.model.sr is not None
    clip, factor = config.model.clip, config.model.sr.factor
    network = copy.deepcopy(average).to_compute(dtype)
    schedule = NoiseSchedule.from_config(config.model.schedule)
    count = config.output.sample_count
    large = source.frames(evaluation_indexes(count), device)
    draw = step_generator(config.seed, 0, device, "samples")
    small = draw_degradation(config.degradation, count, (clip.height, clip.width), factor, draw).apply(
        large, slice(0, count)
    )
    upsampled = network.upsample(small)
    times = schedule.times(config.output.sample_steps, "log_snr")
    noise = torch.randn(large.shape, generator=draw, device=device)
    program = super_resolve(
        dpmpp_2m(schedule.add_noise(upsampled, times[0], noise), schedule, times), schedule, upsampled
    )
    made = drive(program, Evaluator(None, network, schedule))
    rows = [torch.cat([a, b, c], dim=2) for a, b, c in zip(upsampled, made, large, strict=True)]
    return to_uint8(torch.cat(rows, dim=1)[None])[0].cpu().numpy()


def write_samples(folder: Path, clips: list[Clip], config: TrainingConfig) -> None:
    """clip-0.mp4, clip-1.mp4, … (wav for an audio-only network) in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, clip in enumerate(clips):
        path = folder / f"clip-{index}.mp4"
        if clip.frames is not None and clip.audio is not None:
            write_clip(path, clip.frames, clip.fps, clip.audio, clip.sample_rate, config.name)
        elif clip.audio is not None:
            write_wav(path.with_suffix(".wav"), clip.audio, clip.sample_rate)


def write_picture(folder: Path, picture: np.ndarray) -> None:
    """frames.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / "frames.png")
