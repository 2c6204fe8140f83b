"""Packets of an MPEG transport stream (ISO/IEC 13818-1, 2.4.3)."""

from __future__ import annotations

import os
import re
from collections import Counter

SYNC = 0x47
STEPS = (188, 192, 204)
"""Bytes from packet to packet: plain, with the time stamps of Blu-ray, with parity."""

SCAN_BYTES = 2**20
_RUNS = {step: re.compile(rb"(?=(?:\x47[\s\S]{%d}){3}\x47)" % (step - 1)) for step in STEPS}


def find(head: bytes) -> tuple[int, int] | None:
    """Position of the first packet in `head` and the step to the next; four sync bytes in a row tell."""
    found = [(match.start(), step) for step, run in _RUNS.items() if (match := run.search(head))]
    if found:
        return min(found)
    return (0, STEPS[0]) if len(head) > 376 and head[0] == head[188] == head[376] == SYNC else None


def scrambled_pids(descriptor: int, skip: int = 0) -> set[int]:
    """Packet identifiers of the elementary streams whose packets are mostly scrambled, by the first megabyte."""
    data = os.pread(descriptor, SCAN_BYTES, skip)
    found = find(data)
    if found is None:
        return set()
    clear: Counter[int] = Counter()
    scrambled: Counter[int] = Counter()
    at, step = found
    while at + 4 <= len(data):
        if data[at] != SYNC:
            at += 1
            continue
        pid = (data[at + 1] & 0x1F) << 8 | data[at + 2]
        if data[at + 3] & 0x10:  # it has a payload
            (scrambled if data[at + 3] & 0xC0 else clear)[pid] += 1
        at += step
    return {pid for pid, count in scrambled.items() if count > clear[pid]}
