"""Host values on a device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """`values` on `device`. To a GPU the copy is queued, from pinned memory: one from ordinary memory would wait until
    the device has done all that was queued before."""
    device = torch.device(device)
    if device.type != "cuda" or not values.is_cpu:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
