"""Resource limits of the processes that read untrusted files."""

from __future__ import annotations

import json
import resource
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of one child process. `wall_seconds` is enforced by the parent, the others by the kernel."""

    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    file_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def confine(limits: ProcessLimits, descriptors: int, loaded_bytes: int = 0) -> None:
    """Apply `limits` to this process, for good: CPU time, memory, size of files, and no core dump.

    `descriptors`: descriptors have numbers below this. `loaded_bytes`: address space already in use, which
    `memory_bytes` comes on top of. SIGXCPU ends the process at the CPU limit, SIGKILL a second later.
    """
    memory = loaded_bytes + limits.memory_bytes
    for what, soft, hard in (
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, descriptors, descriptors),
    ):
        resource.setrlimit(what, (soft, hard))


def address_space() -> int:
    """Bytes of address space that this process uses."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
