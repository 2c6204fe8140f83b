"""The base stage of one output: noise, sampler, guidance, shifts, and windows if the clip is longer than one."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.checkpoint.manifest import Manifest
from model.networks.config import MODALITIES, ClipSpec
from model.request import SamplingParams
from model.runtime.condition import GIVEN, Given
from model.runtime.step_progress import ClipPreview, Reporter, preview_frames, to_uint8
from model.sampling import guidance, samplers
from model.sampling.error_variance import error_variance
from model.sampling.guidance import Condition
from model.sampling.latents import Latents, clip, unchanged
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule
from model.sampling.windows import Windows, windowed


@dataclass(frozen=True)
class BaseStage:
    """Makes the latents of a job of `kind` with resolved `params`, as long as `length` has frames, or as a window
    where that is longer. `given` is the side that the user gives."""

    manifest: Manifest
    schedule: NoiseSchedule
    device: torch.device
    kind: str
    params: SamplingParams
    length: ClipSpec
    given: Given | None

    @property
    def windows(self) -> Windows:
        """How the clip is cut."""
        window = self.manifest.config.clip
        return Windows(max(self.length.frames, window.frames), window.frames, window.sample_rate // window.fps)

    @property
    def rounds(self) -> int:
        """Evaluations of a window in a step."""
        return 2 if self.params.guidance == "decoupling" else 1

    def program(self, stream: RandomStream, report: Reporter) -> Generator[Any, Any, Latents]:
        """Yields requests for the base network, and returns the latents."""
        noise = self._noise(stream)
        sampler = report.follow(self._sampler(self._state(noise), stream), "base", self.preview)
        if self._single:
            condition = (
                Condition(self.given.modality, self.given.clean(0), noise[self.given.modality]) if self.given else None
            )
            return self._guided(sampler, condition, stream)

        def guide(window: Sampler, start: int) -> Sampler:
            noisy = self.params.guidance != "clean"
            condition = self.given.condition(start, stream, noisy) if self.given is not None else None
            return self._guided(window, condition, stream)

        windows = self.windows
        return windowed(sampler, self.schedule, lambda t: windows, stream.integer, guide, report.windows)

    def preview(self, request: Evaluate, prediction: Prediction | None) -> ClipPreview:
        """The clip that a prediction implies, or the noisy one before there is any."""
        chosen = preview_frames(self.length.frames)

        def seen(state: Latents) -> Latents:
            return Latents(
                state.video[:, chosen] if state.video is not None else None,
                state.audio[..., : self.length.samples] if state.audio is not None else None,
            )

        x = seen(request.x)
        x0 = clip(x if prediction is None else self.schedule.to_x0(x, seen(prediction.eps), request.t))
        return ClipPreview(
            frames=to_uint8(self.upright(x0.video[0])).cpu() if x0.video is not None else None,
            audio=x0.audio[0, 0].float().cpu() if x0.audio is not None else None,
        )

    def upright(self, frames: torch.Tensor) -> torch.Tensor:
        """The network's frames as they are seen."""
        return frames.flip(-1) if self.manifest.mirrored else frames

    @property
    def _single(self) -> bool:
        return self.windows.frames == self.windows.window

    def _noise(self, stream: RandomStream) -> Latents:
        """The initial noise. In a clip of several windows, that of the given side is drawn as windows need it."""
        whole = replace(self.manifest.config.clip, frames=self.windows.frames)
        shapes = {"video": whole.video_shape, "audio": whole.audio_shape}
        drawn = [name for name in self.manifest.config.base.modalities if self._single or name != GIVEN.get(self.kind)]
        return Latents(
            *(stream.normal((1, *shapes[name]), self.device) if name in drawn else None for name in MODALITIES)
        )

    def _state(self, noise: Latents) -> Latents:
        return noise.replace(self.given.modality, None) if self.given is not None else noise

    def _sampler(self, x: Latents, stream: RandomStream) -> Sampler:
        schedule, params = self.schedule, self.params
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

    def _guided(self, sampler: Sampler, condition: Condition | None, stream: RandomStream) -> Sampler:
        """Add guidance and RS-MMA shifts to the requests of a clip of one window, or of one window of a clip."""
        if condition is None:
            # The published DPM-Solver runs without any limit on x̂_0.
            limit = unchanged if self.params.sampler == "dpm_solver" else clip
            chain = guidance.limited(sampler, self.schedule, limit)
        else:
            chain = self._conditioned(sampler, condition, stream)
        if self.params.guidance == "decoupling":
            assert self.params.guidance_scale is not None
            chain = guidance.decoupling(chain, self.params.guidance_scale)
        max_shifts = self.manifest.config.base.max_shifts(self.manifest.config.clip.frames)
        return guidance.with_shifts(chain, lambda batch: stream.shifts(max_shifts, batch))

    def _conditioned(self, sampler: Sampler, condition: Condition, stream: RandomStream) -> Sampler:
        schedule, method, scale = self.schedule, self.params.guidance, self.params.guidance_scale or 0.0
        if method == "clean":
            return guidance.clean(sampler, schedule, condition, clip)
        if method == "pigdm":
            variance = error_variance(self.manifest.calibration, condition.modality)
            return guidance.pigdm(sampler, schedule, condition, clip, variance, scale)
        if method == "gradient":
            return guidance.gradient(sampler, schedule, condition, clip, scale)
        if method == "gradient_code":
            return guidance.gradient_code(sampler, schedule, condition, scale, stream.normal_like)
        return guidance.replacement(sampler, schedule, condition, clip)
