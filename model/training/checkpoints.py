"""Checkpoints of a run, written atomically, and an export in small pieces to move a run to another machine.

A checkpoint holds everything that the next step depends on: weights, their average, the optimiser's moments, the step.
It holds no random state: the random numbers of a step depend on the seed and the step's number only.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from model.training.configuration import TrainingConfig, configuration_from_json, differences

FORMAT = 1
PIECE_BYTES = 15 * 2**20
PIECES = "state.json"
"""The index of an exported state: its pieces, their digests, the step and the configuration."""


class StateError(ValueError):
    """A training state that cannot be read, or belongs to another run; the message says why."""


@dataclass
class State:
    """What training changes. `since` is the step at which the optimiser started: warm-up counts from there."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    since: int = 0
    seconds: float = 0.0


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(file)`, and give the file the name `path` only once it is synced to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(waiting, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    finally:
        waiting.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def save_checkpoint(folder: Path, state: State, config: TrainingConfig, keep: int) -> Path:
    """Write step-NNNNNNNN.pt into `folder` and remove all but the newest `keep`."""
    path = folder / f"step-{state.step:08d}.pt"
    content = {
        "format": FORMAT,
        "config": config.to_json(),
        "step": state.step,
        "since": state.since,
        "seconds": state.seconds,
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    write_atomically(path, lambda file: torch.save(content, file))
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    for left in folder.glob(".step-*.part"):  # from a run that was killed while writing
        left.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", path.stem))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nothing in the file is executed. Raises StateError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise StateError(f"{path} cannot be read as a training checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StateError(f"{path} is not a training checkpoint of this version")
    return content


def load_checkpoint(path: Path, state: State, config: TrainingConfig) -> None:
    """Continue from `path`. Raises StateError, listing every difference, if its run had another configuration."""
    content = read_checkpoint(path)
    check_same_run(path, content["config"], config)
    state.network.load_state_dict(content["network"])
    state.average.load_state_dict(content["average"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.since, state.seconds = content["step"], content["since"], content["seconds"]


def check_same_run(path: Path, recorded: str, config: TrainingConfig) -> None:
    """Raise StateError if a run with the configuration `recorded` cannot continue with `config`."""
    found = differences(configuration_from_json(recorded), config)
    if found:
        raise StateError(f"{path} belongs to a run with another configuration:\n  " + "\n  ".join(found))


def export_state(content: dict[str, Any], folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write the weights and averaged weights in a checkpoint's `content`, cast to `dtype`, as files of at most 15 MiB.

    The optimiser's moments are left out: they are twice the size of the weights, and recover within a warm-up.
    """
    tensors = {f"network.{name}": value.to(dtype) for name, value in content["network"].items()}
    tensors |= {f"average.{name}": value.to(dtype) for name, value in content["average"].items()}
    data = save({name: value.contiguous() for name, value in tensors.items()})
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
    written, digests = [], {}
    for number, piece in enumerate(pieces):
        path = folder / f"state-{number:03d}.bin"
        write_atomically(path, lambda file, piece=piece: file.write(piece))
        digests[path.name] = hashlib.sha256(piece).hexdigest()
        written.append(path)
    index = {
        "format": FORMAT,
        "step": content["step"],
        "seconds": content["seconds"],
        "pieces": digests,
        "config": json.loads(content["config"]),
    }
    write_atomically(folder / PIECES, lambda file: file.write(json.dumps(index, indent=2).encode()))
    return [*written, folder / PIECES]


def import_state(folder: Path, state: State, config: TrainingConfig) -> None:
    """Continue from an export; the optimiser starts again. Raises StateError."""
    try:
        index = json.loads((folder / PIECES).read_text(encoding="utf-8"))
        tensors = load(join_pieces(folder, index["pieces"]))
    except OSError as error:
        raise StateError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, SafetensorError) as error:
        raise StateError(f"{folder} holds no exported training state: {error}") from error
    check_same_run(folder / PIECES, json.dumps(index["config"]), config)
    for prefix, module in (("network.", state.network), ("average.", state.average)):
        own: dict[str, Tensor] = module.state_dict()
        for name, value in own.items():
            value.copy_(tensors[prefix + name])
    state.step = state.since = index["step"]
    state.seconds = index["seconds"]


def join_pieces(folder: Path, digests: Mapping[str, str]) -> bytes:
    """The content of the pieces named in `digests`. Raises OSError, and StateError if a piece has another SHA-256."""
    pieces = []
    for name, digest in digests.items():
        piece = (folder / Path(name).name).read_bytes()
        if hashlib.sha256(piece).hexdigest() != digest:
            raise StateError(f"{folder / name} was changed after the export: its SHA-256 differs")
        pieces.append(piece)
    return b"".join(pieces)
