"""Publishes a run as a servable model: averaged weights, manifest, calibration, and the record of the training."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from model.checkpoint.loading import CheckpointError, load_model
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.networks.config import ModelConfig
from model.runtime.calibration import calibrate
from model.runtime.evaluator import Evaluator
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.captions import text_encoding
from model.training.checkpoints import StateError, check_same_run, checkpoints, read_checkpoint, write_atomically
from model.training.configuration import TrainingConfig, configuration_from_json
from model.training.dataset import Source, evaluation_indexes
from model.training.sources import open_sources
from model.training.training_log import COUPLING, LOSSES, read_rows

CALIBRATION_TIMES = 33
CHUNK = 8
"""Clips per batch during calibration."""
EXAMPLES = 8
"""Captions of samples that are published as examples of prompts."""
CURVE_POINTS = 1000
"""Maximum number of lines of a published loss curve; each is the mean over a span of steps."""


def recorded_data(model: Path) -> dict[str, Any] | None:
    """The table [data] of the training of the base network in the folder `model`; None without a record."""
    record = model / "training-base.json"
    return json.loads(record.read_text(encoding="utf-8"))["data"] if record.is_file() else None


def recorded_configuration(model: Path, network: str = "base") -> TrainingConfig:
    """The configuration of the training of the base network in the folder `model`, or of `network` "sr". Raises
    StateError without a record, ConfigurationError if it is not valid."""
    record = model / f"training-{network}.json"
    if not record.is_file():
        raise StateError(f"{record} is missing: it says on which data the network was trained")
    recorded = json.loads(record.read_text(encoding="utf-8"))
    return configuration_from_json(json.dumps({k: v for k, v in recorded.items() if k not in ("step", "seconds")}))


def newest_checkpoint(out: Path) -> Path:
    """The last checkpoint of the run in `out`. Raises StateError if there is none."""
    found = checkpoints(out / "checkpoints")
    if not found:
        raise StateError(f"{out} has no checkpoint yet")
    return found[-1]


def publish(config: TrainingConfig, out: Path, folder: Path, dtype: torch.dtype) -> Manifest:
    """Write the averaged weights of the run in `out`, with manifest, record and curves, to the model `folder`.

    A base run creates the model; a super-resolution run adds to the model in `folder`. Raises StateError if the run has
    no checkpoint or another configuration, CheckpointError if the two networks do not fit together.
    """
    path = newest_checkpoint(out)
    content = read_checkpoint(path)
    check_same_run(path, content["config"], config)
    part = "sr" if config.kind == "sr" else "base"
    held = read_manifest(folder / FILE_NAME) if (folder / FILE_NAME).exists() else None
    manifest = _joined(config, held, folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(dtype).contiguous() for name, value in content["average"].items()}
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise StateError(f"{path}: a weight is too large for {str(dtype).removeprefix('torch.')}: publish as float32")
    data = save(weights)
    write_atomically(folder / f"{part}.safetensors", lambda file: file.write(data))
    write_atomically(folder / f"training-{part}.json", lambda file: file.write(_record(config, content).encode()))
    for name, log in (("losses", LOSSES), ("coupling", COUPLING)):
        target = folder / f"{name}-{part}.csv"
        if (out / log).exists():
            curve = _curve(out / log)
            write_atomically(target, lambda file, curve=curve: file.write(curve.encode()))
        else:
            target.unlink(missing_ok=True)  # it belongs to the previous weights
    write_atomically(folder / FILE_NAME, lambda file: file.write(manifest.to_json().encode()))
    return manifest


def calibrate_published(
    manifest: Manifest,
    config: TrainingConfig,
    source: Source,
    device: torch.device,
    say: Callable[[str], None],
    points: int | None = None,
) -> None:
    """Measure the error of the published network on held-out clips at `points` times, and store it in the manifest."""
    base, _ = load_model(replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None), device)
    evaluator = Evaluator(base, None, NoiseSchedule.from_config(manifest.config.schedule))
    numbers = evaluation_indexes(config.output.calibration_clips)

    def clips() -> Iterator[Latents]:
        for part in numbers.split(CHUNK):
            yield source.batch(part, device)

    limits = manifest.config.base.max_shifts(manifest.config.clip.frames)
    curve = calibrate(evaluator, clips(), limits, points or CALIBRATION_TIMES, config.seed)
    text = _with_examples(manifest.with_calibration(curve), source).to_json()
    write_atomically(manifest.folder / FILE_NAME, lambda file: file.write(text.encode()))
    say(f"calibrated on {len(numbers)} clips")


def calibrate_on_own_data(folder: Path, count: int, points: int, device: str) -> None:
    """Calibrate the model in `folder` on `count` held-out clips of the procedural data set that it was trained on.

    Raises ManifestError, and CheckpointError if it has one modality only or was trained on videos; otherwise as
    `recorded_configuration`.
    """
    manifest, recorded = read_manifest(folder / FILE_NAME), recorded_configuration(folder)
    if not manifest.config.base.coupled:
        raise CheckpointError(f"the model {manifest.name} has one modality only: there is nothing to calibrate")
    if recorded.data.source == "folder":
        raise CheckpointError(f"the model {manifest.name} was trained on videos: name a folder of validation videos")
    config = replace(recorded, output=replace(recorded.output, calibration_clips=count))
    calibrate_on_training_data(manifest, config, folder, lambda line: None, device, points)


def calibrate_on_training_data(
    manifest: Manifest,
    config: TrainingConfig,
    work: Path,
    say: Callable[[str], None],
    device: str = "auto",
    points: int | None = None,
) -> None:
    """As `calibrate_published`, on clips of the data of `config` that were held out. `work`: for files of the data
    set. Raises DataError."""
    _, source = open_sources(config, work, say)
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    calibrate_published(manifest, config, source, place, say, points)


def _with_examples(manifest: Manifest, source: Source) -> Manifest:
    """The manifest with captions of held-out samples as examples of prompts, if it has none."""
    if manifest.text is None or manifest.text.examples:
        return manifest
    captions = source.captions(evaluation_indexes(EXAMPLES)) or []
    return replace(manifest, text=replace(manifest.text, examples=tuple(dict.fromkeys(filter(None, captions)))))


def _joined(config: TrainingConfig, held: Manifest | None, folder: Path) -> Manifest:
    if config.kind == "sr":
        if held is None or held.base_weights is None:
            raise CheckpointError(f"{folder} has no base model to add super-resolution to: publish that first")
        if held.config.clip != config.model.clip:
            raise CheckpointError(f"{folder} makes {held.config.clip}, this super-resolution takes {config.model.clip}")
        if held.config.schedule != config.model.schedule:
            raise CheckpointError(f"{folder} has the schedule {held.config.schedule}, not {config.model.schedule}")
        tuned = replace(held.tuned, sr_hash=None, sr={}) if held.tuned is not None else None
        return replace(held, config=replace(held.config, sr=config.model.sr), sr_weights="sr.safetensors", tuned=tuned)
    fits = held is not None and held.sr_weights is not None and held.config.clip == config.model.clip
    model = ModelConfig(
        config.model.clip, config.model.base, held.config.sr if held and fits else None, config.model.schedule
    )
    return Manifest(
        name=config.name,
        config=model,
        trained=True,
        description=config.description,
        licence=config.licence,
        base_weights="base.safetensors",
        sr_weights=held.sr_weights if held and fits else None,
        independent_timesteps=config.times.independent_timesteps,
        text=text_encoding(config.text, held.text if held is not None else None),
        folder=folder,
    )


def _record(config: TrainingConfig, content: dict[str, object]) -> str:
    """Configuration of the run, its steps and seconds, as JSON."""
    recorded = configuration_from_json(str(content["config"]))
    record = {"step": content["step"], "seconds": content["seconds"], **json.loads(recorded.to_json())}
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _curve(path: Path) -> str:
    """A log as CSV, averaged over spans of steps to keep it small."""
    rows = read_rows(path)
    text = io.StringIO()
    if rows:
        # A run resumed with other output settings may have rows with other columns.
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "lr"]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        span = -(-len(rows) // CURVE_POINTS)
        for start in range(0, len(rows), span):
            part = rows[start : start + span]
            writer.writerow([int(part[-1]["step"]), *(_mean(part, name) for name in names[1:])])
    return text.getvalue()


def _mean(rows: list[dict[str, float]], name: str) -> str:
    """Mean over the rows that have `name`; empty if none has."""
    values = [row[name] for row in rows if name in row]
    return f"{sum(values) / len(values):.6g}" if values else ""
