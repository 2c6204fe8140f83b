"""Progress on standard error: a bar in a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

PLAIN_SECONDS = 5.0
"""Between two lines of one stage without a terminal."""

STAGES = {"base": "base", "sr": "super-resolution"}


class ProgressDisplay:
    """Shows the progress of one job, inside its context."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, visible=False, left="")
        self._said: str | None = None
        self._silent_until = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def upload(self, sent: int, total: int) -> None:
        """Bytes of the upload sent so far."""
        self._show("upload", f"{total / 2**20:.1f} MiB", sent / total if total else 1.0, None)

    def waiting(self, position: int | None, reason: str | None = None) -> None:
        """The job is queued behind `position` others, or for `reason`."""
        before = "" if position is None else f", {position} before it" if position else ", next"
        if reason is not None:
            before = f": {reason}"
        self._show(f"in the queue{before}", "", 0.0, None)

    def step(self, stage: str, step: int, total_steps: int, fraction: float, eta_seconds: float | None) -> None:
        """A step of the stage is done; `fraction` is the share of the whole job."""
        self._show(STAGES.get(stage, stage), f"{step}/{total_steps}", fraction, eta_seconds)

    def phase(self, text: str) -> None:
        """An activity without steps, such as loading."""
        self._show(text, "", None, None)

    def _show(self, activity: str, detail: str, fraction: float | None, eta_seconds: float | None) -> None:
        left = "" if eta_seconds is None else f"{_duration(eta_seconds)} left"
        if self.console.is_terminal:
            said = f"{activity} {detail}".strip()
            self._bar.update(self._task, description=said, completed=fraction, visible=True, left=left)
            return
        now = time.monotonic()
        if activity == self._said and now < self._silent_until:
            return
        self._said, self._silent_until = activity, now + PLAIN_SECONDS
        done = "" if not fraction else f"{fraction:.0%}"
        self.say(", ".join(part for part in (f"{activity} {detail}".strip(), done, left) if part))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"
