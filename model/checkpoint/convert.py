"""Converts published MM-Diffusion checkpoints to a model folder: safetensors and a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from model.checkpoint.loading import (
    CheckpointError,
    infer_base_config,
    infer_sr_config,
    load_base,
    load_sr,
    read_published,
    save_model,
)
from model.checkpoint.manifest import FILE_NAME, Manifest
from model.networks.config import PRESETS, ClipSpec, ModelConfig, ScheduleConfig

UNKNOWN_LICENCE = "Not stated. Ask the authors of the checkpoint before you publish what it makes."


@dataclass(frozen=True)
class Conversion:
    """Facts that a checkpoint does not contain. The defaults are those of the published models.

    `infer` reads the architecture from the tensors instead of requiring the published one; heads and windows cannot be
    inferred and are given here. `mirrored`: trained on clips flipped left to right, as all clips of the published code
    are; the pipeline flips inputs and outputs.
    """

    clip: ClipSpec = field(default_factory=ClipSpec)
    infer: bool = False
    heads: int = 4
    head_channels: int = 64
    windows: tuple[int, ...] = (1, 4, 8)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    licence: str = UNKNOWN_LICENCE
    description: str = ""
    mirrored: bool = True
    independent_timesteps: bool = False


def convert(base: Path, sr: Path | None, name: str, out: Path, options: Conversion | None = None) -> Manifest:
    """Read `base` and `sr`, check every tensor, and write `model.json` and the weights into the folder `out`.

    Raises CheckpointError for a file that cannot be read, has missing, extra or misshapen tensors (all are listed), or
    if `out` already holds a model; ConfigError if the architecture does not fit the clip. In these cases nothing is
    written.
    """
    options = options or Conversion()
    if (out / FILE_NAME).exists():
        raise CheckpointError(f"{out / FILE_NAME} exists already: convert into another folder, or remove it first")
    base_state = read_published(base)
    sr_state = read_published(sr) if sr is not None else None
    paper = PRESETS["paper"]
    base_config, sr_config = paper.base, paper.sr if sr_state is not None else None
    if options.infer:
        base_config = infer_base_config(base_state, options.heads, options.head_channels, options.windows)
        sr_config = infer_sr_config(sr_state, options.heads) if sr_state is not None else None
    config = ModelConfig(clip=options.clip, base=base_config, sr=sr_config, schedule=options.schedule)
    with _naming(base):
        base_network = load_base(base_state, base_config)
    sr_network = None
    if sr is not None and sr_state is not None and sr_config is not None:
        with _naming(sr):
            sr_network = load_sr(sr_state, sr_config)
    files = [path for path in (base, sr) if path is not None]
    manifest = Manifest(
        name=name,
        config=config,
        trained=True,
        description=options.description or f"Converted from {' and '.join(path.name for path in files)}.",
        licence=options.licence,
        base_weights="base.safetensors",
        sr_weights="sr.safetensors" if sr_network is not None else None,
        independent_timesteps=options.independent_timesteps,
        mirrored=options.mirrored,
        sources={path.name: _sha256(path) for path in files},
        folder=out,
    )
    save_model(manifest, base_network, sr_network)
    return manifest


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Prefix errors with the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
