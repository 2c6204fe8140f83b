"""Distillation into few evaluations: one step of the student matches several steps of the teacher.

The student takes DDIM steps, x_s = (σ_s / σ_t) x_t + (α_s − α_t σ_s / σ_t) x̂_0. From data noised to one of its times t,
the teacher's solver goes on to the next one, s, and the student learns the x̂_0 that takes it to the same x_s:
progressive distillation (Salimans & Ho, ICLR 2022, appendix G), all halvings at once, since the teacher is cheap. The
student starts from the teacher's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.loading import CheckpointError, load_model
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.networks.config import MODALITIES
from model.networks.coupled_unet import CoupledUNet
from model.runtime.evaluator import Evaluator, drive
from model.sampling import guidance
from model.sampling.guidance import Condition
from model.sampling.latents import Latents, clip
from model.sampling.samplers import dpmpp_2m
from model.sampling.schedule import CLEAN, NoiseSchedule
from model.sampling.tuned_solver import TunedSolver, TunedSolvers, solver_name
from model.training.configuration import TimesConfig, TrainingConfig
from model.training.dataset import Source, evaluation_indexes
from model.training.denoising_loss import prediction_loss
from model.training.loss_terms import Inputs, Term, Terms, parts, tensor_of
from model.training.random_draws import draw_clip_noise, draw_shifts, step_generator

GIVEN_TO = {None: "generate", "video": "v2a", "audio": "a2v"}
"""The kind of job by the modality that is given."""

CLIPS_OF_MEAN = 64
"""Clips whose mean the student's solver starts with."""


class DistillationObjective:
    """The coupled network, or one of the single-modality baselines, as the student of a model of the same shape.

    In a step all samples have the same modality given, or none, in the shares of `times`; its times are spread over the
    samples.
    """

    def __init__(self, config: TrainingConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device = config, device
        self.schedule = NoiseSchedule.from_config(config.model.schedule)
        self.terms = config.model.base.modalities
        self.times = config.distillation.times(self.schedule)
        self.teacher = _load_teacher(config, device, dtype)

    def build(self) -> CoupledUNet:
        return CoupledUNet(self.config.model.base)

    def inputs(self, source: Source, step: int, rows: range) -> Iterator[Inputs]:
        config, model = self.config, self.config.model
        draw = step_generator(config.seed, step, self.device)
        given = self._draw_given(step)
        shifts = None
        if model.base.coupled:
            shifts = draw_shifts(model.base.max_shifts(model.clip.frames), config.batch, draw)
        noise = draw_clip_noise(model.clip, self.terms, config.batch, slice(rows.start, rows.stop), draw)
        for part in parts(rows, config.accumulate):
            indexes = step * config.batch + torch.arange(part.start, part.stop)
            clips = source.batch(indexes, self.device)
            x0 = Latents(*(getattr(clips, name) if name in self.terms else None for name in MODALITIES))
            local = slice(part.start - rows.start, part.stop - rows.start)
            of_part = None if shifts is None else shifts[part.start : part.stop]
            own_noise = noise.map(lambda value, own=local: value[own])
            yield self._inputs(x0, own_noise, of_part, given, step + part.start)

    def losses(self, predict: Callable[..., Any], inputs: Inputs) -> Terms:
        t_video, t_audio = tensor_of(inputs, "t_video"), tensor_of(inputs, "t_audio")
        given = {name: tensor_of(inputs, f"clean_{name}") for name in MODALITIES}
        x, x0, eps = (Latents(inputs[f"video{kind}"], inputs[f"audio{kind}"]) for kind in ("", "_target", "_eps"))
        loss = prediction_loss(
            predict,
            self.schedule,
            x,
            x0,
            eps,
            t_video,
            t_audio,
            inputs["shifts"],
            (given["video"], given["audio"]),
            self.config.model.base.prediction,
        )
        return {name: Term(getattr(loss, name).sum(), (~given[name]).sum()) for name in self.terms}

    def _inputs(self, x0: Latents, noise: Latents, shifts: Tensor | None, given: str | None, turn: int) -> Inputs:
        """The noised clips and the student's targets. Its steps are dealt out to the samples in turn, beginning with
        number `turn`."""
        count = len(self.times) - 1
        places = torch.arange(x0.batch, device=self.device)
        states, targets, noises, times, order = [], [], [], [], []
        for k, (t, s) in enumerate(pairwise(self.times)):
            chosen = slice((k - turn) % count, None, count)
            place = places[chosen]
            if not len(place):
                continue
            clips, own = (each.map(lambda value, at=chosen: value[at]) for each in (x0, noise))
            x = self.schedule.add_noise(clips, t, own)
            target = self._target(x, clips, own, given, t, s, None if shifts is None else shifts[chosen])
            states.append(x if given is None else x.replace(given, clips[given]))
            targets.append(target)
            noises.append(self.schedule.to_eps(x, target, t))
            times.append(torch.full((len(place),), int(t), device=self.device))
            order.append(place)
        at, rows = torch.cat(times), torch.cat(order)
        found: Inputs = {"shifts": None if shifts is None else shifts[rows]}
        for kind, values in (("", states), ("_target", targets), ("_eps", noises)):
            joined = values[0].map(lambda *each: torch.cat(each), *values[1:])
            found |= {f"{name}{kind}": getattr(joined, name) for name in MODALITIES}
        for name in MODALITIES:
            found[f"t_{name}"] = torch.zeros_like(at) if name == given else at
            found[f"clean_{name}"] = torch.full_like(at, name == given, dtype=torch.bool)
        return found

    def _target(
        self, x: Latents, x0: Latents, noise: Latents, given: str | None, t: float, s: float, shifts: Tensor | None
    ) -> Latents:
        """The x̂_0 whose step from t to s is that of the teacher; of what is given, the clip itself."""
        state = x if given is None else x.replace(given, None)
        sampler = dpmpp_2m(state, self.schedule, self.config.distillation.teacher_times(self.schedule, t, s))
        if given is None:
            chain = guidance.limited(sampler, self.schedule, clip)
        else:
            chain = guidance.clean(sampler, self.schedule, Condition(given, x0[given], noise[given]), clip)
        if shifts is not None:
            chain = guidance.with_shifts(chain, lambda batch: shifts)
        made = drive(chain, self.teacher)
        if s != CLEAN:
            of_x = self.schedule.sigma(s) / self.schedule.sigma(t)
            made = (made - of_x * state) / (self.schedule.alpha(s) - of_x * self.schedule.alpha(t))
        return made if given is None else made.replace(given, x0[given])

    def _draw_given(self, step: int) -> str | None:
        """The modality that is clean in this step, drawn on the CPU, so that nothing waits for the device."""
        shares = _shares(self.config.times)
        u = float(torch.rand((), generator=step_generator(self.config.seed, step, torch.device("cpu"), "given")))
        u *= sum(shares.values())
        for given, share in shares.items():
            if u < share:
                return given
            u -= share
        return next(reversed(shares))  # u was rounded up


def _shares(times: TimesConfig) -> dict[str | None, float]:
    """The share of steps with each modality clean, and with None; positive. Samples with two times are for training,
    not for sampling."""
    if not times.independent_timesteps:
        return {None: 1.0}
    shares = {"video": times.clean_video, "audio": times.clean_audio, None: times.shared_t}
    return {given: share for given, share in shares.items() if share > 0} or {None: 1.0}


def student_solvers(config: TrainingConfig, source: Source, device: torch.device, base_hash: str = "") -> TunedSolvers:
    """The student's steps as solvers: DDIM at its times, for each kind of job that was distilled. The mean of the clips
    of `source` leads to the first one."""
    model, wanted = config.model, config.distillation
    mean = source.batch(evaluation_indexes(CLIPS_OF_MEAN), device)
    schedule = NoiseSchedule.from_config(model.schedule)
    times = (schedule.last, *wanted.times(schedule)[:-1])
    found = {}
    for given in _shares(config.times):
        made = [name for name in model.base.modalities if name != given]
        rows = ((1.0,),) * len(times)
        start = {name: float(mean[name].mean()) for name in made}
        solver = TunedSolver(times, dict.fromkeys(made, rows), {}, start)
        found[solver_name(GIVEN_TO[given], None if given is None else "clean")] = {solver.evaluations: solver}
    return TunedSolvers(wanted.evaluations * wanted.teacher_steps, base_hash, None, found)


def with_student_solvers(manifest: Manifest, config: TrainingConfig, source: Source, device: torch.device) -> Manifest:
    """The manifest of a published student with its solvers."""
    return replace(manifest, tuned=student_solvers(config, source, device, manifest.network_hash("base")))


def _load_teacher(config: TrainingConfig, device: torch.device, dtype: torch.dtype) -> Evaluator:
    """Raises CheckpointError if the teacher makes other clips or has another schedule, ManifestError."""
    folder = Path(config.distillation.teacher)
    manifest = read_manifest(folder / FILE_NAME)
    for name in ("clip", "schedule"):
        held, wanted = getattr(manifest.config, name), getattr(config.model, name)
        if held != wanted:
            raise CheckpointError(f"the teacher {folder} has the {name} {held}, the student {wanted}")
    given = config.times.independent_timesteps
    if given and not manifest.independent_timesteps:
        raise CheckpointError(f"the teacher {folder} was trained without times.independent_timesteps")
    base, _ = load_model(replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None), device, dtype)
    return Evaluator(base, None, NoiseSchedule.from_config(manifest.config.schedule))
