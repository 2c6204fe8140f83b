"""The base stage of one output: noise, sampler, guidance, shifts, and windows if the clip is longer than one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from model.checkpoint.manifest import Manifest
from model.networks.config import MODALITIES, ClipSpec
from model.request import SamplingParams
from model.runtime.condition import GIVEN, Given
from model.runtime.edit import Section
from model.runtime.guided_steps import guided_until
from model.runtime.step_progress import MAX_PREVIEW_FRAMES, ClipPreview, Reporter, preview_frames, to_uint8
from model.sampling import guidance, samplers
from model.sampling.drift import pull_strength, reduce_drift
from model.sampling.error_variance import error_variance
from model.sampling.guidance import Condition
from model.sampling.latents import Latents, clip, unchanged
from model.sampling.masked_guidance import masked
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate, Prediction, Prompt, Sampler
from model.sampling.schedule import NoiseSchedule
from model.sampling.tuned import tuned
from model.sampling.windows import Draw, Windows, share_mean, windowed


@dataclass(frozen=True)
class BaseStage:
    """Makes the latents of a job of `kind` with resolved `params`, as long as `length` has frames, or as a window
    where that is longer. `given` is the side that the user gives, `section` what an edit keeps, `prompt` one caption,
    or two to guide between."""

    manifest: Manifest
    schedule: NoiseSchedule
    device: torch.device
    kind: str
    params: SamplingParams
    length: ClipSpec
    given: Given | None
    section: Section | None = None
    prompt: Prompt | None = None

    @property
    def windows(self) -> Windows:
        """How the clip is cut."""
        window = self.manifest.config.clip
        frames, samples = max(self.length.frames, window.frames), window.sample_rate // window.fps
        return Windows(frames, window.frames, samples, overlap=min(1, window.frames - 1))

    @property
    def rounds(self) -> int:
        """Evaluations of a window in a step."""
        return 2 if self.params.guidance == "decoupling" else 1

    def program(self, stream: RandomStream, report: Reporter) -> Generator[Any, Any, Latents]:
        """Yields requests for the base network, and returns the latents."""
        noise = self._noise(stream)
        state = noise.replace(self.given.modality, None) if self.given is not None else noise
        sampler = report.follow(self._sampler(state, stream), "base", self.preview)
        if self.section is not None:
            return self._edited(sampler, self.section, stream, report)
        if self._single:
            given = self.given
            condition = Condition(given.modality, given.clean(0), noise[given.modality]) if given is not None else None
            return self.guided(sampler, condition, stream)

        def guide(window: Sampler, start: int) -> Sampler:
            noisy = self.params.guidance != "clean"
            condition = self.given.condition(start, stream, noisy) if self.given is not None else None
            return self.guided(window, condition, stream)

        draw, progress = self._draw(stream), report.windows
        return windowed(sampler, self.schedule, self._windows_at, draw, guide, progress, self._reduce_drift)

    def preview(self, request: Evaluate, prediction: Prediction | None) -> Callable[[], ClipPreview]:
        """Shows the clip that a prediction implies, or the noisy one before there is any. Keeps only what is shown."""
        chosen = preview_frames(self.length.frames)
        stride = -(-self.length.frames // MAX_PREVIEW_FRAMES)

        def seen(state: Latents) -> Latents:
            if stride == 1:
                return state
            return Latents(
                state.video[:, chosen] if state.video is not None else None,
                state.audio[..., ::stride].clone() if state.audio is not None else None,
            )

        x = seen(request.x)
        eps = seen(prediction.eps) if prediction is not None else None
        return partial(self._preview, x, eps, request.t)

    def _preview(self, x: Latents, eps: Latents | None, t: float) -> ClipPreview:
        x0 = clip(x if eps is None else self.schedule.to_x0(x, eps, t))
        return ClipPreview(
            frames=to_uint8(self.upright(x0.video[0, : self.length.frames])).cpu() if x0.video is not None else None,
            audio=x0.audio[0, 0, : self.length.samples].float().cpu() if x0.audio is not None else None,
        )

    def upright(self, frames: torch.Tensor) -> torch.Tensor:
        """The network's frames as they are seen."""
        return frames.flip(-1) if self.manifest.mirrored else frames

    @property
    def _single(self) -> bool:
        return self.windows.frames == self.windows.window

    @property
    def aligns_windows(self) -> bool:
        """Whether all windows begin with the same mean of their frames' noise, and x̂_0 is kept from drifting: where
        nothing that is given holds them together over the whole clip."""
        return self.kind == "generate" and not self._single

    def _reduce_drift(self, x0: Latents, t: float) -> None:
        strength = pull_strength(self.schedule.log_snr(t)) if self.aligns_windows else 0.0
        if strength:
            reduce_drift(x0, self.windows, strength)
            if self._limit is clip:
                x0.map(lambda value: value.clamp_(-1, 1))

    def _noise(self, stream: RandomStream) -> Latents:
        """The initial noise. In a clip of several windows, that of the given side is drawn as windows need it."""
        windows = self.windows
        whole = replace(self.manifest.config.clip, frames=-(-windows.frames // windows.window) * windows.window)
        shapes = {"video": whole.video_shape, "audio": whole.audio_shape}
        drawn = [name for name in self.manifest.config.base.modalities if self._single or name != GIVEN.get(self.kind)]
        if self.section is not None:
            drawn = [name for name in drawn if name in self.section.makes]
        noise = Latents(
            *(stream.normal((1, *shapes[name]), self.device) if name in drawn else None for name in MODALITIES)
        )
        if self.aligns_windows and noise.video is not None:
            noise = noise.replace("video", share_mean(noise.video, windows.window))
        return noise if self._single else windows.clipped(noise)

    def _windows_at(self, t: float) -> Windows:
        """How the clip is cut at time `t`."""
        return self.windows

    def _draw(self, stream: RandomStream) -> Draw:
        """Where the cuts are."""
        return stream.integer

    def _sampler(self, x: Latents, stream: RandomStream) -> Sampler:
        schedule, params = self.schedule, self.params
        assert params.steps is not None
        if params.sampler == "tuned":
            assert self.manifest.tuned is not None
            return tuned(x, schedule, self.manifest.tuned.find(self.kind, params.guidance)[params.steps])
        if params.sampler == "dpm_solver":
            return samplers.dpm_solver(x, schedule, schedule.grid(params.steps, params.spacing), params.order or 3)
        times = schedule.times(params.steps, params.spacing)
        if params.sampler == "ddim":
            return samplers.ddim(x, schedule, times, params.eta or 0.0, stream.normal_like)
        if params.sampler == "ddpm":
            return samplers.ddpm(x, schedule, times, stream.normal_like)
        others = {"dpmpp_2m": samplers.dpmpp_2m, "dpmpp_3m": samplers.dpmpp_3m, "unipc": samplers.unipc}
        return others[params.sampler or ""](x, schedule, times)

    @property
    def _limit(self) -> Callable[[Latents], Latents]:
        """Limits x̂_0 where nothing is given. The published DPM-Solver runs without any limit."""
        return unchanged if self.params.sampler == "dpm_solver" else clip

    def guided(self, sampler: Sampler, condition: Condition | None, stream: RandomStream) -> Sampler:
        """Add guidance and RS-MMA shifts to the requests of a clip of one window, or of one window of a clip."""
        if condition is None:
            chain = guidance.limited(sampler, self.schedule, self._limit)
        else:
            chain = self._conditioned(sampler, condition, stream)
        return self._coupled(chain, stream)

    def _coupled(self, chain: Sampler, stream: RandomStream) -> Sampler:
        """Add decoupling guidance and the prompt, if they are wanted, and RS-MMA shifts."""
        if self.params.guidance == "decoupling":
            assert self.params.guidance_scale is not None
            chain = guidance.decoupling(chain, self.params.guidance_scale)
        if self.prompt is not None:
            assert self.manifest.text is not None
            until = guided_until(self.schedule, self.manifest.text, self.prompt.scale)
            chain = guidance.prompted(chain, self.prompt, until)
        max_shifts = self.manifest.config.base.max_shifts(self.manifest.config.clip.frames)
        return guidance.with_shifts(chain, lambda batch: stream.shifts(max_shifts, batch))

    def _edited(
        self, sampler: Sampler, section: Section, stream: RandomStream, report: Reporter
    ) -> Generator[Any, Any, Latents]:
        method, scale = self.params.guidance, self.params.guidance_scale or 0.0
        window = self.windows.window
        variance = None
        if method in ("pigdm", "clean") and self.manifest.calibration:
            variance = {name: error_variance(self.manifest.calibration, name) for name in MODALITIES}

        def guide(chain: Sampler, start: int) -> Sampler:
            known = section.known(start, window, stream)
            return self._coupled(masked(chain, self.schedule, known, clip, variance, scale, method == "clean"), stream)

        if self._single:
            made = yield from guide(sampler, 0)
        else:
            chain = windowed(sampler, self.schedule, self._windows_at, self._draw(stream), guide, report.windows)
            made = yield from chain
        return section.merge(made)

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
