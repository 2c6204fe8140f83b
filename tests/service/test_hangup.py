"""SIGHUP reloads, unless it comes from a terminal that goes away."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import until

PROGRAM = """
import os, signal
from service.hangup import on_hangup
on_hangup(lambda: None)
# Not by print: the signal may come while "ready" is being written, and a buffered file must not be entered twice.
on_hangup(lambda: os.write(1, b"reload\\n"))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@contextmanager
def in_a_terminal(ignored: bool = False, output: int | None = None) -> Iterator[tuple[int, int]]:
    """The program with a terminal of its own: its process id, and our end of the terminal. `ignored`: started with
    SIGHUP ignored, as by nohup; `output`: descriptor for what it prints, in place of the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if output is not None:
            os.dup2(output, 1)
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
    try:
        yield pid, terminal
    finally:
        os.kill(pid, signal.SIGKILL) if _runs(pid) else None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _line(terminal: int) -> str:
    read = b""
    while not read.endswith(b"\n"):
        byte = os.read(terminal, 1)
        assert byte, f"the program has ended after {read!r}"
        read += byte
    return read.decode().strip()


def test_sighup_reloads_without_a_terminal() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline() == b"ready\n"
        for _ in range(2):
            program.send_signal(signal.SIGHUP)
            assert program.stdout.readline() == b"reload\n"
        program.kill()
        program.wait(60)


def test_sighup_reloads_in_a_terminal_that_stays() -> None:
    with in_a_terminal() as (pid, terminal):
        assert _line(terminal) == "ready"
        os.kill(pid, signal.SIGHUP)
        assert _line(terminal) == "reload"
        os.close(terminal)
        os.waitpid(pid, 0)


def test_a_terminal_that_goes_away_ends_the_program() -> None:
    with in_a_terminal() as (pid, terminal):
        assert _line(terminal) == "ready"
        os.close(terminal)
        ended = until(lambda: (found := os.waitpid(pid, os.WNOHANG)) != (0, 0) and found, "it has ended", 60)
        assert os.WTERMSIG(ended[1]) == signal.SIGHUP


def test_a_program_under_nohup_outlives_its_terminal() -> None:
    output, program_output = os.pipe()
    with in_a_terminal(ignored=True, output=program_output) as (pid, terminal):
        os.close(program_output)
        assert _line(output) == "ready"
        os.close(terminal)
        assert _line(output) == "reload", "the terminal's own signal"
        os.kill(pid, signal.SIGHUP)
        assert _line(output) == "reload"
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(output)
