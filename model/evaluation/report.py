"""Runs an evaluation; its scores as JSON and as a plot. Clips longer than the model's window are also measured at the
borders of windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.checkpoint.manifest import Manifest
from model.evaluation.alignment import MEASURES, detect
from model.evaluation.bootstrap import Score, scores
from model.evaluation.fidelity import Fidelity, features_of, fidelity
from model.evaluation.generation import (
    ClipGenerator,
    EvaluationError,
    EvaluationRun,
    check_runs,
    has_captions,
    real_captions,
    real_clips,
)
from model.evaluation.intervals import Interval
from model.evaluation.scene_measures import SCENE_MEASURES
from model.evaluation.seams import Drift, Measured, SeamScore, drift, seam_scores
from model.networks.config import ClipSpec
from model.request import SamplingParams, clip_of
from model.runtime.condition import GIVEN
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents

LABELS = {measure.name: measure.label for measure in MEASURES}
SCENE_LABELS = {measure.name: measure.label for measure in SCENE_MEASURES}

FRAMES_AT_ONCE = 512
"""Frames of a batch of the detectors."""


@dataclass(frozen=True)
class Seams:
    """Measures of clips of several windows, at the borders of whole windows and of the windows of each clip's last
    evaluation, and drift."""

    whole_windows: tuple[SeamScore, ...]
    last_windows: tuple[SeamScore, ...]
    drift: tuple[Drift, ...]

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        return {name: {each["measure"]: each for each in part} for name, part in data.items()}


@dataclass(frozen=True)
class Result:
    """The scores of one run, and the distances of what it generated to real clips. `seams`: None for clips of one
    window."""

    run: EvaluationRun
    scores: tuple[Score, ...]
    distances: tuple[Fidelity, ...]
    seams: Seams | None


@dataclass(frozen=True)
class Watcher:
    """Callbacks: a run begins, a clip of it is done, the run ends with its clips and scores."""

    begins: Callable[[EvaluationRun], None]
    clip: Callable[[], None]
    ends: Callable[[EvaluationRun, Latents, Result], None]


@dataclass(frozen=True)
class Evaluation:
    """Results of one model: `clips` clips of `length` in every run, made with `params`, measured as clips of `data`."""

    manifest: Manifest
    clips: int
    length: ClipSpec
    params: SamplingParams
    results: tuple[Result, ...]
    data: str = "bounce"

    @property
    def labels(self) -> dict[str, str]:
        """The measures by name."""
        return SCENE_LABELS if self.data == "scenes" else LABELS

    def to_json(self) -> str:
        data: dict[str, Any] = {
            "model": self.manifest.name,
            "weights": self.manifest.weights_hash,
            "clips": self.clips,
            "seconds": self.length.duration,
            "data": self.data,
            "params": {name: value for name, value in asdict(self.params).items() if value is not None},
            "runs": [
                {
                    "name": result.run.name,
                    **asdict(result.run),
                    "scores": {score.measure: asdict(score) for score in result.scores},
                    "distances": {each.distance: asdict(each) for each in result.distances},
                    **({"seams": result.seams.to_dict()} if result.seams else {}),
                }
                for result in self.results
            ],
        }
        return json.dumps(data, indent=2) + "\n"


def evaluate(
    manifest: Manifest,
    runs: Sequence[EvaluationRun],
    clips: int,
    params: SamplingParams,
    watcher: Watcher,
    device: str = "auto",
    dtype: str = "auto",
) -> Evaluation:
    """Generate and measure `clips` clips for every run; `device` and `dtype` as in Pipeline.load. Where the model takes
    prompts and `params` has none, joint clips are prompted with the captions of real ones.

    Raises RequestError for parameters that a run does not allow, EvaluationError for clips shorter than a window,
    CheckpointError for weights that do not fit, ValueError for fewer than two clips.
    """
    if clips < 2:
        raise ValueError(f"clips must be at least 2; got {clips}")
    params = check_runs(runs, params, manifest)
    config = manifest.config
    length = clip_of(params.duration, config.clip)
    if length.frames < config.clip.frames:
        raise EvaluationError(f"duration must be at least {config.clip.duration:g}, a window of {manifest.name}")
    # Super-resolution is not evaluated, so it is not loaded.
    base_only = replace(manifest, config=replace(config, sr=None), sr_weights=None)
    pipeline = Pipeline.load(base_only, device, dtype)
    generator = ClipGenerator(pipeline)
    real = {
        split: measured(real_clips(length, split, clips, pipeline.device), length)
        for split in dict.fromkeys(run.split for run in runs)
    }
    # The real clips are conditions, so distances are to other ones.
    others = {split: features_of(each.clips, length) for split, each in real.items()}
    references = {
        split: features_of(real_clips(length, split, clips, pipeline.device, first=clips), length) for split in real
    }
    results = []
    for run in runs:
        watcher.begins(run)
        prompts = real_captions(length, run.split, clips) if has_captions(run, params, manifest) else None
        clips_made, borders = generator.clips(run, params, real[run.split].clips, watcher.clip, prompts)
        made = measured(clips_made, length)
        result = Result(
            run,
            tuple(scores(made.found, real[run.split].found)),
            tuple(fidelity(features_of(generated(run, clips_made), length), others[run.split], references[run.split])),
            seams(run.kind, made, real[run.split], borders, config.clip.frames),
        )
        watcher.ends(run, clips_made, result)
        results.append(result)
    return Evaluation(manifest, clips, length, params, tuple(results))


def measured(clips: Latents, length: ClipSpec) -> Measured:
    """Run the detectors; long clips in smaller batches."""
    return Measured(clips, detect(clips, length, max(1, FRAMES_AT_ONCE // length.frames)))


def seams(kind: str, made: Measured, real: Measured, borders: Sequence[Sequence[int]], window: int) -> Seams | None:
    """Measures at the borders of windows of clips of `kind`, None for clips of one window. `borders`: of the windows of
    each clip's last evaluation."""
    frames, given = made.found.spec.frames, GIVEN.get(kind)
    if frames <= window:
        return None
    whole = [range(window, frames, window)] * made.clips.batch
    return Seams(
        tuple(seam_scores(made, real, whole, given)),
        tuple(seam_scores(made, real, borders, given)),
        tuple(drift(made, real, window, given)),
    )


def generated(run: EvaluationRun, made: Latents) -> Latents:
    """Without the modality that the run was given."""
    return Latents(None if run.kind == "v2a" else made.video, None if run.kind == "a2v" else made.audio)


def plot(evaluation: Evaluation, path: Path) -> None:
    """Plot the measures as bars, floor and ceiling as lines. Raises ImportError if matplotlib is not installed."""
    plot_recorded(json.loads(evaluation.to_json()), path)


def plot_recorded(evaluation: dict[str, Any], path: Path) -> None:
    """As `plot`, from the JSON of an evaluation."""
    from matplotlib.figure import Figure

    runs, possible = evaluation["runs"], SCENE_LABELS if evaluation.get("data") == "scenes" else LABELS
    labels = {name: label for name, label in possible.items() if any(name in run["scores"] for run in runs)}
    figure = Figure(figsize=(3.0 * len(labels), 1.4 + 0.32 * len(runs)), layout="constrained")
    axes = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    for axis, (measure, label) in zip(axes, labels.items(), strict=True):
        for row, run in enumerate(runs):
            for score in (found for name, found in run["scores"].items() if name == measure):
                value = Interval(**score["value"])
                reach = [[error] for error in value.errors]
                axis.barh(row, value.value, color="#c8553d" if run["split"] == "train" else "#e6a57e")
                axis.errorbar(value.value, row, xerr=reach, color="#222", capsize=2, linewidth=1)
                for mark, style in ((score["floor"]["value"], ":"), (score["ceiling"]["value"], "-")):
                    axis.plot([mark, mark], [row - 0.45, row + 0.45], color="#444", linestyle=style, linewidth=1.5)
        axis.set_title(label, fontsize=10)
        axis.set_yticks(range(len(runs)), [run["name"] for run in runs], fontsize=9)
        axis.set_ylim(len(runs) - 0.4, -0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{evaluation['model']}, {evaluation['clips']} clips; dotted: shuffled pairs, solid: real clips", fontsize=10
    )
    figure.savefig(path, dpi=120)
