"""The batch sizes of a network. A few sizes need few CUDA graphs; a plan covers any number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SIZES = (1, 2, 4, 8, 16)
"""On a GPU."""

SIZES_CPU = (1, 2, 4)
"""One clip keeps two cores busy: larger batches gain little, and every clip waits for the whole batch."""


class BatchSizes:
    """The batch sizes in use, the largest one bounded by memory: `halve` after a forward that did not fit.

    A batch that is not full is padded. By default a batch of n costs n times a single sample, so nothing is padded
    where a size fits; `measured` costs, in any unit, decide when padding pays.
    """

    def __init__(self, sizes: Sequence[int], measured: Mapping[int, float] | None = None) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"batch sizes must be 1 or more; got {list(sizes)}")
        self._sizes = tuple(sorted(set(sizes)))
        self._costs = dict(measured or {})

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ascending."""
        return self._sizes

    @property
    def largest(self) -> int:
        return self._sizes[-1]

    def plan(self, count: int) -> list[int]:
        """Sizes of the forwards that cover `count` samples at the least cost, large ones first.

        Their sum is at least `count`; the excess is padding, never a whole forward.
        """
        sizes, best = [], self._best(count)
        while count > 0:
            sizes.append(best[count][2])
            count -= sizes[-1]
        return sorted(sizes, reverse=True)

    def cost(self, count: int) -> float:
        """The cost of the forwards that `plan` gives."""
        return self._best(count)[count][0]

    def _best(self, count: int) -> list[tuple[float, int, int]]:
        """For 0 … `count` samples: the least cost, the number of forwards, the size of the first."""
        best: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        for k in range(1, count + 1):
            options = []
            for size in self._sizes:
                cost, forwards, _ = best[max(0, k - size)]
                options.append((cost + self._costs.get(size, float(size)), forwards + 1, size))
            best.append(min(options, key=lambda option: (option[0], option[1])))
        return best

    def halve(self, size: int) -> bool:
        """Drop all sizes above half of `size`, which did not fit. False if it was a single sample."""
        if size <= 1:
            return False
        kept = tuple(each for each in self._sizes if each <= size // 2)
        self._sizes = kept or (size // 2,)
        return True
