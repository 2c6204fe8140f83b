"""Runs the parts of benchmarks.gpu, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
SHORTEST = 1.0
"""Seconds below which no part is started."""


@dataclass(frozen=True)
class Part:
    """A function of `module` that yields what it finds, and its time limit in seconds. Earlier parts leave it `least`
    of them."""

    module: str
    seconds: float
    least: float = 0.0


PARTS = {
    "device": Part("benchmarks.gpu_networks", 30, 8),
    "base": Part("benchmarks.gpu_networks", 60, 42),
    "sr": Part("benchmarks.gpu_networks", 45, 18),
    "golden": Part("benchmarks.gpu_checks", 30, 8),
    "kernels": Part("benchmarks.gpu_networks", 20, 7),
    "norms": Part("benchmarks.gpu_networks", 30, 8),
    "warmup": Part("benchmarks.gpu_networks", 60, 16),
    "training": Part("benchmarks.gpu_service", 70, 32),
    "stack": Part("benchmarks.gpu_service", 100, 55),
    "tuning": Part("benchmarks.gpu_tuning", 70, 10),
    "tests": Part("benchmarks.gpu_checks", 240, 15),
}
"""In order of importance, except that `tests` come last: they take what is left. `least` is about what parts took on an
H200, or enough for their first results."""

SECONDS = 240
"""For all parts together, by default. It exceeds the sum of their `least`, because imports take up to 15 s."""


def limit(parts: Sequence[Part], left: float) -> float:
    """Time limit of the first of `parts` where `left` seconds are left for all: its own, or what remains beside `least`
    of the others. Where `left` is too short for every `least`, all are shortened alike."""
    left = max(0.0, left)
    first, *others = parts
    kept, needed = sum(part.least for part in others), sum(part.least for part in parts)
    if needed > left:
        kept *= left / needed
    return min(first.seconds, left - kept)


@dataclass(frozen=True)
class Run:
    """What a part must know. `ceiling`: operations per second of the matrix product, once measured; `seconds`: its time
    limit; `folder`: for its files, shared by all parts."""

    device: str
    preset: str
    folder: Path
    seconds: float = 0.0
    ceiling: float | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


def measure(run: Run, parts: Mapping[str, Part], seconds: float, out: Path) -> dict[str, Any]:
    """Run the parts one after another within `seconds`, writing the report to `out` all the time."""
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"device": run.device, "preset": run.preset, "parts": {}}
    context = multiprocessing.get_context("forkserver")
    first = context.Process(target=_nothing)  # the first waits for the preloaded modules, which is no part's time
    first.start()
    first.join()
    for number, (name, part) in enumerate(parts.items()):
        began = time.monotonic()
        end = began + limit(list(parts.values())[number:], deadline - began)
        if end - began < SHORTEST:
            report["parts"][name] = {"error": "no time left", "took_s": 0.0}
            continue
        ceiling = report["parts"].get("device", {}).get("matrix_product_tflop_per_s")
        mine = replace(run, seconds=end - began, ceiling=ceiling and 1e12 * ceiling)
        file = run.folder / f"{name}.json"
        process = context.Process(target=_child, args=(part.module, name, mine, file), name=name)
        process.start()
        while "took_s" not in report["parts"].get(name, {}):
            process.join(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            stopped = process.is_alive() and time.monotonic() >= end
            if stopped:
                _kill(process.pid)
                process.join()
            found = _read(file)
            if stopped:
                found["error"] = f"stopped at its time limit of {end - began:.0f} s"
            elif process.exitcode:
                found.setdefault("error", f"the process ended with status {process.exitcode}")
            if process.exitcode is not None:
                found["took_s"] = round(time.monotonic() - began, 1)
            report["parts"][name] = found
            _write(out, report)
    _write(out, report)
    return report


def _child(module: str, name: str, run: Run, file: Path) -> None:
    """In a process of its own: run one part and write all it yields to `file`."""
    os.setsid()  # so that killing the group ends what the part has started too
    found: dict[str, Any] = {}
    try:
        function: Callable[[Run], Iterator[dict[str, Any]]] = getattr(import_module(module), name)
        for piece in function(run):
            found.update(piece)
            _write(file, found)
    except BaseException as error:
        traceback.print_exc()
        _write(file, {**found, "error": f"{type(error).__name__}: {error}"[:2000]})
        sys.exit(1)


def _nothing() -> None:
    pass


def _kill(group: int | None) -> None:
    """Kill a child and what it has started. It is no leader of a group in its first moments."""
    assert group is not None
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(group, signal.SIGKILL)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _write(file: Path, content: dict[str, Any]) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(file)
