"""Loss terms, and the interface of training objectives, which the loop is written against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from model.training.dataset import Source


@dataclass(frozen=True)
class Term:
    """One loss term: its sum over samples, and the number of samples it covers; tensors () on the device."""

    sum: Tensor
    count: Tensor


Terms = dict[str, Term]

Inputs = dict[str, Tensor | None]
"""Named tensors on the device, the batch first; None where a network or its data have no such input."""


class Objective(Protocol):
    """A network and its loss."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        ...

    def build(self) -> nn.Module:
        """The network at the start of training."""
        ...

    def inputs(self, source: Source, step: int, rows: range) -> Iterator[Inputs]:
        """What `losses` needs for `rows` of the batch of `step`, one mapping for each accumulation part."""
        ...

    def losses(self, predict: Callable[..., Any], inputs: Inputs) -> Terms:
        """Loss terms of one part. The same work for all values of the inputs, and nothing waits for the device, so that
        it can be recorded as a CUDA graph."""
        ...


def parts(rows: range, count: int) -> list[range]:
    """`rows` split into `count` consecutive parts of equal size."""
    size = len(rows) // count
    return [rows[k * size : (k + 1) * size] for k in range(count)]


def tensor_of(inputs: Inputs, name: str) -> Tensor:
    """An input that is there."""
    value = inputs[name]
    assert value is not None, name
    return value
