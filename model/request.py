"""Sampling parameters: names, limits and defaults. Without torch, because the API reads them too."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from model.checkpoint.manifest import Manifest
from model.checkpoint.text_encoding import MAX_SCALE
from model.networks.config import KINDS, MAX_SCHEDULE_STEPS, ClipSpec, integer_stride

SAMPLERS = ("dpmpp_2m", "dpmpp_3m", "dpm_solver", "unipc", "ddim", "ddpm")
TUNED = "tuned"
"""Also a sampler, and one of super-resolution: solvers that `duet tune` has found for the model."""
SPACINGS = ("log_snr", "uniform", "quadratic")
GUIDANCE = ("replacement", "gradient", "gradient_code", "pigdm", "decoupling", "clean")

RANKINGS = ("sync", "av_align", "lag")
"""Scores of an output, by which the best are kept."""

SR_SAMPLERS = ("dpmpp_2m", "ddim")
"""`dpmpp_2m` is the cheap path, from the noised upsampled frame, as is `tuned`; `ddim` is the published one, from
noise."""
SR_STEPS = {"dpmpp_2m": 8, "ddim": 25}


@dataclass(frozen=True)
class Quality:
    """Default steps of both stages. `tuned`: by solvers that were found for the model, where its manifest has them."""

    steps: int
    sr_steps: int
    tuned: bool


QUALITIES = {
    "fast": Quality(6, 3, tuned=True),
    "balanced": Quality(10, 4, tuned=True),
    "best": Quality(20, SR_STEPS["dpmpp_2m"], tuned=False),
}

MAX_SEED = 2**53 - 1
"""The largest integer that every JSON client carries exactly."""
MAX_OUTPUTS = 8
MAX_STEPS = 1000
MAX_SR_STEPS = 250
MAX_SR_START = MAX_SCHEDULE_STEPS - 1
"""The noisiest time of the longest schedule. A model's own schedule sets a lower limit."""
MAX_ORDER = 3
MAX_GUIDANCE_SCALE = 1000.0
MAX_PROMPT = 300
"""Characters."""
MAX_PROMPT_SCALE = MAX_SCALE
MIN_DURATION = 0.1
MAX_DURATION = 600.0
"""Seconds. A service may set a lower limit."""

MAX_EVALUATIONS = 25_000
"""Forwards of the base network for one window in a job: 20 steps of 1250 windows, or of 416 with a gradient. A
guided prompt counts twice."""

FORWARDS = {"clean": 1, "replacement": 1, "pigdm": 3, "gradient": 3, "gradient_code": 3, "decoupling": 2}
"""Cost of a step with each guidance method, in forwards. A backward counts as two."""

DEFAULT_SCALES = {
    ("gradient", "a2v"): 123.0,
    ("gradient", "v2a"): 16.0,
    ("gradient_code", "a2v"): 3.0,
    ("gradient_code", "v2a"): 3.0,
    ("pigdm", "a2v"): 1.0,
    ("pigdm", "v2a"): 1.0,
    ("decoupling", "generate"): 2.0,
    ("decoupling", "a2v"): 2.0,
    ("decoupling", "v2a"): 2.0,
    ("pigdm", "edit"): 1.0,
    ("clean", "edit"): 1.0,
    ("decoupling", "edit"): 2.0,
}
"""Guidance scales by method and kind; other methods have none. On a sum of squares the first two equal the published
scale 3 with the loss scale that the published code leaves in under fp16. That of `clean` for an edit is the scale of
ΠGDM for the modality that is known in part."""

EDIT_GUIDANCE = ("replacement", "pigdm", "decoupling", "clean")
"""The methods that can keep a part of a modality."""


_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""C0 and C1 controls, line separators, and marks that reorder text; as in a regular expression."""

PROMPT_PATTERN = rf"^[ \t\r\n]*[^{_CONTROLS}]*[ \t\r\n]*$"
"""Of prompts, as ECMAScript and Python read it: one line, with blanks and line ends before and after it."""


class RequestError(ValueError):
    """A request that this model, or any model, cannot serve. `field` names the parameter."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one job. `resolve` replaces None by the default; parameters that do not apply stay None.

    `quality`: one of QUALITIES, gives the defaults of samplers and steps; None is `best`. `duration`: seconds of the
    clip; None is one window of the model, as is its own duration. `sr_start`: diffusion time, an index of the schedule,
    at which `dpmpp_2m` starts super-resolution from the noised upsampled frame; None is the noisiest. `keep`: outputs
    to keep, the best by the score `rank_by`; None keeps all. `prompt`: words for the clip, `negative_prompt`: words for
    what classifier-free guidance moves away from, `prompt_scale`: its scale, of which 1 is no guidance.
    """

    seed: int
    num_outputs: int = 1
    quality: str | None = None
    sampler: str | None = None
    steps: int | None = None
    spacing: str = "log_snr"
    order: int | None = None
    eta: float | None = None
    super_resolution: bool | None = None
    sr_sampler: str | None = None
    sr_steps: int | None = None
    sr_start: int | None = None
    guidance: str | None = None
    guidance_scale: float | None = None
    duration: float | None = None
    keep: int | None = None
    rank_by: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    prompt_scale: float | None = None

    def resolve(self, kind: str, manifest: Manifest) -> SamplingParams:
        """The parameters for a job of `kind` on the model of `manifest`, with all defaults filled in.

        Raises RequestError for a value outside its limits, or one that does not apply to this kind, sampler or model.
        """
        if kind not in KINDS:
            raise RequestError("kind", f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if not manifest.config.base.coupled and kind != "generate":
            raise RequestError("kind", f"the model {manifest.name} has one modality only; it cannot serve {kind}")
        self._check_limits()
        guidance, words = self._guidance(kind, manifest), self._words(manifest)
        guided = prompt_forwards(replace(self, **words)) > 1
        return replace(
            self,
            **guidance,
            **words,
            **self._sampler(kind, guidance["guidance"], guided, manifest),
            **self._super_resolution(kind, manifest),
            **self._duration(manifest),
            **self._best_of(),
        )

    def _check_limits(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "seed": (0, MAX_SEED),
            "num_outputs": (1, MAX_OUTPUTS),
            "steps": (1, MAX_STEPS),
            "order": (1, MAX_ORDER),
            "eta": (0, 1),
            "sr_steps": (1, MAX_SR_STEPS),
            "guidance_scale": (0, MAX_GUIDANCE_SCALE),
            "duration": (MIN_DURATION, MAX_DURATION),
            "prompt_scale": (0, MAX_PROMPT_SCALE),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise RequestError(field, f"{field} must be {low} … {high}; got {value}")
        choices: dict[str, tuple[str | None, ...]] = {
            "quality": (*QUALITIES, None),
            "sampler": (*SAMPLERS, TUNED, None),
            "spacing": SPACINGS,
            "sr_sampler": (*SR_SAMPLERS, TUNED, None),
            "guidance": (*GUIDANCE, None),
            "rank_by": (*RANKINGS, None),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                names = ", ".join(name for name in allowed if name)
                raise RequestError(field, f"{field} must be one of {names}; got {getattr(self, field)!r}")

    @property
    def _quality(self) -> Quality:
        return QUALITIES[self.quality or ("fast" if self.sampler == TUNED else "best")]

    def _sampler(self, kind: str, guidance: str | None, guided: bool, manifest: Manifest) -> dict[str, Any]:
        """`guided`: by a prompt, for which no solver was tuned."""
        solvers = () if guided else tuned_steps(kind, guidance, manifest)
        steps = self._quality.steps if self.steps is None else self.steps
        plain = self.spacing == SPACINGS[0] and self.order is None and self.eta is None
        sampler = self.sampler or (TUNED if self._quality.tuned and plain and steps in solvers else SAMPLERS[0])
        for field, owner in (("order", "dpm_solver"), ("eta", "ddim")):
            if getattr(self, field) is not None and sampler != owner:
                raise RequestError(field, f"{field} is a parameter of {owner}; the sampler is {sampler}")
        if guidance == "gradient_code" and sampler != "ddpm":
            raise RequestError(
                "guidance", f"gradient_code is defined for the sampler ddpm only; the sampler is {sampler}"
            )
        if sampler == TUNED:
            if guided:
                raise RequestError(
                    "sampler",
                    "sampler tuned does not apply with a prompt unless prompt_scale is 1: its solvers are found "
                    "without prompts; use dpmpp_2m",
                )
            self._check_tuned(solvers, steps, f"{kind} with {guidance}" if guidance else kind, manifest)
        return {
            "sampler": sampler,
            "steps": steps,
            "order": (self.order or 3) if sampler == "dpm_solver" else None,
            "eta": (self.eta or 0.0) if sampler == "ddim" else None,
        }

    def _check_tuned(self, solvers: tuple[int, ...], steps: int, job: str, manifest: Manifest) -> None:
        if not solvers:
            raise RequestError(
                "sampler", f"the model {manifest.name} has no solvers for the sampler tuned for {job} (run duet tune)"
            )
        if steps not in solvers:
            allowed = ", ".join(map(str, solvers))
            raise RequestError("steps", f"steps with the sampler tuned must be one of {allowed}; got {steps}")
        if self.spacing != SPACINGS[0]:
            raise RequestError("spacing", f"spacing does not apply to the sampler tuned; got {self.spacing}")

    def _super_resolution(self, kind: str, manifest: Manifest) -> dict[str, Any]:
        has_stage = manifest.config.sr is not None
        if self.super_resolution and kind == "v2a":
            raise RequestError("super_resolution", "super_resolution does not apply to v2a, which keeps your frames")
        if self.super_resolution and not has_stage:
            raise RequestError("super_resolution", f"the model {manifest.name} has no super-resolution stage")
        wanted = has_stage and kind != "v2a" and self.super_resolution is not False
        if not wanted:
            for field in ("sr_sampler", "sr_steps", "sr_start"):
                if getattr(self, field) is not None:
                    raise RequestError(field, f"{field} applies only with super_resolution")
            return {"super_resolution": False}
        solvers = sorted(manifest.tuned.sr) if manifest.tuned is not None else []
        quality = QUALITIES[self.quality or ("fast" if self.sr_sampler == TUNED else "best")]
        default = SR_STEPS["ddim"] if self.sr_sampler == "ddim" else quality.sr_steps
        steps = default if self.sr_steps is None else self.sr_steps
        tuned = quality.tuned and steps in solvers and self.sr_start is None
        sampler = self.sr_sampler or (TUNED if tuned else SR_SAMPLERS[0])
        if sampler == TUNED and steps not in solvers:
            if not solvers:
                raise RequestError("sr_sampler", f"the model {manifest.name} has no tuned solvers (run duet tune)")
            allowed = ", ".join(map(str, solvers))
            raise RequestError("sr_steps", f"sr_steps with tuned must be one of {allowed}; got {steps}")
        if sampler == "ddim" and integer_stride(manifest.config.schedule.steps, steps) is None:
            raise RequestError(
                "sr_steps",
                f"sr_steps with ddim must be a count that one integer stride through "
                f"{manifest.config.schedule.steps} steps gives, such as 25, 50 or 100; got {steps}",
            )
        self._check_sr_start(sampler, manifest)
        return {"super_resolution": True, "sr_sampler": sampler, "sr_steps": steps}

    def _check_sr_start(self, sampler: str, manifest: Manifest) -> None:
        if self.sr_start is None:
            return
        if sampler != SR_SAMPLERS[0]:
            raise RequestError(
                "sr_start", f"sr_start is a parameter of {SR_SAMPLERS[0]}; the sampler of super-resolution is {sampler}"
            )
        last = manifest.config.schedule.steps - 1
        if not 1 <= self.sr_start <= last:
            raise RequestError(
                "sr_start", f"sr_start must be 1 … {last} for the model {manifest.name}; got {self.sr_start}"
            )

    def _guidance(self, kind: str, manifest: Manifest) -> dict[str, Any]:
        allowed = allowed_guidance(kind, manifest)
        method = self.guidance
        if method is None and kind != "generate":
            method = next(name for name in ("clean", "pigdm", "replacement") if name in allowed)
        if method is not None and method not in allowed:
            raise RequestError("guidance", _why_not(method, kind, manifest))
        default = DEFAULT_SCALES.get((method or "", kind))
        if method == "clean" and not manifest.calibration:
            default = None
        if default is None and self.guidance_scale is not None:
            raise RequestError("guidance_scale", f"guidance_scale does not apply with guidance {method or 'off'}")
        return {"guidance": method, "guidance_scale": default if self.guidance_scale is None else self.guidance_scale}

    def _best_of(self) -> dict[str, Any]:
        if self.keep is None:
            if self.rank_by is not None:
                raise RequestError("rank_by", "rank_by applies only with keep")
            return {}
        if not 1 <= self.keep <= self.num_outputs:
            raise RequestError("keep", f"keep must be 1 … {self.num_outputs}, which is num_outputs; got {self.keep}")
        return {"rank_by": self.rank_by or RANKINGS[0]}

    def _words(self, manifest: Manifest) -> dict[str, Any]:
        words: dict[str, str | None] = {}
        for field in ("prompt", "negative_prompt"):
            try:
                words[field] = clean_prompt(getattr(self, field))
            except ValueError as error:
                raise RequestError(field, f"{field} {error}") from error
        given = {**words, "prompt_scale": self.prompt_scale}
        for field, value in given.items():
            if value is not None and manifest.text is None:
                raise RequestError(field, f"the model {manifest.name} knows no words")
            if value is not None and given["prompt"] is None:
                raise RequestError(field, f"{field} applies only with prompt")
        if manifest.text is None or given["prompt"] is None:
            return given
        scale = manifest.text.scale if self.prompt_scale is None else self.prompt_scale
        if words["negative_prompt"] is not None and scale == 1:
            raise RequestError("negative_prompt", "negative_prompt does not apply with prompt_scale 1")
        return {**words, "prompt_scale": scale}

    def _duration(self, manifest: Manifest) -> dict[str, Any]:
        """In whole frames."""
        if self.duration is None:
            return {}
        clip = manifest.config.clip
        made = clip_of(self.duration, clip)
        if made.frames != clip.frames and "audio" in manifest.config.base.modalities and not is_divisible(clip):
            raise RequestError(
                "duration",
                f"duration must be {clip.duration:g} for the model {manifest.name}: its {clip.sample_rate} audio "
                f"samples a second cannot be divided among {clip.fps} frames; got {self.duration:g}",
            )
        return {"duration": made.duration}


def clean_prompt(text: str | None) -> str | None:
    """The prompt without white space around it; None if nothing is left.

    Raises ValueError for one that is too long or has control characters. The message does not repeat it: prompts are
    kept out of logs.
    """
    if text is None:
        return None
    if len(text) > MAX_PROMPT:
        raise ValueError(f"must have at most {MAX_PROMPT} characters; got {len(text)}")
    if re.fullmatch(PROMPT_PATTERN, text) is None or any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError("must be one line of text without control characters")
    return text.strip() or None


def prompt_forwards(params: SamplingParams) -> int:
    """The most forwards of one evaluation, for resolved `params`: two for a guided prompt, with it and without."""
    return 2 if params.prompt is not None and params.prompt_scale != 1 else 1


def clip_of(duration: float | None, clip: ClipSpec) -> ClipSpec:
    """The clip of `duration` seconds that a model of `clip` makes: whole frames of the model's rate, the last of which
    covers the rest. None: one window, `clip` itself."""
    if duration is None:
        return clip
    rounding = 1e-6
    return replace(clip, frames=max(1, math.ceil(duration * clip.fps - rounding)))


def most_windows(frames: int, window: int) -> int:
    """The most windows of a clip that a step evaluates; see `model.sampling.windows.Windows.most`."""
    return 1 if frames <= window else 2 + math.ceil((frames - window - 1) / (window - 1))


def forwards(kind: str, guidance: str | None, scale: float | None) -> int:
    """Cost of a step of one window, in forwards. The `scale` of `clean` for an edit is that of ΠGDM beside it."""
    if guidance is None:
        return 1
    return FORWARDS["pigdm" if kind == "edit" and guidance == "clean" and scale else guidance]


def check_evaluations(kind: str, params: SamplingParams, clip: ClipSpec) -> None:
    """Raise RequestError if a job of `kind` with resolved `params` takes more than MAX_EVALUATIONS. `clip`: that of the
    model."""
    assert params.steps is not None
    windows = most_windows(clip_of(params.duration, clip).frames, clip.frames)
    cost = forwards(kind, params.guidance, params.guidance_scale) * prompt_forwards(params)
    one = cost * params.num_outputs * windows
    if params.steps * one > MAX_EVALUATIONS:
        how = f", whose guidance counts {cost} times" if cost > 1 else ""
        raise RequestError(
            "steps",
            f"steps must be at most {MAX_EVALUATIONS // one} for {params.num_outputs} outputs of {windows} windows"
            f"{how}; got {params.steps}",
        )


def tuned_steps(kind: str, guidance: str | None, manifest: Manifest) -> tuple[int, ...]:
    """The steps that the sampler `tuned` can take for a job of `kind` with `guidance`; empty if it cannot be used."""
    return tuple(sorted(manifest.tuned.find(kind, guidance))) if manifest.tuned is not None else ()


def is_divisible(clip: ClipSpec) -> bool:
    """Whether every frame lasts a whole number of audio samples, so that a model of `clip` can make other lengths."""
    return clip.sample_rate % clip.fps == 0


def allowed_guidance(kind: str, manifest: Manifest) -> tuple[str, ...]:
    """Guidance methods available to a job of `kind`."""
    if not manifest.config.base.coupled:
        return ()
    if kind == "generate":
        return ("decoupling",)
    return tuple(
        name
        for name in (EDIT_GUIDANCE if kind == "edit" else GUIDANCE)
        if (name != "clean" or manifest.independent_timesteps) and (name != "pigdm" or manifest.calibration)
    )


def _why_not(method: str, kind: str, manifest: Manifest) -> str:
    if kind == "edit" and method not in EDIT_GUIDANCE:
        return f"guidance for edit can only be {', '.join(EDIT_GUIDANCE)}; got {method}"
    if kind == "generate":
        return f"guidance for generate can only be decoupling; got {method}"
    if method == "clean":
        return f"clean needs a model trained with independent timesteps; {manifest.name} was not"
    if method == "pigdm":
        return f"pigdm needs a calibration in the manifest; {manifest.name} has none (run duet calibrate)"
    return f"the model {manifest.name} has one modality only, so guidance does not apply"
