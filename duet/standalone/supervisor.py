"""Programs that are kept running: started, their output relayed, started again when they end, stopped when asked."""

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
"""Seconds before a program that ended is started again; more would only make its users wait."""

STEADY_AFTER = 10.0
"""Seconds: a program that ran this long gets the first delay again when it ends."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Program:
    """What to run, in which `folder` and with what added to the environment, and how to treat it.

    `log` is where it says why it ended, if not in its output. `descriptors` are open files that the program inherits
    under their numbers.
    `orphan_signal` is what the program gets on Linux when this process dies without a word (kill -9, out of memory).
    `stop_seconds` lie between the polite signal and the last one.
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
    """One program, kept running from `start()` to `stop()`. `report(name, line)` gets its output and its fate;
    `recover(pid)` runs whenever it ended unasked, before it is started again.

    Call from the main thread's event loop: Linux ties the orphan signal to the thread that started a program.
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
        """Start the program and watch it. Raises OSError if it cannot be started at all."""
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ask the program to end, make it end after `stop_seconds`, and end what it left in its process group."""
        self._stopping.set()
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        if self._keeper:
            try:
                await asyncio.wait_for(asyncio.shield(self._keeper), self.program.stop_seconds)
            except TimeoutError:
                self._say(
                    self._supervisor, f"{self.program.name} did not stop in {self.program.stop_seconds:g} s: killed"
                )
                self.kill()
                await self._keeper

    def kill(self) -> None:
        """End the program and all of its process group at once; it is not started again."""
        self._stopping.set()
        self._kill_group()

    async def _launch(self) -> None:
        program, parent = self.program, os.getpid()

        def prepare() -> None:
            """Runs in the child, between fork and exec."""
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, program.orphan_signal)
                if os.getppid() != parent:  # it died before prctl: nobody will send the signal any more
                    os._exit(1)

        # A session of its own keeps the terminal's Ctrl-C from the program: the order of stopping is ours.
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
            ending = f"ended unasked ({_status(await self._attend())})"
            ended = self.pid
            if self.program.log:
                ending += f", its log is {self.program.log}"
            if time.monotonic() - started >= STEADY_AFTER:
                delay = FIRST_DELAY
            if self._recover and ended is not None and not self._stopping.is_set():
                await self._recovered(ended)
            while True:
                if self._stopping.is_set():
                    return
                self._say(self._supervisor, f"{self.program.name} {ending}; starting it again in {delay:g} s")
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
        """`recover`, whose errors must not end the supervision."""
        assert self._recover is not None
        try:
            await self._recover(pid)
        except Exception as error:
            self._say(self._supervisor, f"what {self.program.name} left could not be recovered: {error!r}")

    def _say(self, name: str, line: str) -> None:
        """`report`. Output that cannot be written is dropped."""
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
            except ValueError:  # a line longer than the reader's buffer: asyncio has dropped it
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
