"""Looks for copies: the nearest training clip of each sample, by features of both modalities.

A sample near a training clip means nothing by itself: real clips that were never trained on have near ones too. So the
same distances of held-out real clips say how near chance comes.
"""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet
from model.evaluation.fidelity import AT_ONCE, LEAST_SPREAD
from model.evaluation.gradient_features import gradient_features
from model.evaluation.mel_features import mel_features
from model.evaluation.reference_clips import ReferenceClips
from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import Bounce
from model.training.publish import recorded_data

QUIET = 0.01
"""Magnitude in a mel band, relative to full scale, below which levels hardly differ: a little hiss hides no copy."""

CHANCE = 0.01
"""A sample is suspicious if its distance is below this quantile of the held-out clips' distances."""


@dataclass(frozen=True)
class NamedClips:
    """Clips, and where each comes from."""

    clips: Latents
    names: tuple[str, ...]


@dataclass(frozen=True)
class Memorisation:
    """Distances of samples and of held-out clips to their nearest training clips, and which those are. `limit` is the
    quantile CHANCE of `held_out`."""

    distance: Tensor
    nearest: Tensor
    held_out: Tensor
    limit: float

    @property
    def suspicious(self) -> Tensor:
        """Numbers of the samples below the limit, the nearest first."""
        order = self.distance.argsort()
        return order[self.distance[order] < self.limit]

    @property
    def chance(self) -> float:
        """Probability that a sample like the n held-out clips is below the limit, which is at their rank
        1 + CHANCE (n - 1): that rank over n + 1."""
        count = len(self.held_out)
        return (1 + CHANCE * (count - 1)) / (count + 1)

    def to_json(self, training: NamedClips) -> str:
        data = {
            "samples": [
                {"distance": distance, "nearest": training.names[index]}
                for distance, index in zip(self.distance.tolist(), self.nearest.tolist(), strict=True)
            ],
            "held_out": self.held_out.tolist(),
            "limit": self.limit,
            "suspicious": self.suspicious.tolist(),
            "expected_by_chance": self.chance * len(self.distance),
        }
        return json.dumps(data, indent=2) + "\n"


def memorisation(samples: Latents, training: Latents, held_out: Latents, spec: ClipSpec) -> Memorisation:
    """Compare all with the training clips. Each feature is divided by its standard deviation over them, and both
    modalities have equal weight: unrelated clips are about 2 apart. Raises ValueError for fewer than two clips."""
    if min(samples.batch, training.batch, held_out.batch) < 2:
        raise ValueError("samples, training clips and held-out clips must be at least 2 each")
    known = _features(training, spec)
    divisor = known.std(0).clamp(min=LEAST_SPREAD)
    weight = _weight(training, spec) / divisor
    (distance, nearest), (other, _) = (
        _nearest(_features(clips, spec) * weight, known * weight) for clips in (samples, held_out)
    )
    return Memorisation(distance, nearest, other, float(other.quantile(CHANCE)))


def _nearest(clips: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    # Not by a matrix product, whose rounding hides that a copy has distance 0.
    found = torch.cdist(clips, known, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def _features(clips: Latents, spec: ClipSpec) -> Tensor:
    return torch.cat([torch.cat(_both(part, spec), dim=1) for part in _parts(clips)]).double()


def _both(clips: Latents, spec: ClipSpec) -> list[Tensor]:
    return [mel_features(clips["audio"][:, 0], spec.sample_rate, QUIET), gradient_features(clips["video"])]


def _weight(clips: Latents, spec: ClipSpec) -> Tensor:
    """One over the root of the number of features of the modality, for each feature."""
    few = clips.map(lambda value: value[:1])
    return torch.cat([torch.full((each.shape[1],), each.shape[1] ** -0.5) for each in _both(few, spec)]).double()


def _parts(clips: Latents) -> list[Latents]:
    return clips.split([len(part) for part in torch.arange(clips.batch).split(AT_ONCE)])


class OtherTrainingData(ValueError):
    """The model was not trained on `bounce`; the message says on what."""


def seed_of(manifest: Manifest) -> int:
    """`data.seed` in the record of the model's training on `bounce`; 0, the default of trainings, without a record.
    Raises OtherTrainingData."""
    data = recorded_data(manifest.folder)
    if data is None:
        return 0
    if data["source"] != "bounce":
        raise OtherTrainingData(
            f"the model {manifest.name} was trained on {data['source']}, not on bounce; compare it with films by "
            f"--training and --held-out, or with bounce by --data-seed"
        )
    return int(data["seed"])


def bounce_clips(spec: ClipSpec, seed: int, count: int, first: int = 0) -> NamedClips:
    """Training clips of `bounce`, as a run with this `data.seed` sees them."""
    clips = Bounce(spec, seed, "train").batch(torch.arange(first, first + count))
    return NamedClips(clips, tuple(f"bounce, seed {seed}, number {number}" for number in range(first, first + count)))


def film_clips(folder: Path, spec: ClipSpec, count: int, seed: int) -> NamedClips:
    """At most `count` windows of the films in `folder`, in a random order. Raises NoReference."""
    source = ReferenceClips(folder, spec)
    windows = source.drawn(min(count, len(source.windows)), seed)
    loaded = [source.load(window) for window in windows]
    video = torch.stack([frames for frames, _ in loaded]).float() / 127.5 - 1
    names = (f"{window.path.relative_to(folder)} from {window.first / spec.fps:g} s" for window in windows)
    return NamedClips(Latents(video, torch.stack([sound[None] for _, sound in loaded])), tuple(names))


def write_pairs(
    found: Memorisation, samples: Latents, training: NamedClips, spec: ClipSpec, path: Path, shown: int
) -> None:
    """A page of the `shown` nearest pairs: frames and spectrograms of the sample, above those of the training clip."""
    parts = []
    for number in found.distance.argsort()[:shown].tolist():
        nearest = int(found.nearest[number])
        pair = samples.map(
            lambda made, known, a=number, b=nearest: torch.stack([made[a].cpu(), known[b].cpu()]), training.clips
        )
        below = ", below the limit" if found.distance[number] < found.limit else ""
        caption = f"sample {number}: {found.distance[number]:.3f} from {training.names[nearest]}{below}"
        images = [_image(contact_sheet(pair)), _image(spectrogram_sheet(pair, spec))]
        parts.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{''.join(images)}</figure>")
    title = f"{len(found.suspicious)} of {len(found.distance)} samples are nearer than {found.limit:.3f}"
    style = "body{font:16px sans-serif;margin:2em}figure{margin:0 0 2em}img{display:block;max-width:100%}"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Nearest training clips</title>'
        f"<style>{style}</style><h1>Nearest training clips</h1><p>{title}, the {CHANCE:.0%} quantile of held-out "
        f"clips. Above: the sample; below: the training clip. Left and right: their sounds.</p>"
        f"{''.join(parts)}</html>\n",
        encoding="utf-8",
    )


def _image(picture: object) -> str:
    file = io.BytesIO()
    picture.save(file, "png")  # type: ignore[attr-defined]
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
