"""The models that requests can name; reloaded while the API runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from model.checkpoint.manifest import Manifest
from model.checkpoint.model_folders import (
    MODELS,
    BrokenModel,
    Changes,
    Version,
    broken,
    check_tuned,
    merge,
    read_folders,
)
from service.api.problems import FieldError, Problem
from service.log import log

CHECK_TIMEOUT_S = 120.0
"""Seconds that the comparison of tensors with architectures may take. It reads headers only, but loads torch."""

REFUSED_RETRY_S = 10.0
"""Seconds until folders that were refused after a reload elsewhere are read again."""

FOLLOW_WAIT_S = 2.0
"""Seconds that a request waits for another one that reads the folders, before it uses the models there are."""


class Catalogue:
    """The models of this service, by name. A reload replaces them all at once, or none."""

    def __init__(self, manifests: Mapping[str, Manifest], default: str, folder: Path | None = None) -> None:
        """`folder` of the models, for reloads. Raises ValueError if `default` is not one of them."""
        if default not in manifests:
            here = ", ".join(manifests) or "none"
            raise ValueError(f"DUET_DEFAULT_MODEL is {default!r}; the models here are: {here}")
        self.default = default
        self._folder = folder
        self._versions = {name: Version.of(manifest) for name, manifest in manifests.items()}
        self._generation: int | None = None
        self._refused_at = float("-inf")
        self._refusal = ""
        self._unreadable: set[str] = set()
        self._hashing = threading.Lock()
        self._reloading = threading.Lock()

    @property
    def manifests(self) -> dict[str, Manifest]:
        return {name: version.manifest for name, version in self._versions.items()}

    def find(self, name: str | None) -> Manifest:
        """The model of this name, or the default one. Raises Problem 422 for an unknown name, 503 if its weights cannot
        be read."""
        versions = self._versions
        version = versions.get(self.default if name is None else name)
        if version is None:
            wrong = FieldError("model", name, f"one of {', '.join(versions)}")
            raise Problem(422, "unknown_model", "This service has no model of this name.", [wrong])
        manifest = version.manifest
        if not _hash_known(manifest) and not all(os.access(path, os.R_OK) for path in manifest.weight_files):
            detail = f"The weight files of the model {manifest.name!r} cannot be read on this server."
            raise Problem(503, "model_unavailable", detail, headers={"Retry-After": "10"})
        return manifest

    def readable(self) -> list[tuple[Manifest, str]]:
        """The models whose weights can be read, each with their hash. Others are logged, once until they are back."""
        found, unreadable = [], set()
        for name, manifest in self.manifests.items():
            try:
                found.append((manifest, self.weights_hash(manifest)))
            except OSError as error:
                unreadable.add(name)
                if name not in self._unreadable:
                    log.error("a model is not listed: its weights cannot be read", model=name, error=str(error))
        self._unreadable = unreadable
        return found

    def weights_hash(self, manifest: Manifest) -> str:
        """SHA-256 of the model's weights, computed once: gigabytes take seconds to read. Raises OSError.

        It is not kept if the files are no longer those that were taken: the next reload would call them unchanged.
        """
        with self._hashing:
            known = _hash_known(manifest)
            found = manifest.weights_hash
            taken = self._versions.get(manifest.name)
            if not known and taken is not None and taken.manifest is manifest and not taken.intact:
                del manifest.__dict__["weights_hash"]
            return found

    def read(self, thorough: bool = True) -> Reading:
        """Read the folders of models and check them, without taking them; `thorough`: also whether the weights fit.

        Raises BrokenModel for the first that cannot be taken.
        """
        before = self._versions
        merged, changes = merge(before, read_folders(self._folder))
        if self.default not in merged:
            raise BrokenModel(MODELS, f"the default model {self.default!r} is not in it")
        fresh = [merged[name] for name in (*changes.added, *changes.changed)]
        if thorough:
            for version in fresh:
                check_tuned(version)
            _check_layouts(fresh)
            for version in fresh:
                try:
                    self.weights_hash(version.manifest)
                except OSError as error:
                    raise broken(version.manifest.folder, error) from error
                if not version.intact:
                    raise BrokenModel(version.manifest.folder.name, "its weight files are being changed")
        return Reading(merged, changes)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """One reload at a time: `read` and `take` belong in this block."""
        with self._reloading:
            yield

    def take(self, reading: Reading, generation: int | None = None) -> Changes:
        """Use these models from now on; `generation`: the number of the reload, which need not be followed then."""
        self._versions, self._refused_at, self._refusal = reading.versions, float("-inf"), ""
        self._generation = self._generation if generation is None else generation
        if reading.changes:
            changes = reading.changes
            log.info("models reloaded", **asdict(changes))
        return reading.changes

    def reload(self) -> None:
        """Read the folders and take them; where they cannot be taken, log why and change nothing."""
        with self._reloading:
            self._refusal = ""
            if self._reload() == Changes():
                log.info("models reloaded: nothing has changed")

    def follow(self, generation: int) -> None:
        """Reload if another process has reloaded since: `generation` is the number of the latest reload. That process
        has compared the weights with their architecture."""
        if generation == self._generation or time.monotonic() < self._refused_at + REFUSED_RETRY_S:
            return
        if not self._reloading.acquire(timeout=FOLLOW_WAIT_S):
            return
        try:
            late = time.monotonic() < self._refused_at + REFUSED_RETRY_S  # refused while this request waited
            if generation != self._generation and not late and self._reload(thorough=False) is not None:
                self._generation = generation
        finally:
            self._reloading.release()

    def _reload(self, thorough: bool = True) -> Changes | None:
        """Return the changes; None if the folders cannot be taken. The same refusal is logged once."""
        try:
            return self.take(self.read(thorough))
        except Exception as error:
            self._refused_at = time.monotonic()
            known, self._refusal = self._refusal, repr(error)
            if self._refusal != known:
                folder, reason = (error.folder, error.reason) if isinstance(error, BrokenModel) else (None, str(error))
                log.error(
                    "models not reloaded: this process keeps those that it has",
                    folder=folder,
                    reason=reason,
                    exc_info=not isinstance(error, BrokenModel),
                )
            return None


@dataclass(frozen=True)
class Reading:
    """Models that were read and checked, and how they differ from those in use."""

    versions: dict[str, Version]
    changes: Changes


def _hash_known(manifest: Manifest) -> bool:
    return "weights_hash" in manifest.__dict__


def _check_layouts(versions: Iterable[Version]) -> None:
    """Raise BrokenModel unless the tensors fit the architectures. That needs torch, which this process must not load:
    another one does, where it is installed; elsewhere the workers check."""
    folders = [str(version.manifest.folder) for version in versions if version.stamps]
    if not folders or find_spec("torch") is None:
        return
    command = [sys.executable, "-m", "model.checkpoint.layout_check", *folders]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=CHECK_TIMEOUT_S)
        reasons: dict[str, str] = json.loads(run.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        stderr = getattr(error, "stderr", None)
        log.error("the weights cannot be checked", error=str(error), output=str(stderr or "")[-2000:])
        raise BrokenModel(Path(folders[0]).name, "its weights could not be checked; the log says why") from error
    for folder, reason in reasons.items():
        raise broken(Path(folder), ValueError(reason))
