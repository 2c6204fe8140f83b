"""What a model's solvers are tuned on: clips of its own, made by many small steps from the noise of the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.networks.config import MODALITIES
from model.request import SamplingParams
from model.runtime.base_stage import BaseStage
from model.runtime.condition import GIVEN
from model.runtime.evaluator import Evaluator, drive
from model.runtime.pipeline import Pipeline
from model.sampling import samplers
from model.sampling.guidance import Condition
from model.sampling.latents import Latents, State
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate
from model.sampling.schedule import NoiseSchedule
from model.sampling.upsampling import super_resolve
from model.tuning.features import Features, parts
from model.tuning.search import Problem

FRAMES = 4
"""Frames of each clip that super-resolution is tuned on: neighbours tell it little more."""

NEARLY = 0.25
"""First predictions are the same if they deviate by less than this share of the clips' deviation."""

Halves = tuple[Problem, Problem]
"""To search on, and held out."""


@dataclass(frozen=True)
class Material:
    """The clips of one model that its solvers are tuned on: `clips` for each half of the noise, made in `steps` steps,
    the first `seed` of which is the noise."""

    pipeline: Pipeline
    clips: int
    steps: int
    seed: int

    def halves(self, kind: str, guidance: str | None, joint: Sequence[Latents] = ()) -> Halves:
        """The problems of a kind of job. `joint`: the teacher's clips of `generate`, which condition v2a and a2v."""
        first, second = (self._base(kind, guidance, half, joint) for half in (0, 1))
        return first, second

    def super_resolution(self, joint: Sequence[Latents]) -> Halves:
        """The problems of super-resolution: frames of `joint`."""
        first, second = (self._frames(half, joint[half]) for half in (0, 1))
        return first, second

    def _base(self, kind: str, guidance: str | None, half: int, joint: Sequence[Latents]) -> Problem:
        manifest, device = self.pipeline.manifest, self.pipeline.device
        params = SamplingParams(seed=self.seed, guidance=guidance, super_resolution=False).resolve(kind, manifest)
        stage = BaseStage(
            manifest, self.pipeline.schedule, device, kind, params, length=manifest.config.clip, given=None
        )
        noise = self._noise(manifest, kind, half)
        condition, state = None, noise
        if kind in GIVEN:
            modality = GIVEN[kind]
            condition = Condition(modality, joint[half][modality], noise[modality])
            state = noise.replace(modality, None)
        chain = _Chain(self.pipeline, stage, condition, self.seed)
        sampler = samplers.dpmpp_2m(state, stage.schedule, stage.schedule.times(self.steps, "log_snr"))
        teacher = drive(stage.guided(sampler, condition, RandomStream(self.seed)), self.pipeline.evaluator)
        made = teacher.map(lambda value: value.clamp(-1, 1))
        last = stage.schedule.last
        start = constant_start(chain(state, last, last, 0), made)
        features = Features(manifest.config.clip.sample_rate)
        return Problem(stage.schedule, chain, lambda t: state, made, start=start, features=features)

    def _noise(self, manifest: Manifest, kind: str, half: int) -> Latents:
        shapes = {"video": manifest.config.clip.video_shape, "audio": manifest.config.clip.audio_shape}
        stream = RandomStream(self.seed, half)
        made = (
            stream.normal((self.clips, *shapes[name]), self.pipeline.device)
            if name in manifest.config.base.modalities
            else None
            for name in MODALITIES
        )
        return Latents(*made)

    def _frames(self, half: int, clips: Latents) -> Problem:
        network, schedule = self.pipeline.evaluator.sr, self.pipeline.schedule
        assert network is not None
        video = clips["video"]
        chosen = torch.linspace(0, video.shape[1] - 1, min(FRAMES, video.shape[1])).round().long()
        upsampled = network.upsample(video[:, chosen.to(video.device)].flatten(0, 1))
        stream = RandomStream(self.seed, half)
        noise = stream.normal((video.shape[0], *upsampled.shape[1:]), upsampled.device)
        noise = noise.repeat_interleave(len(chosen), 0)  # the frames of a clip share theirs
        predict = _Frames(self.pipeline.evaluator, schedule, upsampled)
        times = schedule.times(self.steps, "log_snr")
        sampler = samplers.dpmpp_2m(schedule.add_noise(upsampled, times[0], noise), schedule, times)
        teacher = drive(super_resolve(sampler, schedule, upsampled), self.pipeline.evaluator)
        return Problem(schedule, predict, lambda t: schedule.add_noise(upsampled, t, noise), teacher, free_start=True)


def constant_start(first: State, made: State) -> dict[str, float]:
    """The means of the first predictions, by modality; empty if they are not nearly the same in all clips `made`."""
    clips = parts(made)
    means = {name: value.mean() for name, value in parts(first).items()}
    near = all(
        float((value - means[name]).square().mean().sqrt()) < NEARLY * float(clips[name].std())
        for name, value in parts(first).items()
    )
    return {name: float(mean) for name, mean in means.items()} if near else {}


@dataclass(frozen=True)
class _Chain:
    """The guided prediction of the base network. The shifts of a step are the same in every run of the search."""

    pipeline: Pipeline
    stage: BaseStage
    condition: Condition | None
    seed: int

    def __call__(self, x: State, t: float, s: float, k: int) -> State:
        request = samplers.ask(Evaluate(x, t, s))
        chain = self.stage.guided(request, self.condition, RandomStream(self.seed, k))
        return self.pipeline.schedule.to_x0(x, drive(chain, self.pipeline.evaluator).eps, t)


@dataclass(frozen=True)
class _Frames:
    """The prediction of the super-resolution network."""

    evaluator: Evaluator
    schedule: NoiseSchedule
    upsampled: Tensor

    def __call__(self, x: State, t: float, s: float, k: int) -> State:
        chain = super_resolve(samplers.ask(Evaluate(x, t, s)), self.schedule, self.upsampled)
        return self.schedule.to_x0(x, drive(chain, self.evaluator).eps, t)
