"""Processes by what /proc says of them."""

from __future__ import annotations

from pathlib import Path


def children(parent: int) -> list[tuple[int, str]]:
    """(process id, command line) of every child of `parent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (state := status(int(entry.name))) and state[1] == parent:
            try:
                found.append((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")))
            except OSError:  # it ended meanwhile
                continue
    return found


def status(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])
