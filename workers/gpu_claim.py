"""A GPU of its own for each worker of this host, taken by a lock before CUDA is there.

All workers see all GPUs (a container that is to have one of them would have to be told which), and CUDA would give
each the first. So a worker looks for one that nobody holds, and then lets CUDA see that one only: nothing that comes
later, torch least of all, has to know of the others. The GPUs are listed through NVML, which does not initialise CUDA.
The lock is flock's on a file `{uuid}.{place}.lock` in a folder that the workers share: it ends with the process,
however that ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pynvml

from service.log import log
from service.settings import PREFIX, Settings

LOOK = 1.0
"""Seconds between two looks for a free GPU."""

REMIND = 60.0
"""Seconds between two lines that say what is waited for."""


@dataclass(frozen=True)
class Gpu:
    """One device that a worker can have: a GPU, or an instance of one that is divided (MIG)."""

    uuid: str
    name: str


@dataclass(frozen=True)
class Claim:
    """A GPU that is ours as long as `descriptor` is open."""

    gpu: Gpu
    place: int
    descriptor: int


def claim_gpu(settings: Settings, listed: Callable[[], list[Gpu]] | None = None) -> Claim | None:
    """Take a free GPU, wait for one if all are taken, and let this process see no other.

    Call it before torch is imported. None where `settings.gpu_locks` is unset, the worker is to compute elsewhere, or
    this machine has no GPU. `listed` lists the GPUs, in NVML's order. Ends the process (SystemExit) with a sentence if
    the GPUs cannot be listed, or the folder cannot be used.
    """
    if settings.gpu_locks is None or settings.device not in ("auto", "cuda"):
        return None
    if "torch" in sys.modules:
        raise RuntimeError("torch is loaded: it may have looked at the GPUs, and would stay with what it saw")
    gpus = allowed((listed or nvml_gpus)(), os.environ)
    if not gpus:
        log.info("no GPU to take: none is here, or none may be seen")
        return None
    claim = _take(settings.gpu_locks, gpus, settings.workers_per_gpu)
    os.environ["CUDA_VISIBLE_DEVICES"] = claim.gpu.uuid
    log.info("this worker has a GPU", gpu=claim.gpu.uuid, model=claim.gpu.name, place=claim.place, of=len(gpus))
    return claim


def nvml_gpus() -> list[Gpu]:
    """What NVIDIA's driver has, in its order; nothing where there is no driver."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return []
    except pynvml.NVMLError as error:
        raise SystemExit(f"Duet cannot start.\nThe GPUs cannot be listed: {error}.") from error
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        parts = [part for handle in handles for part in _parts(handle)]
        return [Gpu(pynvml.nvmlDeviceGetUUID(part), pynvml.nvmlDeviceGetName(part)) for part in parts]
    except pynvml.NVMLError as error:
        raise SystemExit(f"Duet cannot start.\nThe GPUs cannot be listed: {error}.") from error
    finally:
        pynvml.nvmlShutdown()


def allowed(gpus: list[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that the usual variables let this process see.

    Numbers in NVIDIA_VISIBLE_DEVICES are the host's; the container's runtime has seen to them already, and whatever it
    left has other numbers here. In CUDA_VISIBLE_DEVICES they count what is here.
    """
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "all")
    if given in ("none", "void"):
        return []
    wanted = tuple(entry.strip() for entry in given.split(","))
    if all(entry.startswith(("GPU-", "MIG-")) for entry in wanted):
        gpus = [gpu for gpu in gpus if gpu.uuid.startswith(wanted)]
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (entry.strip() for entry in visible.split(",")):
        found = _meant(entry, gpus)
        if found is None:
            break  # as CUDA does: what comes after an entry that names nothing is not seen
        chosen.append(found)
    return list(dict.fromkeys(chosen))


def _meant(entry: str, gpus: list[Gpu]) -> Gpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names: a number, or a UUID or its beginning."""
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    found = [gpu for gpu in gpus if gpu.uuid.startswith(entry)] if entry.startswith(("GPU-", "MIG-")) else []
    return found[0] if len(found) == 1 else None


def _parts(handle: object) -> list[object]:
    """The instances of a GPU that is divided, else the GPU itself."""
    try:
        divided = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError_NotSupported:
        divided = False
    if not divided:
        return [handle]
    parts = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except pynvml.NVMLError_NotFound:  # fewer instances than there could be
            continue
    return parts


def _take(folder: Path, gpus: list[Gpu], places: int) -> Claim:
    """The first free place; a GPU is shared only when all have somebody. Waits until there is one."""
    said = None
    while True:
        for place in range(places):
            for gpu in gpus:
                descriptor = _locked(folder / f"{gpu.uuid}.{place}.lock")
                if descriptor is not None:
                    return Claim(gpu, place, descriptor)
        if said is None or time.monotonic() - said > REMIND:
            said = time.monotonic()
            log.warning(
                "all GPUs are taken: waiting for one to become free", gpus=[gpu.uuid for gpu in gpus], each=places
            )
        time.sleep(LOOK)


def _locked(path: Path) -> int | None:
    """The lock's descriptor; None while another process has it. It says in the file who has it, for whoever looks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SystemExit(
            f"Duet cannot start.\n{PREFIX}GPU_LOCKS is {str(path.parent)!r}: {path.name} cannot be locked there: "
            f"{error.strerror}."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    return descriptor
