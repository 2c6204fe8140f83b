"""Triton launches on the current device, which need not be the one of the tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes the device of `x` the current one; nothing for a tensor on a CPU, under Triton's interpreter."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
