"""The process that forks decoder children; `workers.decoder` starts it.

It loads the decoder and torch once, forks a child for each call, reports how each child ended, and kills children that
exceed their time or whose caller has hung up. It ends with the worker, and its children end with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from service.sandbox.child import die_with_parent
from service.sandbox.limits import ProcessLimits, address_space, confine


@dataclass(frozen=True)
class _Child:
    """A running child: the descriptor for its report, and the time at which it is killed. `overdue`: it was, for
    that. `unwanted`: it was, because nobody waits for the report."""

    report: int
    deadline: float
    overdue: bool = False
    unwanted: bool = False


LARGEST_CALL = 1024
"""Bytes of a message that starts a call: its limits as JSON."""


def main(control_fd: int) -> None:
    """Serve calls that arrive on the packet socket `control_fd`, until its other end closes."""
    import gc

    import numpy.ma  # noqa: F401
    import PIL.Image
    import torch

    import model.media.decode
    import model.media.encode
    import model.media.mux
    import model.media.mux_mix
    import model.media.poster
    import model.media.spectrogram
    import model.media.splice

    # Load and run everything once, then freeze it: a child's first garbage collection would copy the whole heap.
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
            _serve(control, woken, children)
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)


def _serve(control: socket.socket, woken: int, children: dict[int, _Child]) -> None:
    server = os.getpid()
    while True:
        soonest = min((child.deadline for child in children.values() if not child.overdue), default=None)
        wait = None if soonest is None else max(0.0, soonest - time.monotonic())
        reports = [child.report for child in children.values() if not child.unwanted]
        ready, _, _ = select.select([control.fileno(), woken, *reports], [], [], wait)
        if woken in ready:
            os.read(woken, 4096)
        _end_unwanted(children, ready)
        _reap(children)
        _end_overdue(children)
        if control.fileno() in ready:
            call, ends, _, _ = socket.recv_fds(control, LARGEST_CALL, 2)
            if not call:
                return
            limits = ProcessLimits(**json.loads(call))
            connection, report = ends
            pid = os.fork()
            if pid == 0:
                die_with_parent(server)
                with contextlib.suppress(BrokenPipeError):  # the caller has given up
                    os.write(report, b"r")  # it runs
                for each in (control.detach(), woken, report, *(child.report for child in children.values())):
                    os.close(each)  # an inherited copy would keep the reader of another child's report waiting
                _run(connection, limits)
            os.close(connection)
            children[pid] = _Child(report, time.monotonic() + limits.wall_seconds)


def _reap(children: dict[int, _Child]) -> None:
    """Report every child that ended."""
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
        with contextlib.suppress(BrokenPipeError):  # the caller has given up
            os.write(child.report, json.dumps(report).encode())
        os.close(child.report)


def _end_unwanted(children: dict[int, _Child], ready: Collection[int]) -> None:
    """Kill children whose report's other end is closed: callers write nothing there, so it can be read only then."""
    for pid, child in children.items():
        if child.report in ready:
            os.kill(pid, signal.SIGKILL)
            children[pid] = replace(child, unwanted=True)


def _end_overdue(children: dict[int, _Child]) -> None:
    now = time.monotonic()
    for pid, child in children.items():
        if not child.overdue and child.deadline <= now:
            os.kill(pid, signal.SIGKILL)
            children[pid] = replace(child, overdue=True)


def _run(connection_fd: int, limits: ProcessLimits) -> NoReturn:
    """The child: read the call, apply the limits, answer, exit."""
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
        os._exit(1)  # the worker is gone, or stopped reading
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _confine(limits: ProcessLimits) -> None:
    """Apply the limits. Short of memory, the kernel kills this process before the worker (`oom_score_adj`)."""
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds + 1)  # in case the server hangs
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    confine(limits, descriptors=64, loaded_bytes=address_space())


def _answer(function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The value that the call returns or raises, as JSON, and the bytes of a tensor."""
    import av
    import torch
    from torch import Tensor

    from model.media.source import MediaError

    try:
        value = function(*arguments, **named)
    except MediaError as error:
        return {"media_error": str(error)}, b""
    except MemoryError:
        return {"media_error": "the file needs more memory than is allowed"}, b""
    except OSError as error:  # most FFmpeg errors too; reading raises MediaError, so this is writing
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
        value = value if value.dtype == torch.uint8 else value.float()
        return {"shape": list(value.shape), "bytes": value.dtype == torch.uint8}, value.contiguous().numpy().tobytes()
    return {"value": value}, b""


if __name__ == "__main__":
    main(int(sys.argv[1]))
