"""A folder of recorded numbers: pairs `X.json` (what was run) and `X.safetensors` (inputs, weights, expected outputs).

Tensors under `weights/`, `in/` and `noise/` go in, everything else must come out. A list of `[name, shape, dtype]` in a
json file on its own says what a network's state dict must look like. No file of the folder is ever executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

INPUTS = ("weights/", "in/", "noise/")


class FolderError(ValueError):
    """A folder, or a file in it, that is not in the format; the message names the file."""


@dataclass(frozen=True)
class GoldenSet:
    """One pair of files, `name` without the suffix. `meta` is the json; tensors are read when asked for."""

    name: str
    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors."""
        if not self.path.exists():
            return ()
        with self._open() as file:
            return tuple(file.keys())

    def __getitem__(self, tensor: str) -> Tensor:
        if tensor not in self.tensors:
            raise FolderError(f"{self.path} has no tensor {tensor}")
        with self._open() as file:
            return file.get_tensor(tensor)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.tensors

    def value(self, *keys: str) -> Any:
        """An entry of the json, by its path. Raises FolderError naming it where it is missing."""
        found: Any = self.meta
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise FolderError(f"{self.path.with_suffix('.json')} has no entry {'/'.join(keys)}")
            found = found[key]
        return found

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Stored weights by published name; empty where they are drawn from `weights_seed`."""
        with self._open() as file:
            return {
                name[len("weights/") :]: file.get_tensor(name) for name in self.tensors if name.startswith("weights/")
            }

    @property
    def expectations(self) -> tuple[str, ...]:
        """Everything that a check can cover: expected tensors, the modalities and steps of one result as one name, and
        the chains that are in the json only because their numbers equal another's."""
        names = {_result(name) for name in self.tensors if not name.startswith(INPUTS)}
        names |= {f"out/{chain}" for chain in self.meta.get("chains", ())}
        return tuple(sorted(names)) or ("state_dict",)

    def _open(self) -> Any:
        try:
            return safe_open(self.path, "pt")
        except (OSError, SafetensorError) as error:
            raise FolderError(f"{self.path} cannot be read as safetensors: {error}") from error


def read_folder(folder: Path) -> list[GoldenSet]:
    """All sets in `folder`, by name. Raises FolderError naming the file that is missing or malformed."""
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder")
    sets = list(_read_sets(folder))
    if not sets:
        raise FolderError(f"{folder} holds no .json files with expected numbers")
    described = {golden.path for golden in sets}
    for path in sorted(folder.glob("*.safetensors")):
        if path not in described:
            raise FolderError(f"{path} has no {path.stem}.json beside it")
    return sets


def _read_sets(folder: Path) -> Iterator[GoldenSet]:
    for path in sorted(folder.glob("*.json")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FolderError(f"{path} cannot be read as json: {error}") from error
        if isinstance(meta, list):
            meta = {"kind": "state_dict", "tensors": meta}
        if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str):
            raise FolderError(f"{path} does not say what kind of numbers it describes")
        yield GoldenSet(path.stem, path.with_suffix(".safetensors"), meta)


def _result(name: str) -> str:
    return re.sub(r"(/(video|audio|step\d+))+$", "", name)
