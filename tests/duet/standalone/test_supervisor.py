"""Supervision continues after a program has failed, and when output can no longer be written."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys

import pytest

from duet.standalone.supervisor import Program, Supervised

ENDS = (sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(0.1); sys.exit(3)")


def run_twice(report, recover=None) -> set[int]:  # type: ignore[no-untyped-def]
    """Process ids of a program that keeps ending with status 3, after it was restarted."""

    async def run() -> set[int]:
        supervised = Supervised(Program("worker", ENDS), report, recover)
        await supervised.start()
        pids = {supervised.pid}
        try:
            async with asyncio.timeout(20):
                while len(pids) < 2:
                    await asyncio.sleep(0.02)
                    pids.add(supervised.pid)
        finally:
            await supervised.stop()
        return {pid for pid in pids if pid is not None}

    return asyncio.run(run())


def test_a_failed_program_is_restarted() -> None:
    lines: list[str] = []
    assert len(run_twice(lambda name, line: lines.append(line))) == 2
    assert any("ended unexpectedly (exit status 3)" in line for line in lines)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_supervision_continues_without_output(code: int) -> None:
    def report(name: str, line: str) -> None:
        raise OSError(code, "cannot be written")

    async def recover(pid: int) -> None:
        raise OSError(code, "its log neither")

    assert len(run_twice(report, recover)) == 2


RELOADS = """
import signal, time
signal.signal(signal.SIGHUP, lambda *_: print("reload", flush=True))
print("up", flush=True)
while True:
    time.sleep(60)
"""


def test_sighup_reaches_a_program_that_has_a_handler_and_harms_no_other() -> None:
    async def run() -> None:
        lines: asyncio.Queue[str] = asyncio.Queue()
        plain = "import time; print('up', flush=True); time.sleep(600)"
        programs = [
            Supervised(Program("worker", (sys.executable, "-c", text)), lambda name, line: lines.put_nowait(line))
            for text in (RELOADS, plain)
        ]
        for program in programs:
            await program.start()
        pids = [program.pid for program in programs]
        try:
            async with asyncio.timeout(60):
                assert [await lines.get(), await lines.get()] == ["up", "up"]
                for program in reversed(programs):
                    program.send_signal(signal.SIGHUP)
                assert await lines.get() == "reload"
            assert [program.pid for program in programs] == pids
        finally:
            for program in programs:
                await program.stop()

    asyncio.run(run())
