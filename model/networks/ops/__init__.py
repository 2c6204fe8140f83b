"""Operations that PyTorch does not have as one kernel, for both networks.

On an NVIDIA GPU they are Triton kernels behind `torch.library` ops, so that autograd, torch.compile and CUDA graphs see
one op each. Elsewhere they are compositions of PyTorch's own operations, and Triton is not imported.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None


def fused(x: Tensor) -> bool:
    """Whether the ops run as kernels on the device of `x`; layers then choose the order of work that suits these."""
    return HAS_TRITON and x.is_cuda


def direct_attention(x: Tensor) -> bool:
    """Whether window_attention.py takes the attention of `x`: it has no backward, and pays in 16 bits."""
    return fused(x) and not torch.is_grad_enabled() and x.dtype in (torch.bfloat16, torch.float16)
