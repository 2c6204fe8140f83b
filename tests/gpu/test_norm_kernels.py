"""The Triton kernels on a real GPU, at published shapes, against PyTorch's own operations in float64 or float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.networks.attention import attend_windows
from model.networks.ops.add_bias import add_bias
from model.networks.ops.group_norm import group_norm
from model.networks.ops.window_attention import over_frames, windows
from tests.model.networks.norm_reference import reference

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "video at scale 1": ((1, 16, 64, 64, 128), {"modulated": True, "offset": (1, 16)}),
    "video at scale 8": ((8, 16, 8, 8, 512), {"modulated": True, "offset": (1, 16)}),
    "video beside its skip connection": ((2, 16, 16, 16, 384), {"skip": 256}),
    "audio at scale 1": ((2, 25_600, 128), {"modulated": True, "offset": (1, 1)}),
    "audio at scale 8": ((2, 400, 512), {"skip": 512}),
    "a frame": ((32, 1024, 256), {"silu": False}),
    "a small frame": ((32, 64, 512), {"silu": False}),
    "frames of each pixel": ((2, 16, 1024, 256), {"silu": False, "inner": 1024}),
    "super-resolution": ((4, 256, 256, 192), {"modulated": True, "offset": (1, 1)}),
    "channels that are no multiple of 32": ((3, 1000, 40), {"groups": 8, "skip": 16}),
}
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
"""In float32 two norms of PyTorch on the CPU differ by 3.3e-6 at these sizes."""


def distance(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", SHAPES)
def test_norm_kernels_equal_float64_forward_and_backward(name: str, dtype: torch.dtype) -> None:
    shape, options = SHAPES[name]
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    skip, inner = int(options.get("skip", 0)), int(options.get("inner", 1))  # type: ignore[call-overload]
    groups, silu = int(options.get("groups", 32)), bool(options.get("silu", True))  # type: ignore[call-overload]
    channels = shape[-1] + skip
    given = {"x": (drawn(*shape) + 1).to(dtype), "weight": 1 + 0.3 * drawn(channels), "bias": drawn(channels)}
    if skip:
        given["skip"] = drawn(*shape[:-1], skip).to(dtype)
    if options.get("modulated"):
        given["modulation"] = drawn(shape[0], 2 * channels)
    if options.get("offset"):
        given["offset"] = drawn(*options["offset"], channels).to(dtype)  # type: ignore[misc]
    for value in given.values():
        value.requires_grad_()
    y = group_norm(**given, groups=groups, silu=silu, inner=inner)
    dy = drawn(*y.shape).to(dtype)
    gradients = torch.autograd.grad(y, list(given.values()), dy)
    exact = {key: value.detach().double().requires_grad_() for key, value in given.items()}
    expected = reference(**exact, groups=groups, silu=silu, inner=inner)
    expected_gradients = torch.autograd.grad(expected, list(exact.values()), dy.double())
    assert distance(y.detach(), expected.detach()) < BOUNDS[dtype]
    for key, actual, own in zip(given, gradients, expected_gradients, strict=True):
        # The gradient of an offset is a sum of rounded gradients that nearly cancel.
        bound = BOUNDS[dtype] * (1 if key in ("x", "skip", "modulation") else 10)
        if key != "offset":
            assert distance(actual, own) < bound, key
        else:
            assert (actual.double() - own).abs().max() < 0.02 * own.abs().max() + 1e-3 * y.numel() ** 0.5


def test_a_norm_has_the_same_result_every_time_and_in_every_batch() -> None:
    x, weight, bias = torch.randn(8, 4096, 384, device="cuda").bfloat16(), *torch.randn(2, 384, device="cuda")
    together = group_norm(x, weight, bias, 32, silu=True)
    assert torch.equal(group_norm(x, weight, bias, 32, silu=True), together)
    assert torch.equal(group_norm(x[3:4], weight, bias, 32, silu=True), together[3:4])


def test_a_norm_is_captured_in_a_cuda_graph() -> None:
    x, weight, bias = torch.randn(2, 4096, 128, device="cuda"), *torch.randn(2, 128, device="cuda")
    group_norm(x, weight, bias, 32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = group_norm(x, weight, bias, 32)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, group_norm(x, weight, bias, 32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_with_its_bias_is_one_rounded_sum(dtype: torch.dtype) -> None:
    x, h, bias = (torch.randn(*size, device="cuda").to(dtype) for size in ((3, 33, 65, 192), (3, 33, 65, 192), (192,)))
    assert torch.equal(add_bias(x, h, bias), (x.float() + h.float() + bias.float()).to(dtype))


@pytest.mark.parametrize(("places", "channels"), [(1024, 256), (256, 384), (64, 512)])
def test_attention_over_frames_equals_pytorchs(places: int, channels: int) -> None:
    q, k, v = torch.randn(2, 16, places, 3, 4, channels // 4, device="cuda").bfloat16().unbind(3)
    exact = F.scaled_dot_product_attention(*(value.float().permute(0, 2, 3, 1, 4) for value in (q, k, v)))
    assert distance(over_frames(q, k, v), exact.permute(0, 3, 1, 2, 4).double()) < 5e-3


@pytest.mark.parametrize(
    ("q_per_frame", "k_per_frame", "window", "rest"), [(1024, 400, 1, 0), (400, 1024, 1, 0), (25, 64, 8, 3)]
)
def test_windows_equal_gathered_keys(q_per_frame: int, k_per_frame: int, window: int, rest: int) -> None:
    frames, shift = 16, torch.tensor([[0, 5], [7, 0]], device="cuda")[:, 0]
    q = torch.randn(2, frames * q_per_frame + rest, 3, 4, 64, device="cuda").bfloat16()[:, :, 0]
    kv = torch.randn(2, frames * k_per_frame, 3, 4, 64, device="cuda").bfloat16()[:, :, 1:]
    actual = windows(q, *kv.unbind(2), frames, q_per_frame, k_per_frame, window, shift)
    with torch.enable_grad():  # which gathers the keys, and leaves attention to PyTorch
        expected = attend_windows(q.float(), *kv.float().unbind(2), frames, q_per_frame, k_per_frame, window, shift)
    assert distance(actual.flatten(2), expected.double()) < 5e-3
