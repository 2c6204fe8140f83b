"""Operations that PyTorch does not have as one kernel, for both networks.

On an NVIDIA GPU they are Triton kernels behind `torch.library` ops, so that autograd, torch.compile and CUDA graphs see
one op each. Elsewhere they are compositions of PyTorch's own operations, and Triton is not imported.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

OLDEST = 80
"""Compute capability of Ampere, the first with bfloat16."""

_log = logging.getLogger(__name__)


def fused(x: Tensor) -> bool:
    """Whether the ops run as kernels on the device of `x`; layers then choose the order of work that suits these."""
    return x.is_cuda and kernels_work()


def direct_attention(x: Tensor) -> bool:
    """Whether window_attention.py takes the attention of `x`: it has no backward, and pays in 16 bits."""
    return fused(x) and not torch.is_grad_enabled() and x.dtype in (torch.bfloat16, torch.float16)


@torch.compiler.assume_constant_result
def kernels_work() -> bool:
    """Whether Triton is installed and can launch kernels, which takes a C compiler and Python's headers."""
    return _try_triton()


@functools.cache
def _try_triton() -> bool:
    """Logs why it does not work, once."""
    try:
        from triton.runtime import driver

        target = driver.active.get_current_target()
    except Exception as error:  # whatever the compiler or the driver raises
        reason = f"{type(error).__name__}: {error}"
    else:
        if target.backend == "cuda" and target.arch >= OLDEST:
            return True
        reason = (
            f"kernels are for NVIDIA GPUs of compute capability 8.0 or more; this is {target.backend} {target.arch}"
        )
    _log.warning("norms and attention take PyTorch's own, slower kernels: Triton does not work: %s", reason)
    return False
