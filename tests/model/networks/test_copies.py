"""Copies in a forward as a GPU does it: none for the sake of a layout, none to put tensors side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.checkpoint.loading import build
from model.networks import attention, ops
from model.networks.config import PRESETS, TEXT_TOKENS
from model.networks.coupled_unet import CoupledUNet
from model.networks.ops import group_norm
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.networks.text import TextTokens

TINY = PRESETS["tiny"]
COPIES = ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::cat", "aten::index_select")


class CountCopies(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of work of a GPU, with each op counted as one."""
    monkeypatch.setattr(ops, "fused", lambda x: True)
    monkeypatch.setattr(ops, "direct_attention", lambda x: True)
    monkeypatch.setattr(group_norm._Direct, "apply", lambda *arguments: group_norm._group_norm(*arguments))
    monkeypatch.setattr(attention, "_attend_by_products", F.scaled_dot_product_attention)


def copies(network: nn.Module, *inputs: Any) -> dict[str, int]:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    network.to_compute(torch.bfloat16)  # type: ignore[operator]
    with torch.no_grad(), CountCopies() as counted:
        network(*inputs)
    return {name: counted.counts[name] for name in COPIES if counted.counts[name]}


@pytest.mark.parametrize("words", [False, True])
def test_the_coupled_network_copies_only_to_cast_and_to_enlarge(as_on_a_gpu: None, words: bool) -> None:
    x, t = Pair(torch.zeros(2, *TINY.clip.video_shape), torch.zeros(2, *TINY.clip.audio_shape)), torch.zeros(2)
    shifts = torch.zeros(2, len(TINY.base.block_windows), dtype=torch.long)
    config = replace(TINY.base, text=24) if words else TINY.base
    captions = TextTokens(torch.zeros(2, TEXT_TOKENS, 24), torch.ones(2, TEXT_TOKENS, dtype=torch.bool))
    text = captions if words else None
    assert copies(build(CoupledUNet, config), x, Pair(t, t), shifts, True, text) == {
        # input and output of each modality, the bias of the head, the tokens of the captions
        "aten::_to_copy": 5 + words,
        "aten::clone": 6,  # three enlargements of each modality
        "aten::cat": 2,  # sines and cosines of each time
    }


def test_super_resolution_copies_only_to_cast_and_to_enlarge(as_on_a_gpu: None) -> None:
    frames, side = torch.zeros(2, 3, 64, 64), torch.zeros(2)
    assert copies(build(SRUNet, TINY.sr), frames, frames, side) == {
        "aten::_to_copy": 3,  # noisy and enlarged frames, the output
        "aten::clone": 2,  # the enlargement of both branches
        "aten::cat": 2,  # the frames, which are side by side; sines and cosines of the time
    }


def test_a_training_step_of_the_coupled_network_gathers_only_where_windows_overlap(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries, keys and values are taken apart, and their gradients joined, in one piece each. A window of one frame
    that is never shifted is read where it is."""
    config = replace(TINY.base, window_shift=False)
    gathered = sum(window not in (1, TINY.clip.frames) for window in config.block_windows)
    assert 0 < gathered < len(config.block_windows)
    network = build(CoupledUNet, config)
    x, t = Pair(torch.zeros(1, *TINY.clip.video_shape), torch.zeros(1, *TINY.clip.audio_shape)), torch.zeros(1)
    shifts = torch.zeros(1, len(config.block_windows), dtype=torch.long)
    monkeypatch.setattr(ops, "direct_attention", lambda x: False)  # it has no gradients
    with CountCopies() as counted:
        sum(value.square().sum() for value in network(x, Pair(t, t), shifts)).backward()
    assert counted.counts["aten::index_select"] == counted.counts["aten::index_add"] == 4 * gathered
    assert counted.counts["aten::select_backward"] == 0
    assert counted.counts["aten::slice_backward"] == 2  # of the head, for the frames before and after


def test_a_copy_would_be_counted(as_on_a_gpu: None) -> None:
    class Transposed(SRUNet):
        def forward(self, x: Tensor, low_res: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            return super().forward(x.transpose(2, 3).contiguous(), low_res, t)

    frames = torch.zeros(1, 3, 64, 64)
    assert copies(build(Transposed, TINY.sr), frames, frames, torch.zeros(1))["aten::clone"] == 3
