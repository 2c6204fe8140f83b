"""The random stream of one output: a clip depends on its seed, not on the other clips of its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from model.sampling.latents import Latents, State
from model.sampling.transfer import to_device


class RandomStream:
    """Draws for output `index` of a request with `seed`: on the CPU in float32, video first, then audio, on any
    device."""

    def __init__(self, seed: int, index: int = 0) -> None:
        self._name = f"duet/{seed}/{index}"
        self._generator = _generator(self._name)

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal values."""
        return to_device(torch.randn(*shape, generator=self._generator), device)

    def normal_like(self, x: State) -> State:
        """Standard normal noise of the shape and on the device of `x`."""
        if isinstance(x, Latents):
            return x.map(lambda value: self.normal(value.shape, value.device))
        return self.normal(x.shape, x.device)

    def integer(self, low: int, high: int) -> int:
        """A whole number, uniform over low … high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator))

    def shifts(self, max_shifts: Sequence[int], batch: int = 1) -> Tensor:
        """RS-MMA window shifts (batch, blocks), block k uniform over 0 … max_shifts[k], both ends included."""
        draws = [torch.randint(0, limit + 1, (batch,), generator=self._generator) for limit in max_shifts]
        return torch.stack(draws, dim=1) if draws else torch.zeros(batch, 0, dtype=torch.long)

    def frame_noise(
        self, start: int, stop: int, shape: Sequence[int], device: torch.device | str = "cpu", name: str = "frame"
    ) -> Tensor:
        """Standard normal noise (stop − start, *shape) of the frames start … stop − 1 of a clip of any length.

        A frame's noise is a function of the seed, the output and the frame's number: it is drawn again whenever it is
        needed, not kept, and advances the stream by nothing. Noises of different `name` are independent.
        """
        frames = [torch.randn(*shape, generator=_generator(f"{self._name}/{name}/{k}")) for k in range(start, stop)]
        return to_device(torch.stack(frames), device)


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
