"""From a request to a clip: base stage and super-resolution stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.checkpoint.loading import load_model
from model.checkpoint.manifest import Manifest
from model.networks.config import MODALITIES
from model.request import RequestError, SamplingParams
from model.runtime.evaluator import Evaluator, Request, drive
from model.sampling import guidance, samplers
from model.sampling.error_variance import error_variance
from model.sampling.latents import Latents, clip, unchanged
from model.sampling.randomness import RandomStream
from model.sampling.schedule import NoiseSchedule, respaced_times
from model.sampling.upsampling import super_resolve


@dataclass(frozen=True)
class ClipRequest:
    """One output of a job. `condition` is the network's input for the given modality, in [-1, 1]: video (frames, 3,
    height, width) for v2a, audio (1, samples) for a2v, None for generate."""

    kind: str
    params: SamplingParams
    index: int = 0
    condition: Tensor | None = None


@dataclass(frozen=True)
class StepProgress:
    """After each step: `step` of `total_steps` in `stage` ("base" or "sr"), the fraction of the clip's work done, and
    the seconds left, None until this model's step times are known. `preview` computes a preview of the clip and may be
    called in any thread."""

    stage: str
    step: int
    total_steps: int
    fraction: float
    eta_seconds: float | None
    preview: Callable[[], ClipPreview] = field(compare=False)


@dataclass(frozen=True)
class ClipPreview:
    """x̂_0 at some step: `frames` uint8 (frames, height, width, 3) at the base stage's size, `audio` (samples,) in
    [-1, 1]; each None if it is not generated, or not at this stage."""

    frames: Tensor | None
    audio: Tensor | None


@dataclass(frozen=True)
class Clip:
    """A generated clip: `frames` uint8 (frames, height, width, 3), None for v2a; `audio` (1, samples) in [-1, 1], None
    for a2v. `timings`: seconds by stage."""

    frames: Tensor | None
    fps: int
    audio: Tensor | None
    sample_rate: int
    timings: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """A loaded model. `run` makes one clip in the caller's thread; an engine runs many `program`s together. Do not use
    both at once: one thread owns the device."""

    def __init__(self, manifest: Manifest, evaluator: Evaluator, device: torch.device) -> None:
        self.manifest = manifest
        self.evaluator = evaluator
        self.device = device
        self.schedule = NoiseSchedule.from_config(manifest.config.schedule)
        self._step_seconds: dict[str, float] = {}

    @classmethod
    def load(cls, manifest: Manifest, device: str = "auto", dtype: str = "auto", compiled: bool = False) -> Pipeline:
        """Load weights to `device` ("auto": a GPU if there is one) to compute in `dtype` ("auto", "float32",
        "bfloat16", "float16"); auto is bfloat16 where the device has it. `compiled`: by torch.compile, one graph for
        each batch size. Raises CheckpointError if the weights do not fit the manifest."""
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if dtype == "auto":
            dtype = "bfloat16" if computes_in_bfloat16(place) else "float32"
        base, sr = load_model(manifest, place, getattr(torch, dtype))
        evaluator = Evaluator(base, sr, NoiseSchedule.from_config(manifest.config.schedule))
        if compiled:
            evaluator.compile()
        return cls(manifest, evaluator, place)

    def run(self, request: ClipRequest, on_progress: Callable[[StepProgress], None] = lambda _: None) -> Clip:
        """Make one clip; the same request gives the same clip. `on_progress` is called after every step, and what it
        raises ends the run. Raises RequestError for what this model cannot do."""
        made = drive(self.program(request, on_progress), self.evaluator)
        assert isinstance(made, Clip)
        return made

    def program(
        self, request: ClipRequest, on_progress: Callable[[StepProgress], None] = lambda _: None
    ) -> Generator[Request, samplers.Prediction, Clip]:
        """Like `run`, as a generator that yields every evaluation and returns the clip."""
        config = self.manifest.config
        params = request.params.resolve(request.kind, self.manifest)
        stream = RandomStream(params.seed, request.index)
        steps = {"base": params.steps}
        if params.super_resolution:
            steps["sr"] = params.sr_steps or 0
        report = _Reporter(steps, self._step_seconds, self._previewed, on_progress)

        latents = yield from self._base_stage(request, params, stream, report)
        video, audio = latents.video, latents.audio
        if video is not None and self.manifest.mirrored:
            video = video.flip(-1)
        if "sr" in steps:
            video = (yield from self._sr_stage(video[0], params, stream, report))[None]
        return Clip(
            frames=to_uint8(video[0]).cpu() if video is not None else None,
            fps=config.clip.fps,
            audio=audio[0].float().clamp(-1, 1).cpu() if audio is not None else None,
            sample_rate=config.clip.sample_rate,
            timings=report.timings,
        )

    def _previewed(self, request: samplers.Evaluate, prediction: samplers.Prediction) -> ClipPreview:
        """The clip that a prediction implies; super-resolution frames at the base stage's size."""
        x0 = clip(self.schedule.to_x0(request.x, prediction.eps, request.t))
        spec = self.manifest.config.clip
        video, audio = (x0.video, x0.audio) if isinstance(x0, Latents) else (x0, None)
        if video is None:
            frames = None
        elif isinstance(x0, Latents):
            frames = to_uint8(video[0].flip(-1) if self.manifest.mirrored else video[0])
        else:
            frames = to_uint8(functional.interpolate(video.float(), (spec.height, spec.width), mode="area"))
        return ClipPreview(
            frames=frames.cpu() if frames is not None else None,
            audio=audio[0, 0].float().cpu() if audio is not None else None,
        )

    def _base_stage(
        self, request: ClipRequest, params: SamplingParams, stream: RandomStream, report: _Reporter
    ) -> samplers.Sampler:
        """The whole chain for one output, sampler, guidance, shifts; its requests are for the base network."""
        config, schedule = self.manifest.config, self.schedule
        shapes = {"video": config.clip.video_shape, "audio": config.clip.audio_shape}
        noise = Latents(
            *(
                stream.normal((1, *shapes[name]), self.device) if name in config.base.modalities else None
                for name in MODALITIES
            )
        )
        if request.kind == "generate":
            # The published DPM-Solver runs without any limit on x̂_0.
            limit = unchanged if params.sampler == "dpm_solver" else clip
            sampler = report.follow(self._sampler(noise, params, stream), "base")
            chain = guidance.limited(sampler, schedule, limit)
        else:
            modality = "video" if request.kind == "v2a" else "audio"
            condition = guidance.Condition(modality, self._given(request, modality), noise[modality])
            sampler = report.follow(self._sampler(noise.replace(modality, None), params, stream), "base")
            chain = self._guided(sampler, condition, params, stream)
        if params.guidance == "decoupling":
            assert params.guidance_scale is not None
            chain = guidance.decoupling(chain, params.guidance_scale)
        max_shifts = config.base.max_shifts(config.clip.frames)
        return guidance.with_shifts(chain, lambda batch: stream.shifts(max_shifts, batch))

    def _sampler(self, x: Latents, params: SamplingParams, stream: RandomStream) -> samplers.Sampler:
        schedule = self.schedule
        if params.sampler == "dpm_solver":
            return samplers.dpm_solver(x, schedule, schedule.grid(params.steps, params.spacing), params.order or 3)
        times = schedule.times(params.steps, params.spacing)
        if params.sampler == "ddim":
            return samplers.ddim(x, schedule, times, params.eta or 0.0, stream.normal_like)
        if params.sampler == "ddpm":
            return samplers.ddpm(x, schedule, times, stream.normal_like)
        return {"dpmpp_2m": samplers.dpmpp_2m, "dpmpp_3m": samplers.dpmpp_3m, "unipc": samplers.unipc}[params.sampler](
            x, schedule, times
        )

    def _guided(
        self, sampler: samplers.Sampler, condition: guidance.Condition, params: SamplingParams, stream: RandomStream
    ) -> samplers.Sampler:
        scale = params.guidance_scale or 0.0
        if params.guidance == "clean":
            return guidance.clean(sampler, self.schedule, condition, clip)
        if params.guidance == "pigdm":
            variance = error_variance(self.manifest.calibration, condition.modality)
            return guidance.pigdm(sampler, self.schedule, condition, clip, variance, scale)
        if params.guidance == "gradient":
            return guidance.gradient(sampler, self.schedule, condition, clip, scale)
        if params.guidance == "gradient_code":
            return guidance.gradient_code(sampler, self.schedule, condition, scale, stream.normal_like)
        return guidance.replacement(sampler, self.schedule, condition, clip)

    def _given(self, request: ClipRequest, modality: str) -> Tensor:
        shape = self.manifest.config.clip.video_shape if modality == "video" else self.manifest.config.clip.audio_shape
        if request.condition is None or tuple(request.condition.shape) != shape:
            got = None if request.condition is None else tuple(request.condition.shape)
            raise RequestError("condition", f"{request.kind} needs {modality} of shape {shape}; got {got}")
        condition = request.condition[None].to(self.device, torch.float32)
        return condition.flip(-1) if modality == "video" and self.manifest.mirrored else condition

    def _sr_stage(
        self, video: Tensor, params: SamplingParams, stream: RandomStream, report: _Reporter
    ) -> Generator[Any, Any, Tensor]:
        """DDIM from noise, as published; or, cheaper, from the noised upsampled frame, whose mean is already right.

        All frames share their noise.
        """
        schedule, network = self.schedule, self.evaluator.sr
        assert network is not None
        assert params.sr_steps is not None
        upsampled = network.upsample(video)
        noise = stream.normal(upsampled.shape[1:], self.device).expand_as(upsampled)
        if params.sr_sampler == "ddim":
            times = respaced_times(len(schedule.betas), f"ddim{params.sr_steps}")
            sampler = samplers.ddim(noise, schedule, times)
        else:
            times = schedule.times(params.sr_steps, "log_snr")
            sampler = samplers.dpmpp_2m(schedule.add_noise(upsampled, times[0], noise), schedule, times)
        return super_resolve(report.follow(sampler, "sr"), schedule, upsampled)


class _Reporter:
    """Turns finished steps into StepProgress. The seconds of a step start from those of earlier clips, `step_seconds`,
    and soon follow this clip's own, which depend on what else the device computes."""

    def __init__(
        self,
        steps: dict[str, int],
        step_seconds: dict[str, float],
        preview: Callable[[samplers.Evaluate, samplers.Prediction], ClipPreview],
        notify: Callable[[StepProgress], None],
    ) -> None:
        self._left = dict(steps)
        self._total = dict(steps)
        self._step_seconds = step_seconds
        self._expected = dict(step_seconds)
        self._share = 0.0
        self._preview = preview
        self._notify = notify
        self.timings = dict.fromkeys(steps, 0.0)

    def follow(self, sampler: samplers.Sampler, stage: str) -> samplers.Sampler:
        """Count the steps of `sampler`, however many evaluations guidance makes of one."""

        def answer(request: samplers.Evaluate) -> guidance.Answer:
            started = time.perf_counter()
            prediction = yield request
            self._step(stage, time.perf_counter() - started, partial(self._preview, request, prediction))
            return prediction

        return guidance.respond(sampler, answer)

    def _step(self, stage: str, seconds: float, preview: Callable[[], ClipPreview]) -> None:
        for known, weight in ((self._step_seconds, 0.2), (self._expected, 0.4)):
            known[stage] = (1 - weight) * known.get(stage, seconds) + weight * seconds
        self.timings[stage] += seconds
        self._left[stage] -= 1
        done = self._total[stage] - self._left[stage]
        self._share = max(self._share, self._fraction())  # never decreases, even if a stage turns out slow
        self._notify(StepProgress(stage, done, self._total[stage], self._share, self._eta(), preview))

    def _fraction(self) -> float:
        """Stages are weighted by their step times, where known."""
        typical = sum(self._expected.values()) / len(self._expected)
        cost = {stage: self._expected.get(stage, typical) for stage in self._total}
        total = sum(cost[stage] * count for stage, count in self._total.items())
        return 1.0 - sum(cost[stage] * count for stage, count in self._left.items()) / total

    def _eta(self) -> float | None:
        if not all(stage in self._expected for stage in self._total):
            return None
        return sum(self._expected[stage] * count for stage, count in self._left.items())


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on GPUs, and on CPUs with instructions for it."""
    if device.type != "cpu":
        return device.type == "cuda"
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def to_uint8(video: Tensor) -> Tensor:
    """(frames, 3, height, width) in [-1, 1] → uint8 (frames, height, width, 3), truncating as the published code
    does."""
    return ((video.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
