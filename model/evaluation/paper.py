"""The paper's evaluation (Ruan et al., 2023, section 4): FVD, KVD and FAD of joint clips against real ones.

Clips have the size of the base network, and only the first audio channel of a film is used, as in the published
evaluation. Each run makes new clips and draws new windows of the real films; the result is the mean over runs, their
standard deviation, and a bootstrap interval of the mean. Features are kept in a folder as they come, so that an
evaluation that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.evaluation.distances import RESAMPLES, estimate, frechet_distance, kernel_distance
from model.evaluation.generation import ClipGenerator, EvaluationError
from model.evaluation.published.audioclip import PUBLISHED_BATCH, RATE, AudioClipHead
from model.evaluation.published.i3d import I3D, MIN_FRAMES, RESOLUTION, preprocess
from model.evaluation.published.weights import AUDIOCLIP_FILE, I3D_FILE, Loaded, WeightFile, load, require
from model.evaluation.reference_clips import FilmWindow, ReferenceClips
from model.media.resampling import resample
from model.networks.config import ClipSpec
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline

FRAMES, FPS = 16, 10
"""Frames of a clip and per second. Other models can be measured too; the report says what they have."""

PUBLISHED_CLIPS = 2048
"""Clips of each run, as published."""

FAD_SCALE = 10_000
CHUNK = 32
"""Clips whose features are written together; a multiple of AudioCLIP's batch."""

VIDEO, AUDIO, AUDIO_ALONE = "i3d_logits", "audioclip_published", "audioclip_alone"
"""Features by name: logits, and sound embeddings as published and of each clip by itself."""

Features = dict[str, Tensor]
Clips = tuple[Tensor, Tensor]
"""Frames (clips, frames, 3, height, width) as bytes, and sounds (clips, samples) at 44.1 kHz."""


@dataclass(frozen=True)
class Extractors:
    """The two networks, on the device of the evaluation."""

    i3d: Loaded[I3D]
    audioclip: Loaded[AudioClipHead]
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Extractors:
        """Raises WeightsMissing, and CheckpointError for files that do not fit."""
        require(folder, I3D_FILE, AUDIOCLIP_FILE)
        loaded = cls(load(I3D_FILE, folder), load(AUDIOCLIP_FILE, folder), device)
        for network in (loaded.i3d.network, loaded.audioclip.network):
            network.to(device).requires_grad_(False)
        return loaded

    @torch.no_grad()
    def __call__(self, frames: Tensor, sound: Tensor) -> Features:
        batches = frames.to(self.device).split(PUBLISHED_BATCH)
        logits = torch.cat([self.i3d.network(preprocess(batch)) for batch in batches])
        head, sound = self.audioclip.network, sound.to(self.device)
        found = {VIDEO: logits, AUDIO: head.embed(sound), AUDIO_ALONE: head.embed(sound, published=False)}
        return {name: value.cpu() for name, value in found.items()}


@dataclass(frozen=True)
class Statistic:
    """A measure over runs. `deviation` is None for one run. `halves`: half the widths of the runs' bootstrap intervals
    of 95 %, for clips drawn anew on both sides."""

    runs: tuple[float, ...]
    halves: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return sum(self.runs) / len(self.runs)

    @property
    def deviation(self) -> float | None:
        return float(torch.tensor(self.runs, dtype=torch.float64).std()) if len(self.runs) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean, since the runs' clips are independent; None without a bootstrap."""
        if not self.halves:
            return None
        half = sum(half**2 for half in self.halves) ** 0.5 / len(self.halves)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class PaperEvaluation:
    """The measures by name, and the protocol: all that must be equal for numbers to compare."""

    protocol: dict[str, Any]
    measures: dict[str, Statistic]

    def to_json(self) -> str:
        found = {
            name: {
                "mean": each.mean,
                "deviation": each.deviation,
                "runs": each.runs,
                "interval_of_the_mean": each.interval,
                "half_intervals_of_the_runs": each.halves,
                **MEASURES[name].protocol,
            }
            for name, each in self.measures.items()
        }
        return json.dumps({"measures": found, "protocol": self.protocol}, indent=2) + "\n"


@dataclass(frozen=True)
class PaperMeasure:
    """A distance of one kind of features, its scale, and a sentence on what it is."""

    features: str
    distance: Callable[[Tensor, Tensor], float]
    scale: float
    what: str

    @property
    def protocol(self) -> dict[str, Any]:
        return {"features": self.features, "scale": self.scale, "what": self.what}


MEASURES = {
    "FVD": PaperMeasure(VIDEO, frechet_distance, 1, "Fréchet distance of I3D's logits"),
    "KVD": PaperMeasure(VIDEO, kernel_distance, 1, "unbiased MMD² of I3D's logits, kernel (x·y/400 + 1)³"),
    "FAD": PaperMeasure(
        AUDIO,
        frechet_distance,
        FAD_SCALE,
        "Fréchet distance of AudioCLIP's embeddings, batch norm over eight clips and waveforms in ±1, as published",
    ),
    "FAD, each clip alone": PaperMeasure(
        AUDIO_ALONE, frechet_distance, FAD_SCALE, "as FAD, with AudioCLIP as its authors meant it to be used"
    ),
}


@dataclass(frozen=True)
class PaperPlan:
    """What is computed: `clips` joint clips in each of `runs` runs. Run r makes clip i from the seed (params.seed + r,
    i), and draws the real windows with the seed params.seed + r."""

    params: SamplingParams
    clips: int = 2048
    runs: int = 6
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if self.clips < PUBLISHED_BATCH or self.clips % PUBLISHED_BATCH:
            raise EvaluationError(
                f"clips must be a multiple of {PUBLISHED_BATCH}, the batch of the published FAD; got {self.clips}"
            )
        if self.runs < 1:
            raise EvaluationError(f"runs must be at least 1; got {self.runs}")
        if self.resamples < 2:
            raise EvaluationError(f"resamples must be at least 2; got {self.resamples}")


def evaluate(
    manifest: Manifest,
    plan: PaperPlan,
    reference: Path,
    weights: Path,
    work: Path,
    on_clips: Callable[[int], None],
    device: str = "auto",
    dtype: str = "auto",
) -> PaperEvaluation:
    """Run `plan`, with features in the folder `work`; `on_clips` hears how many clips more are done, real ones too.

    Raises EvaluationError, NoReference, WeightsMissing, RequestError, and CheckpointError for weights that do not fit.
    """
    if not manifest.config.base.coupled:
        raise EvaluationError(f"the model {manifest.name} has one modality only; FVD and FAD are of joint clips")
    if manifest.config.clip.frames < MIN_FRAMES:
        raise EvaluationError(f"I3D takes {MIN_FRAMES} frames or more; clips of {manifest.name} have fewer")
    require(weights, I3D_FILE, AUDIOCLIP_FILE)
    real = ReferenceClips(reference, replace(manifest.config.clip, sample_rate=RATE), first_channel=True)
    _ = real.windows  # before anything is computed
    params = replace(plan.params, super_resolution=False)
    params.resolve("generate", manifest)
    pipeline = Pipeline.load(
        replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None), device, dtype
    )
    extractors = Extractors.load(weights, pipeline.device)
    protocol = _protocol(manifest, plan, params, real, extractors) | {"dtype": str(pipeline.evaluator.dtype)}
    kept = FeatureFolder(work, protocol)
    # The folder's name is reported, but an evaluation that was interrupted goes on where it has been renamed.
    protocol["reference"] = {"folder": real.folder.resolve().name, **protocol["reference"]}
    generator = ClipGenerator(pipeline)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}
    for run in range(plan.runs):
        seeded = replace(params, seed=params.seed + run)
        drawn = real.drawn(plan.clips, seeded.seed)

        def make(indexes: range, seeded: SamplingParams = seeded) -> Clips:
            return _generated(generator, seeded, indexes)

        def read(indexes: range, drawn: Sequence[FilmWindow] = drawn) -> Clips:
            return _stacked(real.load(drawn[index]) for index in indexes)

        fake = kept.collect(f"run-{run}-made", plan.clips, make, extractors, on_clips)
        true = kept.collect(f"run-{run}-real", plan.clips, read, extractors, on_clips)
        for name, measure in MEASURES.items():
            each = estimate(
                measure.distance, fake[measure.features], true[measure.features], seeded.seed, plan.resamples
            )
            found[name].append((measure.scale * each.value, measure.scale * (each.high - each.value)))
    statistics = {
        name: Statistic(*(tuple(column) for column in zip(*each, strict=True))) for name, each in found.items()
    }
    return PaperEvaluation(protocol, statistics)


class FeatureFolder:
    """Features on disk, a file for every CHUNK clips, beside the protocol that they belong to."""

    def __init__(self, folder: Path, protocol: dict[str, Any]) -> None:
        """Raises EvaluationError if the folder has features of another protocol."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, path = folder, folder / "protocol.json"
        text = json.dumps(protocol, indent=2) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise EvaluationError(f"{folder} has features of another evaluation: delete it, or take another folder")
        path.write_text(text, encoding="utf-8")

    def collect(
        self,
        name: str,
        clips: int,
        source: Callable[[range], Clips],
        extractors: Extractors,
        on_clips: Callable[[int], None],
    ) -> Features:
        """Features of all clips; only those that are not on disk are computed."""
        chunks = []
        for first in range(0, clips, CHUNK):
            indexes = range(first, min(first + CHUNK, clips))
            path = self._folder / f"{name}-{first:05d}.safetensors"
            if not path.exists():
                partial = path.with_suffix(".partial")
                save_file(extractors(*source(indexes)), partial)
                partial.rename(path)
            chunks.append(load_file(path))
            on_clips(len(indexes))
        return {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _generated(generator: ClipGenerator, params: SamplingParams, indexes: range) -> Clips:
    clips = generator.generate("generate", params, indexes)
    rate = generator.pipeline.manifest.config.clip.sample_rate
    samples = replace(generator.pipeline.manifest.config.clip, sample_rate=RATE).samples
    return _stacked(
        (clip.frames.movedim(-1, 1), _fitted(resample(clip.audio, rate, RATE)[0], samples))
        for clip in clips
        if clip.frames is not None and clip.audio is not None
    )


def _fitted(sound: Tensor, samples: int) -> Tensor:
    return torch.nn.functional.pad(sound, (0, max(0, samples - len(sound))))[:samples]


def _stacked(clips: Iterator[tuple[Tensor, Tensor]]) -> Clips:
    frames, sounds = zip(*clips, strict=True)
    return torch.stack(frames), torch.stack(sounds)


def not_as_published(clip: ClipSpec, clips: int, loaded: Mapping[WeightFile[Any], bool]) -> list[str]:
    """What makes the measures incomparable with the paper's: empty if nothing is known to. `loaded`: the weight files,
    and whether each has the known hash. The number of runs changes the spread only."""
    found = []
    if (clip.frames, clip.fps, clip.height, clip.width) != (FRAMES, FPS, 64, 64):
        found.append(f"the paper's clips are {FRAMES} frames of 64x64 at {FPS} Hz")
    if clips != PUBLISHED_CLIPS:
        found.append(
            f"the paper's runs have {PUBLISHED_CLIPS:,} clips, and the bias of FVD and FAD depends on their number"
        )
    found += [f"{file.name} is not {file.copy}" for file, known in loaded.items() if file.of_paper and not known]
    return found


def not_known(loaded: Mapping[WeightFile[Any], bool]) -> list[str]:
    """Weight files that may or may not be the paper's; `loaded` as above."""
    return [
        f"{file.name} is not {file.copy}, and the hash of the paper's file is not recorded"
        for file, known in loaded.items()
        if not file.of_paper and not known
    ]


def _protocol(
    manifest: Manifest, plan: PaperPlan, params: SamplingParams, real: ReferenceClips, extractors: Extractors
) -> dict[str, Any]:
    clip = manifest.config.clip
    films = sorted({window.path for window in real.windows})
    listing = "\n".join(f"{path.relative_to(real.folder)} {path.stat().st_size}" for path in films)
    files: dict[WeightFile[Any], Loaded[Any]] = {I3D_FILE: extractors.i3d, AUDIOCLIP_FILE: extractors.audioclip}
    known = {file: loaded.published for file, loaded in files.items()}
    return {
        "model": manifest.name,
        "weights": manifest.weights_hash,
        "clips": plan.clips,
        "runs": plan.runs,
        "resamples": plan.resamples,
        "params": {name: value for name, value in asdict(params).items() if value is not None},
        "frames": clip.frames,
        "fps": clip.fps,
        "size": [clip.height, clip.width],
        "size_of_i3d": RESOLUTION,
        "sample_rate": clip.sample_rate,
        "sample_rate_of_audioclip": RATE,
        "not_as_published": not_as_published(clip, plan.clips, known),
        "not_known_to_be_as_published": not_known(known),
        "reference": {
            "audio_channel": "first",
            "films": len(films),
            "windows": len(real.windows),
            "sha256_of_names_and_sizes": hashlib.sha256(listing.encode()).hexdigest(),
        },
        "extractors": {
            file.name: {"sha256": loaded.sha256, "known_hash": loaded.published, "known_copy": file.copy}
            for file, loaded in files.items()
        },
        "precision_of_distances": "float64",
    }
