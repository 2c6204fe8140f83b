"""The folders of models, read again while Duet runs: what they hold, whether it is whole, and what has changed.

Reading checks manifests and the completeness of weight files, without torch. `loading.check_layout` also compares the
tensors with the architecture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint.manifest import BUILTIN, FILE_NAME, Manifest, ManifestError, read_manifest
from model.checkpoint.safetensors_header import tensor_shapes

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, and the times in nanoseconds at which the contents and the inode changed."""


MODELS = "DUET_MODELS"
"""The setting that names the folder of all models."""


class BrokenModel(ValueError):
    """A folder that cannot be taken. `folder` is its name, without the path, or MODELS for the folder of all models.
    The message is the reason."""

    def __init__(self, folder: str, reason: str) -> None:
        which = f"the folder of {MODELS}" if folder == MODELS else f"the model folder {folder!r}"
        super().__init__(f"{which} cannot be taken: {reason}")
        self.folder = folder
        self.reason = reason


@dataclass(frozen=True)
class Version:
    """A model as it was when its folder was read. `stamps` are those of its weight files."""

    manifest: Manifest
    stamps: tuple[Stamp, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Version:
        """The model as its files are now. Files that are missing are noticed when it is loaded."""
        try:
            return cls(manifest, _stamps(manifest))
        except OSError:
            return cls(manifest, ())

    @property
    def intact(self) -> bool:
        """Whether the weight files are still those that were there when the folder was read."""
        try:
            return _stamps(self.manifest) == self.stamps
        except OSError:
            return False


@dataclass(frozen=True)
class Changes:
    """Names of the models that two readings differ in."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def read_folders(folder: Path | None) -> dict[str, Version]:
    """All models in `folder` and the built-in ones, by name, as `manifest.find_models`.

    Raises BrokenModel for the first folder that is not whole: an unreadable manifest, a weight file that is missing or
    incomplete, weights without a manifest, or a name that two folders claim.
    """
    if folder is not None and not os.path.isdir(folder):
        raise BrokenModel(MODELS, "there is no such folder")
    try:
        paths = _folders(folder) if folder is not None else []
    except OSError as error:
        raise BrokenModel(MODELS, error.strerror or "cannot be read") from error
    own: dict[str, Version] = {}
    for path in paths:
        version = _read(path)
        name = version.manifest.name
        if name in own:
            raise BrokenModel(path.name, f"the name {name!r} is taken by the folder {own[name].manifest.folder.name!r}")
        own[name] = version
    builtin = (_read(path) for path in _folders(BUILTIN))
    return {**own, **{each.manifest.name: each for each in builtin if each.manifest.name not in own}}


def merge(before: Mapping[str, Version], read: Mapping[str, Version]) -> tuple[dict[str, Version], Changes]:
    """The models of `read`, with the versions of `before` where neither manifest nor weights have changed.

    Weights are compared by hash where their files look different. Raises BrokenModel if they cannot be read.
    """
    merged = {name: _unless_changed(before[name], each) if name in before else each for name, each in read.items()}
    changes = Changes(
        added=tuple(sorted(read.keys() - before.keys())),
        changed=tuple(
            sorted(name for name in read.keys() & before.keys() if merged[name].manifest is not before[name].manifest)
        ),
        removed=tuple(sorted(before.keys() - read.keys())),
    )
    return merged, changes


def check_tuned(version: Version) -> None:
    """Raise BrokenModel if the model's tuned solvers are those of other weights."""
    try:
        version.manifest.check_tuned()
    except (ManifestError, OSError) as error:
        raise broken(version.manifest.folder, error) from error


def broken(folder: Path, error: Exception) -> BrokenModel:
    """The error as one of this folder, with its name in place of its path."""
    reason = error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
    reason = reason.removeprefix(f"{folder / FILE_NAME}: ").replace(str(folder), folder.name)
    return BrokenModel(folder.name, reason)


def _folders(folder: Path) -> list[Path]:
    """The folders with a manifest, and those with weights only, in which it is missing. Those that this process may not
    search, such as lost+found, are skipped."""
    return [path for path in sorted(folder.iterdir()) if os.path.exists(path / FILE_NAME) or _has_weights(path)]


def _has_weights(folder: Path) -> bool:
    """Hidden folders do not count: copying tools keep unfinished files there."""
    if folder.name.startswith("."):
        return False
    try:
        return any(name.endswith(".safetensors") for name in os.listdir(folder))
    except OSError:  # no folder, or one that may not be searched
        return False


def _read(folder: Path) -> Version:
    if not os.path.exists(folder / FILE_NAME):
        raise BrokenModel(folder.name, f"it has weights and no {FILE_NAME}")
    try:
        manifest = read_manifest(folder / FILE_NAME)
        stamps = _stamps(manifest)
    except ManifestError as error:
        raise broken(folder, error) from error
    except OSError as error:
        raise BrokenModel(folder.name, f"{Path(str(error.filename)).name}: {error.strerror}") from error
    for path in manifest.weight_files:
        try:
            tensor_shapes(path)
        except ValueError as error:
            raise BrokenModel(folder.name, f"{path.name} is {error}") from error
        except OSError as error:
            raise BrokenModel(folder.name, f"{path.name}: {error.strerror}") from error
    return Version(manifest, stamps)


def _stamps(manifest: Manifest) -> tuple[Stamp, ...]:
    found = [path.stat() for path in manifest.weight_files]
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


def _unless_changed(before: Version, read: Version) -> Version:
    if before.manifest != read.manifest:
        return read
    if before.stamps == read.stamps:
        return before
    # A hash that was not taken while the files were there cannot be taken any more: the model counts as changed.
    known = before.manifest.__dict__.get("weights_hash")
    if known is None:
        return read
    try:
        found = read.manifest.weights_hash
    except OSError as error:
        raise broken(read.manifest.folder, error) from error
    return Version(before.manifest, read.stamps) if known == found else read
