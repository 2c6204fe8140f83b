"""The process that the decoder's children are forked from: see `workers.decoder`, which starts it.

It loads the decoder and torch once, and from then on only waits: for a call, which it gives to a new child, for a
child's end, which it reports, and for a child's time to be over. It ends with the worker, and its children with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class DecodingLimits:
    """What one call may take. `memory_bytes`: beyond what the loaded libraries occupy."""

    cpu_seconds: int = 120
    wall_seconds: float = 180.0
    memory_bytes: int = 4 * 1024**3
    file_bytes: int = 1024**3

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class _Child:
    """A running child: where its end is reported, and when its time is over."""

    report: int
    deadline: float
    overdue: bool = False


def main(control_fd: int, limits: DecodingLimits) -> None:
    """Serve calls that come over the socket `control_fd` until its other end closes."""
    import gc

    import numpy.ma  # noqa: F401
    import PIL.Image
    import torch

    import model.media.decode
    import model.media.encode
    import model.media.mux
    import model.media.poster
    import model.media.spectrogram

    # Loaded and run once, for all children, and frozen: their first garbage collection would copy the whole heap.
    PIL.Image.init()
    model.media.spectrogram.spectrogram(torch.zeros(1, 25_600), 16_000)
    gc.freeze()

    with socket.socket(fileno=control_fd) as control:
        control.setblocking(False)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        children: dict[int, _Child] = {}
        try:
            _serve(control, woken, children, limits)
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)


def _serve(control: socket.socket, woken: int, children: dict[int, _Child], limits: DecodingLimits) -> None:
    while True:
        soonest = min((child.deadline for child in children.values() if not child.overdue), default=None)
        wait = None if soonest is None else max(0.0, soonest - time.monotonic())
        ready, _, _ = select.select([control.fileno(), woken], [], [], wait)
        if woken in ready:
            os.read(woken, 4096)
        _reap(children)
        _end_overdue(children)
        if control.fileno() in ready:
            byte, ends, _, _ = socket.recv_fds(control, 1, 2)
            if not byte:
                return
            connection, report = ends
            pid = os.fork()
            if pid == 0:
                for each in (control.detach(), woken, report, *(child.report for child in children.values())):
                    os.close(each)  # or who waits for another child's report would wait for this one too
                _run(connection, limits)
            os.close(connection)
            children[pid] = _Child(report, time.monotonic() + limits.wall_seconds)


def _reap(children: dict[int, _Child]) -> None:
    """Report every child that has ended."""
    while children:
        pid, status, used = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        child = children.pop(pid)
        report = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "overdue": child.overdue,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_bytes": used.ru_maxrss * 1024,
        }
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(child.report, json.dumps(report).encode())
        os.close(child.report)


def _end_overdue(children: dict[int, _Child]) -> None:
    now = time.monotonic()
    for pid, child in children.items():
        if not child.overdue and child.deadline <= now:
            os.kill(pid, signal.SIGKILL)
            children[pid] = _Child(child.report, child.deadline, overdue=True)


def _run(connection_fd: int, limits: DecodingLimits) -> NoReturn:
    """The child: read the call, give up the means to do harm, answer, end."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=connection_fd) as connection:
            with connection.makefile("rb") as file:
                function, arguments, named = pickle.load(file)  # from the worker, which is trusted
            _confine(limits)
            head, body = _answer(function, arguments, named)
            connection.sendall(json.dumps(head).encode() + b"\n")
            connection.sendall(body)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the worker has gone, or has heard enough
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _confine(limits: DecodingLimits) -> None:
    """Time and memory end, no core is dumped, no file grows without bound; the kernel, short of memory, takes this
    process before it takes the worker."""
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds + 1)  # should the server die meanwhile
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with open("/proc/self/statm") as file:
        loaded = int(file.read().split()[0]) * resource.getpagesize()
    for what, soft, hard in (
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_AS, loaded + limits.memory_bytes, loaded + limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        resource.setrlimit(what, (soft, hard))


def _answer(function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the call returns or raises, as JSON and, for a tensor, its bytes."""
    import av
    from torch import Tensor

    from model.media.source import MediaError

    try:
        value = function(*arguments, **named)
    except MediaError as error:
        return {"media_error": str(error)}, b""
    except MemoryError:
        return {"media_error": "the file needs more memory than is allowed"}, b""
    except OSError as error:  # among them most of what FFmpeg raises; reading says MediaError, so this is writing
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT):
            return {"os_error": error.errno}, b""
        return {"media_error": f"the file cannot be converted: {error.strerror}"}, b""
    except (av.FFmpegError, ValueError, ArithmeticError) as error:
        traceback.print_exc()
        return {"media_error": f"the file cannot be converted: {error}"}, b""
    except Exception as error:
        traceback.print_exc()
        return {"fault": f"{type(error).__name__}: {error}"}, b""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape)}, value.float().contiguous().numpy().tobytes()
    return {"value": value}, b""


if __name__ == "__main__":
    main(int(sys.argv[1]), DecodingLimits(**json.loads(sys.argv[2])))
