"""Decodes and muxes uploads in child processes, so that no file can crash, stall or exhaust the worker.

The decoder is a million lines of C that read untrusted input. It may crash, loop or use up all memory, even after the
upload was probed (`service.sandbox.probe` sees only the beginning of the window). So the worker never decodes itself:

    frames = confined(decode_video, path, clip, start)           # decode_video(path, clip, start) in a child process

A server process (`workers.decoder_server`), which has loaded the decoder and torch once and holds no secrets, forks the
children: forking takes milliseconds, loading takes seconds. Each child runs one call under limits on CPU time,
wall-clock time, memory and file size, and ends. Its answer is plain data, never pickled, so a compromised child can
return a wrong clip but cannot run code here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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

CPU_SECONDS_PER_CLIP_SECOND = 30
"""CPU time for each second of a clip: encoding 30 frames of 8K takes about as long."""

BYTES_PER_CLIP_SECOND = 32 * 1024**2
"""Size of a file for each second of a clip, far above that of 4K at CRF 12."""

LARGEST_ANSWER = 2**29
"""Bytes read of a child's answer at most: ten minutes at the network's size have 300 million."""

GRACE = 10.0
"""Seconds that the server has to kill an overdue child and to report it."""

LARGEST_REPORT = 4096
"""Bytes of a report at most."""

CHECK_INTERVAL = 0.5
"""Seconds between two checks whether a call is still wanted."""

STARTING = 120.0
"""Seconds that a server may take to load the decoder on a busy machine and to fork the child."""


class DecoderLost(RuntimeError):
    """The child or its server could not be started, or was killed from outside. The file is not at fault: try again."""


class DecoderFault(RuntimeError):
    """The child ended without a valid answer, or by an error in Duet's own code. It may well happen again."""


@dataclass(frozen=True)
class Spent:
    """Cost of one call: CPU seconds, and peak memory in bytes."""

    cpu_seconds: float
    peak_bytes: int


def confined(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """`function(*arguments, **named)` in a child process. Thread-safe; the server starts with the first call.

    `function` is a module-level function that returns a tensor of float32 or uint8, a string or None. Raises MediaError
    as the function does, and where the child crashed or reached a limit; OSError where files cannot be written;
    DecoderLost; DecoderFault.
    """
    return _shared.call(function, *arguments, **named)


def confined_within(bounds: Bounds, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As `confined`, within other bounds. Also raises what their `check` raises."""
    return _shared.call_within(bounds, function, *arguments, **named)


def no_check() -> None:
    """For calls that are wanted until they end."""


@dataclass(frozen=True)
class Bounds:
    """Of a call: its limits, and `check`, which is called every CHECK_INTERVAL until it ends. If that raises, the child
    is killed."""

    limits: ProcessLimits = LIMITS
    check: Callable[[], None] = no_check


def clip_bounds(seconds: float, check: Callable[[], None] = no_check) -> Bounds:
    """Bounds of a call that decodes or encodes a clip of `seconds`."""
    more = math.ceil(CPU_SECONDS_PER_CLIP_SECOND * seconds)
    limits = replace(
        LIMITS,
        cpu_seconds=LIMITS.cpu_seconds + more,
        wall_seconds=LIMITS.wall_seconds + more,
        file_bytes=LIMITS.file_bytes + math.ceil(BYTES_PER_CLIP_SECOND * seconds),
    )
    return Bounds(limits, check)


def warm() -> None:
    """Start the server now, so that the first job does not wait for it. Returns at once."""
    _shared.warm()


class Decoding:
    """A server and its children. `confined` uses one instance for the whole process.

    `on_spent` is called with the cost of each call, in the thread of the call.
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
        return self.call_within(Bounds(self.limits), function, *arguments, **named)

    def call_within(self, bounds: Bounds, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """See `confined_within`."""
        limits = bounds.limits
        request = pickle.dumps((function, [_portable(each) for each in arguments], named))
        ours, theirs = socket.socketpair()
        report_ours, report_theirs = socket.socketpair()
        with ours, report_ours:
            with theirs, report_theirs:
                self._hand_over(limits, theirs.fileno(), report_theirs.fileno())
            try:
                # The child itself says that it runs: time that the server takes to start is not the child's.
                running = _Patience(STARTING, bounds.check).received(report_ours, 1)
                patience = _Patience(limits.wall_seconds + GRACE, bounds.check)
                answer = _converse(ours, request, patience) if running else bytearray()
                report = json.loads(patience.received(report_ours, LARGEST_REPORT) or b"{}")
            except TimeoutError as error:
                self.close()
                raise DecoderLost("the decoder's server does not answer") from error
            except ConnectionResetError as error:
                raise DecoderLost("the decoder's server ended") from error
        if "signal" not in report:
            raise DecoderLost("the decoder's server ended")
        if self._on_spent is not None:
            self._on_spent(Spent(report["cpu_seconds"], report["peak_bytes"]))
        return _unpack(answer, report, limits)

    def _hand_over(self, limits: ProcessLimits, *ends: int) -> None:
        """Send the server its ends of the call's sockets. A server that has died is replaced."""
        with self._lock:
            for attempt in (1, 2):
                control = self._ensure_server()
                try:
                    socket.send_fds(control, [limits.to_json().encode()], list(ends))
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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = _start_server(theirs.fileno())
        self._control = ours
        return ours


_shared = Decoding()
atexit.register(_shared.close)


def _portable(argument: Any) -> Any:
    """The argument for a process with another working directory and without this one's device."""
    if isinstance(argument, Path):
        return argument.absolute()
    return argument.cpu() if isinstance(argument, Tensor) else argument


def _start_server(control: int) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in sys.path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "workers.decoder_server", str(control)]
    try:
        return child.start(
            command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[control]
        )
    except OSError as error:
        raise DecoderLost(f"the decoder's server could not be started: {error}") from error


def _converse(connection: socket.socket, request: bytes, patience: _Patience) -> bytearray:
    """Send the request, and return the answer. Raises as `_Patience`."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the child ended early; the report says why
        patience.send(connection, request)
        connection.shutdown(socket.SHUT_WR)
    return patience.received(connection, LARGEST_ANSWER)


class _Patience:
    """Sends and receives for so many `seconds`. Raises TimeoutError afterwards, and what `check` raises, at once."""

    def __init__(self, seconds: float, check: Callable[[], None]) -> None:
        self._deadline = time.monotonic() + seconds
        self._check = check

    def send(self, connection: socket.socket, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(connection, select.POLLOUT)
            rest = rest[connection.send(rest[: 2**20], socket.MSG_DONTWAIT) :]

    def received(self, connection: socket.socket, most: int) -> bytearray:
        """What comes until the other end closes or `most` bytes are reached."""
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while len(received) < most:
                self._wait(connection, select.POLLIN)
                piece = connection.recv(min(2**20, most - len(received)))
                if not piece:
                    break
                received += piece
        return received

    def _wait(self, connection: socket.socket, event: int) -> None:
        ready = select.poll()
        ready.register(connection, event)
        while True:
            self._check()
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if ready.poll(1000 * min(CHECK_INTERVAL, left)):
                return


def _unpack(answer: bytearray, report: dict[str, Any], limits: ProcessLimits) -> Any:
    """Return the child's value, or raise its error. The answer is untrusted input."""
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
    begin = answer.find(b"\n") + 1
    try:
        said = json.loads(answer[:begin])
        if "media_error" in said:
            raise MediaError(str(said["media_error"])[:500])
        if "os_error" in said:
            raise OSError(int(said["os_error"]), os.strerror(int(said["os_error"])))
        if "fault" in said:
            raise DecoderFault(f"the decoder failed: {said['fault']}")
        shape = said.get("shape")
        if shape is None:
            return None if said["value"] is None else str(said["value"])
        kind = torch.uint8 if said.get("bytes") else torch.float32
        if math.prod(shape) * kind.itemsize != len(answer) - begin:
            raise DecoderFault("the decoder's answer is incomplete")
        sides = [int(side) for side in shape]
        if not math.prod(sides):
            return torch.empty(sides, dtype=kind)
        return torch.frombuffer(answer, dtype=torch.uint8, offset=begin).clone().view(kind).reshape(sides)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DecoderFault("the decoder gave no answer that can be read") from error
