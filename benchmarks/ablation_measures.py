"""Measures of one checkpoint for `benchmarks.ablations`: held-out losses, alignment and distances of samples."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.evaluation.alignment import detect
from model.evaluation.bootstrap import scores
from model.evaluation.fidelity import features_of, fidelity
from model.evaluation.generation import ClipGenerator, real_clips, video_of
from model.networks.coupled_unet import CoupledUNet
from model.request import SamplingParams
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.bounce import Bounce
from model.training.checkpoints import read_checkpoint, write_atomically
from model.training.configuration import TrainingConfig
from model.training.dataset import EVALUATION
from model.training.denoising_loss import denoising_loss
from model.training.objectives import make_objective
from model.training.random_draws import draw_noise, draw_shifts, step_generator

LOSS_BATCH = 16
SEED = 0
"""Of the generated clips, and of noise, times and shifts of the losses: the same for all networks."""


@dataclass(frozen=True)
class Sampling:
    """How `clips` clips are generated."""

    sampler: str
    steps: int
    clips: int

    @property
    def name(self) -> str:
        return f"{self.sampler}-{self.steps}"


def measured(config: TrainingConfig, checkpoint: Path, path: Path, sampling: Sampling, loss_clips: int) -> None:
    """Measure the averaged weights of `checkpoint` and write `path`, unless it is there."""
    if path.exists():
        return
    began = time.monotonic()
    content = read_checkpoint(checkpoint)
    network = checkpoint_network(config, content)
    result = {
        "configuration": json.loads(config.to_json()),
        "step": content["step"],
        "training_seconds": round(content["seconds"], 1),
        "parameters": sum(value.numel() for value in network.parameters()),
        "sampling": asdict(sampling),
        "losses": {name: values.tolist() for name, values in held_out_losses(network, config, loss_clips).items()},
        **sampled(network, config, sampling),
        "measuring_seconds": round(time.monotonic() - began, 1),
    }
    text = json.dumps(result) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    print(f"{path}: measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def checkpoint_network(config: TrainingConfig, content: dict[str, Any]) -> CoupledUNet:
    """The network with the averaged weights in the `content` of a checkpoint."""
    network = make_objective(config, torch.device("cpu")).build()
    assert isinstance(network, CoupledUNet)
    network.load_state_dict(content["average"])
    return network.eval().requires_grad_(False)


def held_out_losses(network: CoupledUNet, config: TrainingConfig, count: int) -> dict[str, Tensor]:
    """For every clip the error of each modality, and for a coupled network its rise with the other modality of the next
    clip (`gap_…`, the coupling gap). Clips, noise and times, evenly spread, are the same for all networks."""
    schedule = NoiseSchedule.from_config(config.model.schedule)
    clips = Bounce(config.model.clip, SEED, "train").batch(torch.arange(EVALUATION, EVALUATION + count))
    draw = step_generator(SEED, 0, torch.device("cpu"), "ablations")
    noise = draw_noise(clips, count, slice(0, count), draw)
    order = torch.randperm(count, generator=draw)
    times = ((order.float() + 0.5) * len(schedule.betas) / count).long()
    shifts = draw_shifts(config.model.base.max_shifts(config.model.clip.frames), count, draw)
    present = config.model.base.modalities

    def losses(x0: Latents) -> dict[str, Tensor]:
        parts = []
        for start in range(0, count, LOSS_BATCH):
            own = slice(start, start + LOSS_BATCH)
            some, their = (
                Latents(*(values[name][own] if name in present else None for name in ("video", "audio")))
                for values in (x0, noise)
            )
            parts.append(
                denoising_loss(
                    network,
                    schedule,
                    some,
                    times[own],
                    times[own],
                    their,
                    shifts[own] if shifts is not None else None,
                    prediction=config.model.base.prediction,
                )
            )
        return {name: torch.cat([getattr(part, name) for part in parts]) for name in present}

    with torch.no_grad():
        true = losses(clips)
        found = dict(true)
        if config.model.base.coupled:
            for name, other in (("video", "audio"), ("audio", "video")):
                wrong = losses(clips.replace(other, clips[other].roll(1, 0)))
                found[f"gap_{name}"] = wrong[name] - true[name]
    return found


def joint_clips(network: CoupledUNet, config: TrainingConfig, params: SamplingParams, count: int) -> Latents:
    """`count` clips of the modalities that the network has, in [-1, 1]."""
    manifest = Manifest(config.name, replace(config.model, sr=None), True, config.description, config.licence)
    evaluator = Evaluator(network, None, NoiseSchedule.from_config(config.model.schedule))
    generator = ClipGenerator(Pipeline(manifest, evaluator, torch.device("cpu")))
    clips = list(generator.generate("generate", params, range(count)))
    frames = [video_of(clip) for clip in clips if clip.frames is not None]
    sounds = [clip.audio for clip in clips if clip.audio is not None]
    return Latents(torch.stack(frames) if frames else None, torch.stack(sounds) if sounds else None)


def sampled(network: CoupledUNet, config: TrainingConfig, sampling: Sampling) -> dict[str, Any]:
    """Alignment scores (of coupled networks) and distances of generated clips."""
    params = SamplingParams(SEED, sampler=sampling.sampler, steps=sampling.steps, super_resolution=False)
    made = joint_clips(network, config, params, sampling.clips)
    clip = config.model.clip
    real, reference = (real_clips(clip, "train", sampling.clips, first=first) for first in (0, sampling.clips))
    distances = fidelity(*(features_of(each, clip) for each in (made, real, reference)))
    found: dict[str, Any] = {"distances": {each.distance: asdict(each) for each in distances}}
    if config.model.base.coupled:
        found["scores"] = {score.measure: asdict(score) for score in scores(detect(made, clip), detect(real, clip))}
    return found
