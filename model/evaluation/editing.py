"""Measures edits on `bounce`, whose truth is known: what is made anew must go on from, and agree with, what is kept.

Four edits of clips of one window, each by every method of conditioning; docs/editing.md explains them and has figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.evaluation.alignment import paired_events
from model.evaluation.audio_features import detect_onsets
from model.evaluation.bootstrap import ratio_interval
from model.evaluation.generation import REAL_SEED, ClipGenerator, EvaluationError, EvaluationRun, video_of
from model.evaluation.intervals import Interval
from model.evaluation.video_features import detect_discs
from model.media.mix_levels import REPLACE
from model.media.source import Sound
from model.media.splice_sound import extend_sound, splice_sound
from model.networks.config import ClipSpec
from model.request import SamplingParams, allowed_guidance
from model.runtime.edit import EditCondition
from model.runtime.pipeline import Pipeline, to_uint8
from model.sampling.latents import Latents
from model.training.bounce import Bounce

Terms = dict[str, Tensor]
"""Numerator and denominator of a measure for every clip, (clips, 2), by its name."""

PRESENT = 0.04
"""Fraction of the region, half of the frame, from which a disc counts as being in it: half of the smallest disc."""

LABELS = {
    "onset_f1": "onset F1 in the span",
    "step": "step between samples at borders over elsewhere",
    "change": "change between frames at borders over elsewhere",
    "place": "disc's place, error in widths",
    "place_border": "disc's place in the first new frame, error in widths",
    "speed_border": "disc's speed at the border, error in widths a frame",
    "hue": "frames with the disc's hue",
    "inside": "frames that agree whether the disc is inside",
    "edge": "step between pixels at the region's edge over elsewhere",
}


@dataclass(frozen=True)
class Method:
    """A guidance method with its scale; a scale of None is its default."""

    guidance: str
    scale: float | None = None

    @property
    def name(self) -> str:
        return self.guidance if self.scale is None else f"{self.guidance} {self.scale:g}"


METHODS = (Method("replacement"), Method("pigdm", 1.0), Method("clean", 0.0), Method("clean", 1.0))
"""The methods that are compared by default, as far as the model allows them."""


@dataclass(frozen=True)
class EditTask:
    """One edit of clips of `spec`: `video` frames and `audio` frames are new, of the video only the right half if
    `region`. `alone`: only scenes of one disc are used. `of_whole`: the kind of job that makes the whole of the
    edited modality for the other, for comparison."""

    name: str
    spec: ClipSpec
    video: range
    audio: range
    region: bool = False
    alone: bool = True
    of_whole: str | None = None

    @property
    def samples(self) -> slice:
        """The samples that are new."""
        each = self.spec.samples // self.spec.frames
        return slice(self.audio.start * each, self.audio.stop * each)

    def condition(self, frames: Tensor, sound: Tensor) -> EditCondition:
        """The edit of one clip, (frames, 3, height, width) in [-1, 1] and (1, samples)."""
        new_video = torch.zeros(self.spec.frames, self.spec.height, self.spec.width, dtype=torch.bool)
        new_video[self.video.start : self.video.stop, :, self.spec.width // 2 if self.region else 0 :] = True
        new_audio = torch.zeros(self.spec.samples, dtype=torch.bool)
        new_audio[self.samples] = True
        return EditCondition(to_uint8(frames).movedim(-1, 1), sound, new_video, new_audio)

    def joined(self, kept: Latents, new: Latents) -> Latents:
        """Clips with the new parts of `new` in `kept`."""
        video, audio = kept["video"].clone(), kept["audio"].clone()
        place = slice(self.video.start, self.video.stop)
        left = self.spec.width // 2 if self.region else 0
        video[:, place, ..., left:] = new["video"][:, place, ..., left:]
        audio[..., self.samples] = new["audio"][..., self.samples]
        return Latents(video, audio)

    def written(self, made: Latents, real: Latents) -> Latents:
        """`made` with its new sound as the service puts it into or after the upload's."""
        rate, place = self.spec.sample_rate, self.samples
        sounds = []
        for kept, new in zip(real["audio"].numpy(), made["audio"].numpy(), strict=True):
            own = Sound(kept.T, rate, "mono", "flt")
            if self.video:
                before = replace(own, samples=own.samples[: place.start])
                sound, _ = extend_sound(before, new, 0, place.stop - place.start)
            else:
                sound, _, _ = splice_sound(own, new, [(place.start / rate, place.stop / rate)], REPLACE)
            sounds.append(sound.samples.T)
        return made.replace("audio", torch.from_numpy(np.stack(sounds)))

    def measure(self, made: Latents, real: Latents) -> Terms:
        """All measures that the edit has."""
        terms: Terms = {}
        if self.audio:
            terms["step"] = _steps(made["audio"], self.samples)
        terms["onset_f1"] = _onsets(made, self.spec, self.audio or self.video)
        if self.region:
            return terms | _region(made["video"], real["video"])
        if self.video:
            terms["change"] = _changes(made["video"], self.video)
            terms |= _motion(made["video"], real["video"], self.video)
        return terms


def edit_tasks(spec: ClipSpec) -> tuple[EditTask, ...]:
    """The edits that are measured, for a model of `spec`: the middle half of the sound or of the frames anew, the
    second half of the clip as an extension of the first, and the right half of the picture."""
    quarter, half, none = spec.frames // 4, spec.frames // 2, range(0)
    middle = range(quarter, spec.frames - quarter)
    return (
        EditTask("retake sound", spec, none, middle, alone=False, of_whole="v2a"),
        EditTask("retake video", spec, middle, none, of_whole="a2v"),
        EditTask("extend", spec, range(half, spec.frames), range(half, spec.frames)),
        EditTask("region", spec, range(spec.frames), none, region=True),
    )


@dataclass(frozen=True)
class EditRow:
    """The measures of one edit by one method, or of what it is compared with."""

    task: str
    method: str
    scores: dict[str, Interval]


@dataclass(frozen=True)
class EditEvaluation:
    """All rows of one model: `clips` clips in each, made with `params`."""

    manifest: Manifest
    clips: int
    params: SamplingParams
    rows: tuple[EditRow, ...]

    def to_json(self) -> str:
        data: dict[str, Any] = {
            "model": self.manifest.name,
            "weights": self.manifest.weights_hash,
            "clips": self.clips,
            "params": {name: value for name, value in asdict(self.params).items() if value is not None},
            "rows": [asdict(row) for row in self.rows],
        }
        return json.dumps(data, indent=2) + "\n"


def allowed_methods(manifest: Manifest, methods: Iterable[Method] = METHODS) -> tuple[Method, ...]:
    """Those of `methods` that the model allows; without a calibration, those whose scale is 0 without a scale."""
    allowed = [method for method in methods if method.guidance in allowed_guidance("edit", manifest)]
    if manifest.calibration:
        return tuple(allowed)
    return tuple(replace(method, scale=None) for method in allowed if not method.scale)


def real_clips(task: EditTask, count: int) -> Latents:
    """The first `count` clips of `bounce` that the edit is measured on, on the CPU."""
    bounce = Bounce(task.spec, REAL_SEED, "train")
    indexes = torch.arange(4 * count + 16)
    if task.alone:
        indexes = indexes[~bounce.scene(indexes).present[:, 1]]
    return bounce.batch(indexes[:count])


def make_edits(
    generator: ClipGenerator,
    task: EditTask,
    method: Method,
    params: SamplingParams,
    real: Latents,
    on_done: Callable[[], None] = lambda: None,
) -> Latents:
    """The clips `real`, edited. Clip i is output i of a request with the seed of `params`."""
    params = replace(params, guidance=method.guidance, guidance_scale=method.scale, super_resolution=False)
    conditions = [task.condition(*pair) for pair in zip(real["video"], real["audio"], strict=True)]
    video, audio = real["video"].clone(), real["audio"].clone()
    for number, clip in enumerate(generator.generate("edit", params, range(real.batch), conditions)):
        if clip.frames is not None:
            video[number] = video_of(clip)
        if clip.audio is not None:
            audio[number] = clip.audio
        on_done()
    return Latents(video, audio)


def compared(
    generator: ClipGenerator, task: EditTask, params: SamplingParams, real: Latents, on_done: Callable[[], None]
) -> dict[str, Latents]:
    """What an edit is compared with, by name: the clips as they were; the modality made as a whole for the other, where
    that can be; the same part of unrelated clips; the last frame held."""
    found = {"real": real}
    if task.of_whole is not None:
        run = EvaluationRun(task.of_whole, None, "train")
        found[f"{task.of_whole} of the whole"] = generator.make(run, params, real, on_done)
    found["unrelated"] = task.joined(real, real.map(lambda value: value.roll(1, 0)))
    if task.audio and task.video:
        last = real["video"][:, task.video.start - 1 : task.video.start]
        found["last frame held"] = task.joined(real, Latents(last.expand_as(real["video"]), real["audio"] * 0))
    return found


def evaluate_edits(
    manifest: Manifest,
    methods: Sequence[Method],
    clips: int,
    params: SamplingParams,
    on_done: Callable[[], None] = lambda: None,
    on_row: Callable[[EditRow, Latents], None] = lambda row, clips: None,
    device: str = "auto",
    dtype: str = "auto",
) -> EditEvaluation:
    """Make and measure `clips` edits of every kind by each of `methods`. `on_done` is called for each clip, `on_row`
    with each row and its clips.

    Raises RequestError for parameters that edits do not allow, EvaluationError for a model of one modality,
    CheckpointError for weights that do not fit, ValueError for fewer than two clips.
    """
    if clips < 2:
        raise ValueError(f"clips must be at least 2; got {clips}")
    if not manifest.config.base.coupled:
        raise EvaluationError(f"the model {manifest.name} has one modality only, so it cannot edit")
    for method in methods:
        replace(params, guidance=method.guidance, guidance_scale=method.scale).resolve("edit", manifest)
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    generator = ClipGenerator(Pipeline.load(base_only, device, dtype))
    rows = []

    def add(task: EditTask, name: str, made: Latents, real: Latents) -> None:
        scores = {key: ratio_interval(terms) for key, terms in task.measure(made, real).items()}
        rows.append(EditRow(task.name, name, scores))
        on_row(rows[-1], made)

    for task in edit_tasks(manifest.config.clip):
        real = real_clips(task, clips)
        for name, made in compared(generator, task, params, real, on_done).items():
            add(task, name, made, real)
        for method in methods:
            made = make_edits(generator, task, method, params, real, on_done)
            add(task, method.name, made, real)
            if task.audio:
                add(task, f"{method.name}, as written", task.written(made, real), real)
    return EditEvaluation(manifest, clips, params, tuple(rows))


def evaluated_clips(spec: ClipSpec, methods: int, clips: int) -> int:
    """How many clips `evaluate_edits` makes."""
    return clips * sum(methods + (task.of_whole is not None) for task in edit_tasks(spec))


def _onsets(made: Latents, spec: ClipSpec, span: range) -> Tensor:
    """Twice the pairs of heard and seen events in the span, and the number of both: terms of F1."""
    heard = detect_onsets(made["audio"], spec.sample_rate, spec.fps).in_frames(spec.fps, spec.frames)
    seen = detect_discs(made["video"]).events
    place = slice(span.start, span.stop)
    heard, seen = heard[:, place], seen[:, place]
    pairs = paired_events(heard, seen)[0].sum(1)
    return torch.stack([2 * pairs, heard.sum(1) + seen.sum(1)], dim=1).float()


def _steps(audio: Tensor, span: slice) -> Tensor:
    """Mean squared step between samples at the borders of the span, and elsewhere."""
    steps = audio[:, 0].diff(dim=1).square()
    return _at_borders(steps, span.start, span.stop)


def _changes(video: Tensor, span: range) -> Tensor:
    """Mean squared change between frames at the borders of the span, and elsewhere."""
    return _at_borders(video.diff(dim=1).square().mean((2, 3, 4)), span.start, span.stop)


def _at_borders(steps: Tensor, start: int, stop: int) -> Tensor:
    """The mean of `steps` (clips, positions − 1) into `start` and into `stop`, where those are not the clip's ends, and
    the mean of the others."""
    at = torch.zeros(steps.shape[1], dtype=torch.bool)
    at[[border - 1 for border in (start, stop) if 0 < border <= steps.shape[1]]] = True
    return torch.stack([steps[:, at].mean(1), steps[:, ~at].mean(1)], dim=1)


def _motion(made: Tensor, real: Tensor, span: range) -> Terms:
    """Place, speed and hue of the only disc against the real clip's, as the detectors see them."""
    found, truth = detect_discs(made), detect_discs(real)
    place = slice(span.start, span.stop)
    error = (found.place - truth.place).norm(dim=-1)
    speed = (found.place.diff(dim=1) - truth.place.diff(dim=1)).norm(dim=-1)
    border = slice(span.start - 1, span.start + 1)  # into the first new frame, and into the second
    own = truth.area.median(dim=1).values.argmax(-1)
    hue = (found.area[:, place].argmax(-1) == own[:, None]) & (found.area[:, place].amax(-1) > PRESENT / 2)
    return {
        "place_border": _mean(error[:, span.start : span.start + 1]),
        "speed_border": _mean(speed[:, border]),
        "place": _mean(error[:, place]),
        "hue": _mean(hue.float()),
    }


def _region(made: Tensor, real: Tensor) -> Terms:
    """Whether the only disc is inside the right half when it should be, where it is then, and the edge."""
    middle = made.shape[-1] // 2

    def inside(video: Tensor) -> Tensor:
        discs = detect_discs(video[..., middle:])
        return (discs.area.sum(-1) > PRESENT) | discs.flash

    should = inside(real)
    both = should & inside(made)
    error = (detect_discs(made).place - detect_discs(real).place).norm(dim=-1)
    across = made.diff(dim=-1).square().mean((1, 2, 3))
    return {
        "inside": _mean((should == inside(made)).float()),
        "place": torch.stack([(error * both).sum(1), both.sum(1).float()], dim=1),
        "edge": _at_borders(across, middle, made.shape[-1]),
    }


def _mean(values: Tensor) -> Tensor:
    """Terms of the mean over clips and positions, of `values` (clips, positions)."""
    return torch.stack([values.sum(1), torch.full((len(values),), float(values.shape[1]))], dim=1)
