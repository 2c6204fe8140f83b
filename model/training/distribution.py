"""Distributed training: one process per GPU under torchrun, or a single process without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.training.configuration import ConfigurationError, TrainingConfig


@dataclass(frozen=True)
class Processes:
    """This process within a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def rows(self, config: TrainingConfig) -> range:
        """This process' samples of a step. Raises ConfigurationError if the batch is not divisible."""
        if config.batch % (self.count * config.accumulate):
            raise ConfigurationError(
                f"batch must be divisible by processes × accumulate; got {config.batch}, {self.count}, "
                f"{config.accumulate}"
            )
        share = config.batch // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def sum(self, value: Tensor) -> Tensor:
        """All-reduced sum over the processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """True if `flag` is set in any process; all must call this at the same step."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device))) if self.count > 1 else flag

    def wait(self) -> None:
        """Barrier."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the run that torchrun started, or run alone. `device`: cpu, cuda, or auto."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, torch.device(kind))
        return
    place = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
