"""SIGHUP: reload, or the end of the terminal.

The kernel sends SIGHUP to the programs of a terminal that goes away, and a shell that ends sends it on to its jobs. For
a service SIGHUP also means: read your files again. The two are told apart by the controlling terminal, which the kernel
takes away before it sends the signal (https://man7.org/linux/man-pages/man4/tty_ioctl.4.html, TIOCNOTTY, and
setsid(2)): a program that had one and has none any more was hung up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_IGNORED = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
"""Whether this process was started to outlive its terminal, as by `nohup`. Known at import only: `on_hangup` replaces
the disposition."""


class Terminal:
    """The controlling terminal of this process, if it has one at the time of creation."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    @property
    def gone(self) -> bool:
        """Whether it has gone away since, and the process is not to outlive it."""
        return self._was_there and not _IGNORED and not _is_there()


def on_hangup(action: Callable[[], object]) -> None:
    """Call `action`, in the main thread, at every SIGHUP but that of a terminal that goes away, which ends the process
    as by default, unless it was started with SIGHUP ignored. Replaces an earlier action. To be called in the main
    thread."""
    terminal = Terminal()

    def received(*_: object) -> None:
        if terminal.gone:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            action()

    signal.signal(signal.SIGHUP, received)


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:  # ENXIO: no terminal
        return False
    return True
