"""Evaluation of a model that was trained on `scenes`: prompted clips, and a modality for real ones of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.checkpoint.manifest import Manifest
from model.evaluation.bootstrap import scores
from model.evaluation.fidelity import FOR_ANY_CLIPS, features_of, fidelity
from model.evaluation.generation import (
    REAL_SEED,
    SPLITS,
    ClipGenerator,
    EvaluationError,
    EvaluationRun,
    check_runs,
    has_captions,
)
from model.evaluation.report import Evaluation, Result, Watcher, generated
from model.evaluation.scene_measures import SCENE_MEASURES, WITHOUT_PROMPT, detect_scenes
from model.networks.config import MODALITIES, ClipSpec
from model.request import SamplingParams, clip_of
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.training.publish import recorded_data
from model.training.scenes import Scenes, Split, Truth
from model.training.scenes.kinds import KINDS


@dataclass(frozen=True)
class RealScenes:
    """Real clips, their truth, and their captions with every attribute."""

    clips: Latents
    truth: Truth
    captions: list[str]


def data_of(manifest: Manifest) -> str:
    """The procedural data set that the model was trained on, from the record of its training; else bounce."""
    data = recorded_data(manifest.folder)
    return "scenes" if data is not None and data["source"] == "scenes" else "bounce"


def real_scenes(
    clip: ClipSpec, split: Split, count: int, device: torch.device | str = "cpu", first: int = 0
) -> RealScenes:
    """`count` clips from number `first` on, in the format `clip`, on the CPU."""
    data = Scenes(clip, REAL_SEED, split)
    indexes = torch.arange(first, first + count)
    parts = [data.batch(some, device).map(torch.Tensor.cpu) for some in indexes.split(128)]
    clips = Latents(*(torch.cat([part[name] for part in parts]) for name in MODALITIES))
    return RealScenes(clips, data.truth(indexes), data.captions(indexes, complete=True))


def plan_scenes(runs: Sequence[EvaluationRun], manifest: Manifest, held_out: bool) -> list[EvaluationRun]:
    """The runs for `scenes`: joint clips also with prompts of combinations that training never sees, if the model takes
    prompts."""
    if manifest.text is None or not held_out:
        return list(runs)
    joint = [run for run in runs if run.kind == "joint"]
    unseen = [replace(run, split=split) for run in joint for split in SPLITS]
    return unseen + [run for run in runs if run.kind != "joint"]


def evaluate_scenes(
    manifest: Manifest,
    runs: Sequence[EvaluationRun],
    clips: int,
    params: SamplingParams,
    watcher: Watcher,
    device: str = "auto",
    dtype: str = "auto",
) -> Evaluation:
    """Generate and measure `clips` clips for every run, joint ones with a prompt for each clip if the model takes
    prompts. Raises as `report.evaluate`, and EvaluationError unless `clips` is a multiple of 8, at least 16."""
    if clips % len(KINDS) or clips < 2 * len(KINDS):
        raise EvaluationError(f"clips must be a multiple of {len(KINDS)}, at least {2 * len(KINDS)}; got {clips}")
    params = check_runs(runs, params, manifest)
    length = clip_of(params.duration, manifest.config.clip)
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    pipeline = Pipeline.load(base_only, device, dtype)
    generator = ClipGenerator(pipeline)
    results = []
    for split in dict.fromkeys(run.split for run in runs):
        real = real_scenes(length, split, clips, pipeline.device)
        found_real = detect_scenes(real.clips, real.truth, length)
        others = features_of(real.clips, length)
        reference = features_of(real_scenes(length, split, clips, pipeline.device, first=clips).clips, length)
        for run in (each for each in runs if each.split == split):
            watcher.begins(run)
            prompts = real.captions if has_captions(run, params, manifest) else None
            made, _ = generator.clips(run, params, real.clips, watcher.clip, prompts)
            asked = run.kind != "joint" or prompts is not None
            measures = [each for each in SCENE_MEASURES if asked or each.name in WITHOUT_PROMPT]
            own = {
                name: value
                for name, value in features_of(generated(run, made), length).items()
                if name in FOR_ANY_CLIPS
            }
            result = Result(
                run,
                tuple(scores(detect_scenes(made, real.truth, length), found_real, measures=measures)),
                tuple(fidelity(own, others, reference)),
                None,
            )
            watcher.ends(run, made, result)
            results.append(result)
    results.sort(key=lambda result: runs.index(result.run))
    return Evaluation(manifest, clips, length, params, tuple(results), "scenes")
