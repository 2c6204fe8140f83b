"""Checks before a service starts: whether valid settings also fit this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import PREFIX

if TYPE_CHECKING:
    from service.settings import Settings


def check_machine(settings: Settings, computes: bool = False) -> None:
    """End the process (SystemExit) with one sentence for each setting that does not fit this machine.

    `computes`: the process is a worker, or starts one.
    """
    folders = {"DATA": settings.data}
    if settings.storage and not settings.storage.startswith("s3://"):
        folders["STORAGE"] = Path(settings.storage)
    if computes and settings.gpu_locks is not None:
        folders["GPU_LOCKS"] = settings.gpu_locks
    sentences = [*_folders(folders), *_models(settings)]
    if (
        computes and settings.gpu_locks is None
    ):  # otherwise torch must not be loaded before the worker has claimed its GPU
        sentences += _device(settings.device)
    sentences = sentences or list(_temporary(settings))
    if sentences:
        raise SystemExit("\n".join(["Duet cannot start.", *sentences]))


def _folders(folders: Mapping[str, Path]) -> Iterator[str]:
    for name, folder in folders.items():
        # The folder is created on first use: check the part of the path that exists.
        found = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not found.is_dir():
            yield f"{PREFIX}{name} is {str(folder)!r}: {found} is a file, not a folder"
        elif not os.access(found, os.W_OK | os.X_OK):
            yield f"{PREFIX}{name} is {str(folder)!r}: {found} is not writable for this user"


def _temporary(settings: Settings) -> Iterator[str]:
    """Claim the folder for temporary files, so that a later `duet serve` knows it as Duet's own."""
    from service.temporary_folder import NotOurs, claim

    try:
        claim(settings)
    except NotOurs as error:
        yield str(error)
    except OSError as error:
        yield f"{PREFIX}DATA is {str(settings.data)!r}: {settings.temporary} cannot be created: {error.strerror}"


def _models(settings: Settings) -> Iterator[str]:
    from model.checkpoint.manifest import ManifestError, find_models

    if settings.models is not None and not settings.models.is_dir():
        yield f"{PREFIX}MODELS is {str(settings.models)!r}: there is no such folder"
        return
    try:
        models = find_models(settings.models)
    except ManifestError as error:
        yield f"{PREFIX}MODELS is {str(settings.models)!r}: {error}"
        return
    if settings.default_model not in models:
        yield f"{PREFIX}DEFAULT_MODEL is {settings.default_model!r}; the models here are: {', '.join(models)}"


def _device(device: str) -> Iterator[str]:
    kind, _, number = device.partition(":")
    if kind not in ("cuda", "mps"):
        return
    import torch

    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= there:
        yield f"{PREFIX}DEVICE is {device!r}: PyTorch found {f'only {there}' if there else 'no'} {kind} device"
