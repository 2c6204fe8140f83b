"""Assigns each worker of this host a GPU, by a file lock taken before CUDA is initialised.

All workers see all GPUs, and CUDA would give each worker the first one. So a worker locks a free GPU, then hides the
others from CUDA; torch needs no further configuration. NVML lists the GPUs, because it does not initialise CUDA. The
lock is a flock on `{uuid}.{place}.lock` in a folder shared by the workers; it ends with the process.
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

POLL_S = 1.0
"""Seconds between two searches for a free GPU."""

LOG_S = 60.0
"""Seconds between two log lines while waiting."""


@dataclass(frozen=True)
class Gpu:
    """A device for a worker: a GPU, or a MIG instance of one."""

    uuid: str
    name: str


@dataclass(frozen=True)
class GpuClaim:
    """A GPU that this process holds as long as `descriptor` is open."""

    gpu: Gpu
    place: int
    descriptor: int


def claim_gpu(settings: Settings, listed: Callable[[], list[Gpu]] | None = None) -> GpuClaim | None:
    """Claim a free GPU, waiting if all are claimed, and hide the others from this process.

    Call it before torch is imported. None if `settings.gpu_locks` is unset, another device is configured, or this
    machine has no GPU. `listed` lists the GPUs, in NVML's order. Ends the process (SystemExit) with a message if the
    GPUs cannot be listed, or the folder cannot be used.
    """
    if settings.gpu_locks is None or settings.device not in ("auto", "cuda"):
        return None
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already and may have initialised CUDA with all GPUs")
    gpus = allowed((listed or nvml_gpus)(), os.environ)
    if not gpus:
        log.info("no GPU to claim: there is none, or none is visible")
        return None
    claim = _take(settings.gpu_locks, gpus, settings.workers_per_gpu)
    os.environ["CUDA_VISIBLE_DEVICES"] = claim.gpu.uuid
    log.info("this worker has a GPU", gpu=claim.gpu.uuid, model=claim.gpu.name, place=claim.place, of=len(gpus))
    return claim


def nvml_gpus() -> list[Gpu]:
    """The GPUs of NVIDIA's driver, in its order; empty without a driver."""
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
    """The GPUs that NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES make visible to this process.

    Indexes in NVIDIA_VISIBLE_DEVICES are the host's and were applied by the container runtime, so they are ignored
    here. Indexes in CUDA_VISIBLE_DEVICES refer to the GPUs of this container.
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
        found = _named(entry, gpus)
        if found is None:
            break  # as CUDA does: entries after an invalid one are ignored
        chosen.append(found)
    return list(dict.fromkeys(chosen))


def _named(entry: str, gpus: list[Gpu]) -> Gpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names: a number, or a UUID or its beginning."""
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    found = [gpu for gpu in gpus if gpu.uuid.startswith(entry)] if entry.startswith(("GPU-", "MIG-")) else []
    return found[0] if len(found) == 1 else None


def _parts(handle: object) -> list[object]:
    """The MIG instances of a GPU, or the GPU itself if it is not divided."""
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
        except pynvml.NVMLError_NotFound:  # fewer instances than the maximum
            continue
    return parts


def _take(folder: Path, gpus: list[Gpu], places: int) -> GpuClaim:
    """The first free place. A GPU is shared only when every GPU has a worker. Waits until there is one."""
    logged = None
    while True:
        for place in range(places):
            for gpu in gpus:
                descriptor = _locked(folder / f"{gpu.uuid}.{place}.lock")
                if descriptor is not None:
                    return GpuClaim(gpu, place, descriptor)
        if logged is None or time.monotonic() - logged > LOG_S:
            logged = time.monotonic()
            log.warning(
                "all GPUs are taken: waiting for one to become free", gpus=[gpu.uuid for gpu in gpus], each=places
            )
        time.sleep(POLL_S)


def _locked(path: Path) -> int | None:
    """The lock's descriptor; None while another process holds it. The file names the holder, for administrators."""
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
