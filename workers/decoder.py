"""Uploads are decoded and muxed in child processes, so that no file can take the worker down or its time and memory.

A decoder is a million lines of C that read what strangers send: it may crash, loop, or eat all memory, also after the
upload was probed (`service.sandbox.probe` sees the beginning of the window only). So the worker never decodes itself:

    frames = confined(decode_video, path, clip, start)           # as decode_video(path, clip, start), in a child

The child is forked from a server process (`workers.decoder_server`) that has loaded the decoder and torch once and
holds no secrets: forking takes milliseconds, loading takes seconds. Each child runs one call, under limits on CPU
time, wall-clock time, memory and the size of files, and ends. Its answer is plain data, never pickled: a child that was
taken over can lie about a clip, but not run code here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from model.media.source import MediaError
from service.sandbox import child
from service.sandbox.limits import ProcessLimits

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LIMITS = ProcessLimits(cpu_seconds=120, wall_seconds=180.0, memory_bytes=4 * 1024**3, file_bytes=1024**3)
"""Limits of one call; `memory_bytes` come on top of the loaded libraries."""

LARGEST_ANSWER = 2**28
"""Bytes that are read of a child's answer: over a hundred times a clip as the network sees it."""

GRACE = 10.0
"""Seconds that the server has to kill a child whose time is over, and to report it."""

LARGEST_REPORT = 4096
"""Bytes of a report at most."""

STARTING = 120.0
"""Seconds that a server may take to load the decoder on a busy machine."""


class DecoderLost(RuntimeError):
    """The child or its server could not be started, or was ended from outside: not the file's fault, try again."""


@dataclass(frozen=True)
class Spent:
    """What one call cost: CPU seconds, and bytes of memory at the most."""

    cpu_seconds: float
    peak_bytes: int


def confined(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """`function(*arguments, **named)` in a child process. Thread-safe; the server starts with the first call.

    `function` is one that a module offers by its name; it returns a tensor of float32, a string or None. Raises
    MediaError as it does, also where the child crashed or its limits ended it; OSError where files cannot be written;
    DecoderLost.
    """
    return _shared.call(function, *arguments, **named)


def warm() -> None:
    """Start the server now, so that the first job need not wait for it. Returns at once."""
    _shared.warm()


class Decoding:
    """A server and its children. `confined` shares one of them in the whole process.

    `on_spent` hears what each call cost, in the thread of the call.
    """

    def __init__(self, limits: ProcessLimits | None = None, on_spent: Callable[[Spent], None] | None = None) -> None:
        self.limits = limits or LIMITS
        self._on_spent = on_spent
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Decoding:
        self.warm()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm(self) -> None:
        """Start the server if none runs."""
        with self._lock:
            self._ensure_server()

    def close(self) -> None:
        """Kill the server and its children."""
        with self._lock:
            server, self._server = self._server, None
            if self._control is not None:
                self._control.close()
                self._control = None
            if server is not None:
                child.kill(server)

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """See `confined`."""
        request = pickle.dumps((function, [_portable(each) for each in arguments], named))
        ours, theirs = socket.socketpair()
        report_ours, report_theirs = socket.socketpair()
        with ours, report_ours:
            with theirs, report_theirs:
                self._hand_over(theirs.fileno(), report_theirs.fileno())
            ours.settimeout(STARTING + self.limits.wall_seconds + GRACE)
            report_ours.settimeout(self.limits.wall_seconds + GRACE)
            try:
                answer = _converse(ours, request)
                report = json.loads(_received(report_ours, LARGEST_REPORT) or b"{}")
            except TimeoutError as error:
                self.close()
                raise DecoderLost("the decoder's server does not answer") from error
        if "signal" not in report:
            raise DecoderLost("the decoder's server ended")
        if self._on_spent is not None:
            self._on_spent(Spent(report["cpu_seconds"], report["peak_bytes"]))
        return _unpack(answer, report, self.limits)

    def _hand_over(self, *ends: int) -> None:
        """Give the server its ends of the call. A server that died is replaced."""
        with self._lock:
            for attempt in (1, 2):
                control = self._ensure_server()
                try:
                    socket.send_fds(control, [b"c"], list(ends))
                except OSError as error:
                    if attempt == 2:
                        raise DecoderLost(f"the decoder's server does not take calls: {error}") from error
                    self._server = None
                else:
                    return

    def _ensure_server(self) -> socket.socket:
        if self._server is not None and self._control is not None and self._server.poll() is None:
            return self._control
        if self._control is not None:
            self._control.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = _start_server(theirs.fileno(), self.limits)
        self._control = ours
        return ours


_shared = Decoding()
atexit.register(_shared.close)


def _portable(argument: Any) -> Any:
    """The same for a process without this one's working directory and device."""
    if isinstance(argument, Path):
        return argument.absolute()
    return argument.cpu() if isinstance(argument, Tensor) else argument


def _start_server(control: int, limits: ProcessLimits) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in sys.path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "workers.decoder_server", str(control), limits.to_json()]
    try:
        return child.start(
            command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[control]
        )
    except OSError as error:
        raise DecoderLost(f"the decoder's server could not be started: {error}") from error


def _converse(connection: socket.socket, request: bytes) -> bytes:
    """Send the request, and return the answer."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the child ended early; the report says why
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
    return _received(connection, LARGEST_ANSWER)


def _received(connection: socket.socket, most: int) -> bytes:
    """Read until the other end closes or `most` bytes are exceeded. Raises TimeoutError after a long silence."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while len(received) <= most and (piece := connection.recv(2**20)):
            received += piece
    return bytes(received)


def _unpack(answer: bytes, report: dict[str, Any], limits: ProcessLimits) -> Any:
    """What the child returned, or raise what it raised. The answer is judged as any stranger's would be."""
    ended_by = report["signal"]
    if ended_by == signal.SIGKILL and not report["overdue"] and report["cpu_seconds"] < limits.cpu_seconds:
        raise DecoderLost("the decoder was killed from outside")
    if ended_by:
        name = signal.Signals(ended_by).name
        log.warning("a decoder ended by %s after %.1f CPU s", name, report["cpu_seconds"])
        spent = report["overdue"] or ended_by in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        raise MediaError(
            f"the file cannot be decoded in the time allowed, {limits.cpu_seconds} s of CPU time"
            if spent
            else "the file cannot be decoded: the decoder crashed over it"
        )
    head, _, body = answer.partition(b"\n")
    try:
        said = json.loads(head)
        if "media_error" in said:
            raise MediaError(str(said["media_error"])[:500])
        if "os_error" in said:
            raise OSError(int(said["os_error"]), os.strerror(int(said["os_error"])))
        if "fault" in said:
            raise DecoderLost(f"the decoder failed: {said['fault']}")
        shape = said.get("shape")
        if shape is None:
            return None if said["value"] is None else str(said["value"])
        if math.prod(shape) * 4 != len(body):
            raise DecoderLost("the decoder's answer is not whole")
        return torch.frombuffer(bytearray(body), dtype=torch.float32).reshape([int(side) for side in shape])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DecoderLost("the decoder gave no answer that can be read") from error
