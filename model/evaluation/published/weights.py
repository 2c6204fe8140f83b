"""Weight files of the networks that measure: read strictly, and identified by their SHA-256.

The hashes are those of pointer files in public repositories, which record a file's SHA-256 and size without the file:
AudioCLIP's authors committed theirs as `assets/AudioCLIP-Full-Training.pt`. I3D's is of the copy in Open-Sora-Plan
v1.0.0; the file behind the link of VideoGPT and MM-Diffusion has the same name and layout, but no recorded hash.
"""

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
    """A file that users bring. `sha256` is that of `copy`, a published copy of the file.

    `of_paper`: the paper's code downloads that copy. Otherwise the hash of the file that it downloads is not recorded.

    The names of the network's tensors begin with `prefix`; other tensors of the file are left alone.
    """

    name: str
    network: type[N]
    what: str
    source: str
    sha256: str
    copy: str
    of_paper: bool
    prefix: str = ""


I3D_FILE = WeightFile(
    "i3d_pretrained_400.pt",
    I3D,
    "I3D on Kinetics-400, for FVD and KVD; 50,939,526 bytes",
    "the file that MM-Diffusion's evaluations/fvd/download.py fetches, originally from VideoGPT",
    "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
    "the copy in Open-Sora-Plan v1.0.0",
    of_paper=False,
)
AUDIOCLIP_FILE = WeightFile(
    "AudioCLIP-Full-Training.pt",
    AudioClipHead,
    "AudioCLIP, for FAD; 537,302,068 bytes",
    "release v0.1 of AudioCLIP by its authors (AndreyGuzhov/AudioCLIP on GitHub)",
    "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
    "the file that its authors released",
    of_paper=True,
    prefix="audio.",
)


class WeightsMissing(FileNotFoundError):
    """The folder lacks a weight file; the message names the files and where they come from."""


@dataclass(frozen=True)
class Loaded(Generic[N]):
    """A network with its weights, and the hash of their file. `published`: the hash is that of the published copy."""

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
