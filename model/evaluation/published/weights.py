"""Weight files of the networks that measure: read strictly, and known by their SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from model.checkpoint.loading import read_published, require_layout
from model.evaluation.published.audioclip import AudioClipHead
from model.evaluation.published.i3d import I3D

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class WeightFile(Generic[N]):
    """A file that users bring. `sha256` is that of the published file, None where it is not known.

    The names of the network's tensors begin with `prefix`; other tensors of the file are left alone.
    """

    name: str
    network: type[N]
    what: str
    source: str
    sha256: str | None = None
    prefix: str = ""


I3D_FILE = WeightFile(
    "i3d_pretrained_400.pt",
    I3D,
    "I3D on Kinetics-400, for FVD and KVD; 51 MB",
    "the weights that VideoGPT and MM-Diffusion download for FVD",
)
AUDIOCLIP_FILE = WeightFile(
    "AudioCLIP-Full-Training.pt",
    AudioClipHead,
    "AudioCLIP, for FAD; 537,302,068 bytes",
    "release v0.1 of AudioCLIP by its authors (AndreyGuzhov/AudioCLIP on GitHub)",
    "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
    prefix="audio.",
)


class WeightsMissing(FileNotFoundError):
    """The folder lacks a weight file; the message names the files and where they come from."""


@dataclass(frozen=True)
class Loaded(Generic[N]):
    """A network with its weights, and the hash of their file. `published`: the file is the one that is known."""

    network: N
    sha256: str
    published: bool


def load(file: WeightFile[N], folder: Path) -> Loaded[N]:
    """Read `file` in `folder`. Raises WeightsMissing, and CheckpointError where tensors are missing, unknown or of
    another shape."""
    require(folder, file)
    path = folder / file.name
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    tensors = {
        name.removeprefix(file.prefix): value
        for name, value in read_published(path).items()
        if name.startswith(file.prefix)
    }
    network = file.network()
    require_layout(tensors, {name: tuple(value.shape) for name, value in network.state_dict().items()})
    network.load_state_dict(tensors)
    return Loaded(network, digest, digest == file.sha256)


def require(folder: Path, *files: WeightFile[Any]) -> None:
    """Raises WeightsMissing for every file that `folder` lacks, before anything is computed."""
    missing = [file for file in files if not (folder / file.name).is_file()]
    if missing:
        lines = "".join(f"\n  {file.name}: {file.what}; {file.source}" for file in missing)
        raise WeightsMissing(f"{folder} lacks weights that the measures need:{lines}\nSee docs/evaluation.md.")
