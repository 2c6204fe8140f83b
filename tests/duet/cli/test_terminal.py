"""`duet` in a pseudo-terminal: progress bars, and a restored screen at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

from tests.duet.cli.conftest import Cli, Server
from tests.waiting import until


class Terminal:
    """A pseudo-terminal of 100 columns for the standard error of a process."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.raw = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press_ctrl_c(self, process: subprocess.Popen[bytes]) -> None:
        """As the terminal does it for the process in its foreground."""
        process.send_signal(signal.SIGINT)

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join(5)
        os.close(self._ours)

    @property
    def text(self) -> str:
        """What was written, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self.raw += data.decode(errors="replace")
        except OSError:  # nobody writes any more
            return


def in_terminal(server: Server, folder: Path) -> Cli:
    duet = Cli(folder, DUET_URL=server.url, TERM="xterm-256color", COLUMNS="100")
    del duet.environment["NO_COLOR"]
    return duet


def test_the_bar_shows_stage_step_and_share(idle_server: Server, tmp_path: Path) -> None:
    idle_server.work(0.3)
    terminal = Terminal()
    process = in_terminal(idle_server, tmp_path).start("generate", "--seed", 7, stderr=terminal.theirs)
    out, _ = process.communicate(timeout=30)
    terminal.close()
    assert (process.returncode, out) == (0, b"generate-7.mp4\n"), terminal.text
    assert re.search(r"base [2-4]/5 .*━.* \d\d%", terminal.text), terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is shown again"


def test_ctrl_c_restores_the_terminal(idle_server: Server, tmp_path: Path) -> None:
    terminal = Terminal()
    process = in_terminal(idle_server, tmp_path).start("generate", stderr=terminal.theirs)
    until(lambda: "in the queue" in terminal.text, "it shows that it waits", 30)
    terminal.press_ctrl_c(process)
    assert process.wait(20) == 130
    terminal.close()
    assert "is canceled" in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")


def test_the_table_of_jobs_fits_the_terminal(server: Server, tmp_path: Path) -> None:
    duet = in_terminal(server, tmp_path)
    assert duet("generate", "--seed", 1).returncode == 0
    terminal = Terminal()
    process = duet.start("jobs", stdout=terminal.theirs)
    process.communicate(timeout=20)
    terminal.close()
    header, row, *_ = terminal.text.splitlines()
    assert header.split() == ["id", "kind", "status", "done", "model", "seed", "created"]
    assert re.match(r"job_\w{26}\s+generate\s+completed\s+100%\s+demo\s+1\s+\d+ s ago", row)
    assert max(map(len, terminal.text.splitlines())) <= 100
