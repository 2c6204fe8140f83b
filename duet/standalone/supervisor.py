"""Supervision of programs: starts them, relays their output, restarts them when they end, stops them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FIRST_DELAY = 0.5
LONGEST_DELAY = 5.0
"""Seconds before a program that ended is restarted. The delay doubles from the first to the longest."""

STEADY_AFTER = 10.0
"""Seconds. After a program has run this long, the delay starts again at FIRST_DELAY."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Program:
    """A command, with additions to the environment and a working `folder`.

    `log` is the program's log file, if it does not log to its output. `descriptors` are open files that it inherits.
    `orphan_signal` is sent to it on Linux if this process dies without stopping it (kill -9, out of memory).
    `stop_seconds` is the time between SIGTERM and SIGKILL.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    log: Path | None = None
    descriptors: tuple[int, ...] = ()
    orphan_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0


class Supervised:
    """A program that is kept running from `start()` to `stop()`. `report(name, line)` receives its output and messages
    about it. `recover(pid)` is awaited after it ended unexpectedly, before it is restarted.

    To be used in the main thread's event loop: Linux ties the orphan signal to the thread that started a program.
    """

    def __init__(
        self,
        program: Program,
        report: Callable[[str, str], None],
        recover: Callable[[int], Awaitable[None]] | None = None,
        supervisor: str = "duet",
    ) -> None:
        self.program = program
        self._recover = recover
        self.pid: int | None = None
        self._report = report
        self._supervisor = supervisor
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the program and supervise it. Raises OSError if it cannot be started."""
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Send SIGTERM, after `stop_seconds` SIGKILL; then kill what is left of its process group."""
        self._stopping.set()
        self.send_signal(signal.SIGTERM)
        if self._keeper:
            try:
                await asyncio.wait_for(asyncio.shield(self._keeper), self.program.stop_seconds)
            except TimeoutError:
                self._say(
                    self._supervisor, f"{self.program.name} did not stop within {self.program.stop_seconds:g} s: killed"
                )
                self.kill()
                await self._keeper

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program if it runs."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the program and its process group at once; it is not restarted."""
        self._stopping.set()
        self._kill_group()

    async def _launch(self) -> None:
        program, parent = self.program, os.getpid()

        def prepare() -> None:
            """Runs in the child, between fork and exec."""
            # Until the program has a handler of its own: one that only reads its files again must not end by it.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, program.orphan_signal)
                if os.getppid() != parent:  # the parent died before prctl, so the signal would never be sent
                    os._exit(1)

        # In its own session it does not receive Ctrl-C from the terminal, so the stack decides the order of stopping.
        self._process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **program.environment},
            cwd=program.folder,
            pass_fds=program.descriptors,
            start_new_session=True,
            preexec_fn=prepare,
        )
        self.pid = self._process.pid
        if self._stopping.is_set():  # while it was being started
            self._process.terminate()

    async def _keep(self) -> None:
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            ending = f"ended unexpectedly ({_status(await self._attend())})"
            ended = self.pid
            if self.program.log:
                ending += f", see {self.program.log}"
            if time.monotonic() - started >= STEADY_AFTER:
                delay = FIRST_DELAY
            if self._recover and ended is not None and not self._stopping.is_set():
                await self._recovered(ended)
            while True:
                if self._stopping.is_set():
                    return
                self._say(self._supervisor, f"{self.program.name} {ending}; restarting it in {delay:g} s")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                    return
                delay = min(2 * delay, LONGEST_DELAY)
                try:
                    await self._launch()
                    break
                except OSError as error:
                    ending = f"cannot be started ({error})"

    async def _recovered(self, pid: int) -> None:
        """Await `recover`; its errors must not end the supervision."""
        assert self._recover is not None
        try:
            await self._recover(pid)
        except Exception as error:
            self._say(self._supervisor, f"cannot recover the work of {self.program.name}: {error!r}")

    def _say(self, name: str, line: str) -> None:
        """Report a line. It is dropped if it cannot be written."""
        with suppress(OSError):
            self._report(name, line)

    async def _attend(self) -> int:
        """Relay the program's output until it ends; return its exit status, negative for a signal."""
        assert self._process is not None
        assert self._process.stdout is not None
        relay = asyncio.create_task(self._relay(self._process.stdout))
        code = await self._process.wait()
        self._kill_group()
        await relay
        return code

    async def _relay(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line longer than the reader's buffer, dropped by asyncio
                continue
            if not line:
                return
            self._say(self.program.name, line.decode(errors="replace").rstrip())

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if self.pid is not None:
                os.killpg(self.pid, signal.SIGKILL)


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
