"""Starting and ending the processes that read untrusted files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def start(command: Sequence[str], environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that inherits no secrets: only PATH, LD_LIBRARY_PATH, LANG, and `environment`.

    It leads a session of its own, so that Ctrl-C reaches the service alone and `kill` reaches all its descendants.
    `options` go to `subprocess.Popen`. Raises OSError.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    return subprocess.Popen(command, env=inherited | (environment or {}), start_new_session=True, **options)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its descendants; leave neither a zombie nor an open pipe."""
    if process.poll() is None:  # not reaped, so its process group cannot be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the process `parent`, which forked it, ends. See prctl(2)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
