"""A stand-in for the recorder of CUDA graphs that runs on the CPU.

A replay repeats the function on the same tensors, as a graph does on the same addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from model.runtime.cuda_graphs import Outputs, Recording


class ReplayOnCpu:
    """A recorder without a device. `fails` are raised by captures, one after another."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)
        self.captures = self.replays = self.released = self.renewed = 0

    def warm_up(self, run: Callable[[], Outputs]) -> None:
        run()

    def capture(self, run: Callable[[], Outputs]) -> Recording:
        if self.fails:
            raise self.fails.pop()
        self.captures += 1
        outputs = run()

        def replay() -> None:
            self.replays += 1
            for output, value in zip(outputs, run(), strict=True):
                if output is not None and value is not None:
                    output.copy_(value)

        def release() -> None:
            self.released += 1

        return Recording(replay, outputs, release)

    def renew(self) -> None:
        self.renewed += 1
