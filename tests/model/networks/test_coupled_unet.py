"""The coupled U-Net: size, dependencies between inputs and outputs, and refused inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.checkpoint.loading import build, seeded_weights
from model.networks import layers
from model.networks.config import PRESETS, ClipSpec, ConfigError, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair

TINY = PRESETS["tiny"].base
CLIP = PRESETS["tiny"].clip


def network(config: UNetConfig = TINY) -> CoupledUNet:
    net = build(CoupledUNet, config)
    seeded_weights(net, seed=5)
    return net


def clip(batch: int, spec: ClipSpec = CLIP, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(batch, *spec.video_shape, generator=generator)
    return Pair(video, torch.randn(batch, *spec.audio_shape, generator=generator))


def times(*values: float) -> Pair:
    """The same times for both modalities."""
    return Pair(torch.tensor(values), torch.tensor(values))


@pytest.fixture(scope="module")
def net() -> CoupledUNet:
    return network()


def parameters(config: UNetConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in CoupledUNet(config).parameters())


def test_the_published_flags_build_133_675_524_parameters() -> None:
    assert parameters(PRESETS["paper"].base) == 133_675_524


def test_other_windows_than_1_4_8_drop_the_middle_rs_mma_as_published() -> None:
    assert parameters(replace(PRESETS["paper"].base, windows=(1, 4, 4))) == 131_572_228


def test_fewer_residual_blocks_or_attentions_have_the_published_counts() -> None:
    assert parameters(replace(PRESETS["paper"].base, res_blocks=1)) == 93_138_436
    assert parameters(replace(PRESETS["paper"].base, video_attention_scales=())) == 114_600_964


def test_it_is_the_same_network_with_and_without_avx512(net: CoupledUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = []
    for has_avx512 in (False, True):
        monkeypatch.setattr(layers, "has_avx512", lambda answer=has_avx512: answer)
        with torch.inference_mode():
            predictions.append(net(clip(1), times(500.0)))
    for without, with_it in zip(*predictions, strict=True):
        assert without is not None
        assert without.abs().max() > 0.1
        assert torch.allclose(without, with_it, atol=1e-4)


def test_dilations_double_with_depth_and_start_again_after_512() -> None:
    with torch.device("meta"):
        net = CoupledUNet(PRESETS["paper"].base)
    down = [stage[0].audio.conv_in.conv.dilation[1] for stage in net.input_blocks[1:]]
    up = [
        layer.audio.conv_in.conv.dilation[1] for stage in net.output_blocks for layer in stage if hasattr(layer, "emb")
    ]
    assert down == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1, 2]
    assert up == [2, 1, 512, 256, 256, 128, 64, 32, 32, 16, 8, 4, 4, 2, 1]


def test_a_new_network_predicts_zero() -> None:
    eps_video, eps_audio = CoupledUNet(TINY).eval()(clip(1), times(3))
    assert eps_video.shape == (1, *CLIP.video_shape)
    assert eps_audio.shape == (1, *CLIP.audio_shape)
    assert not eps_video.any()
    assert not eps_audio.any()


@torch.no_grad()
def test_samples_of_a_batch_are_independent(net: CoupledUNet) -> None:
    x, t = clip(3), Pair(torch.tensor([10, 500, 999]), torch.tensor([0, 499.5, 20]))
    limits = torch.tensor(TINY.max_shifts(CLIP.frames))
    shifts = torch.stack([torch.zeros_like(limits), limits, limits // 2])
    together = net(x, t, shifts)
    for i in range(3):
        one = slice(i, i + 1)
        alone = net(*(pair.map(lambda value, one=one: value[one]) for pair in (x, t)), shifts[one])
        torch.testing.assert_close(together.video[one], alone.video, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.audio[one], alone.audio, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_shifts_default_to_zero_and_others_change_the_result(net: CoupledUNet) -> None:
    x = clip(1)
    zeros = torch.zeros(1, len(TINY.block_windows), dtype=torch.long)
    without, with_zeros = net(x, times(50)), net(x, times(50), zeros)
    assert torch.equal(without.video, with_zeros.video)
    assert torch.equal(without.audio, with_zeros.audio)
    for block, limit in enumerate(TINY.max_shifts(CLIP.frames)):
        if limit:
            shifted = zeros.clone()
            shifted[0, block] = 1
            assert not torch.allclose(net(x, times(50), shifted).audio, without.audio, atol=1e-4)


@torch.no_grad()
def test_uncoupled_each_modality_ignores_the_other_and_its_time(net: CoupledUNet) -> None:
    x, other = clip(1), clip(1, seed=1)
    t, early = Pair(torch.tensor([7]), torch.tensor([800])), torch.tensor([3])
    eps = net(x, t, coupled=False)
    assert torch.equal(net(Pair(x.video, other.audio), Pair(t.video, early), coupled=False).video, eps.video)
    assert torch.equal(net(Pair(other.video, x.audio), Pair(early, t.audio), coupled=False).audio, eps.audio)
    assert not torch.allclose(net(Pair(x.video, other.audio), t).video, net(x, t).video)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_single_modality_network_equals_half_of_an_uncoupled_one(modality: str) -> None:
    config = replace(TINY, cross_attention_scales=(), windows=())
    net, alone = network(config), network(replace(config, modalities=(modality,)))
    x, t = clip(2), times(20, 900)
    both = net(x, t)
    if modality == "video":
        eps, absent = alone(Pair(x.video, None), Pair(t.video, None))
        torch.testing.assert_close(eps, both.video)
    else:
        absent, eps = alone(Pair(None, x.audio), Pair(None, t.audio))
        torch.testing.assert_close(eps, both.audio)
    assert absent is None
    assert all(("audio" if modality == "video" else "video") not in name for name in alone.state_dict())


def test_gradients_reach_every_weight_and_both_inputs(net: CoupledUNet) -> None:
    net = network().requires_grad_(True)
    video, audio = x = clip(1).map(lambda value: value.requires_grad_(True))
    eps_video, eps_audio = net(x, times(30))
    (eps_video.square().mean() + eps_audio.square().mean()).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []
    assert video.grad is not None
    assert audio.grad is not None
    assert bool(video.grad.flatten(2).any(dim=2).all())


def test_the_gradient_of_the_input_is_the_slope_of_the_output(net: CoupledUNet) -> None:
    video, audio = clip(1)
    direction = clip(1, seed=9)[1]

    def loss(step: float) -> Tensor:
        moved = audio + step * direction
        return net(Pair(video, moved), times(100)).video.double().square().sum()

    with torch.no_grad():
        slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
    step = torch.zeros((), requires_grad=True)
    moved = audio + step * direction
    net(Pair(video, moved), times(100)).video.square().sum().backward()
    assert step.grad.item() == pytest.approx(slope.item(), rel=0.02)


@torch.no_grad()
def test_bfloat16_is_close_and_keeps_norms_and_time_in_float32() -> None:
    config = replace(TINY, channels=128)  # with few channels per group, norms amplify rounding
    net, half = network(config), network(config).to_compute(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    kept = {name.split(".")[-2] for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert {"norm_in", "norm_out", "norm", "emb"} < kept
    assert all("conv" not in name and "qkv" not in name for name in kept)
    args = clip(1), times(400)
    for approximate, exact in zip(half(*args), net(*args), strict=True):
        assert approximate.dtype == torch.float32
        assert (approximate - exact).norm() / exact.norm() < 0.03


def test_without_scale_shift_norm_the_time_is_added_before_the_norm() -> None:
    config = replace(TINY, scale_shift_norm=False)
    net = network(config)
    block = net.input_blocks[1][0].audio
    x, emb = torch.randn(2, 16, 32), torch.randn(2, 32)
    h = block.conv_in(torch.nn.functional.silu(block.norm_in(x)))
    h = block.conv_out(torch.nn.functional.silu(block.norm_out(h + emb[:, None])))
    torch.testing.assert_close(block(x, emb), x + h)


def shifts_of(*values: int) -> Tensor:
    shifts = torch.zeros(1, len(TINY.block_windows), dtype=torch.long)
    shifts[0, : len(values)] = torch.tensor(values)
    return shifts


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({"video": torch.zeros(1, 8, 3, 12, 16)}, "12, 16"),
        ({"video": torch.zeros(1, 8, 4, 16, 16)}, "4, 16, 16"),
        ({"audio": torch.zeros(1, 1, 1000)}, "1000"),
        ({"audio": torch.zeros(2, 1, 1024), "t_audio": torch.zeros(2)}, "1 videos does not match a batch of 2 sounds"),
        ({"audio": torch.zeros(1, 1, 448)}, "448 audio samples leave 7"),
        ({"video": torch.zeros(1, 7, 3, 16, 16)}, "8 frames is longer than the clip's 7"),
        ({"t_video": torch.zeros(2)}, r"\(1,\).*\(2,\)"),
        ({"audio": None, "t_audio": None}, "audio and t_audio must be given"),
        ({"shifts": torch.zeros(1, 4, dtype=torch.long)}, r"\(1, 9\).*\(1, 4\)"),
        ({"shifts": shifts_of(0, 5)}, "block 1 must be 0 … 4 frames; got 5"),
        ({"shifts": shifts_of(-1)}, "block 0 must be 0 … 7 frames; got -1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_the_numbers(net: CoupledUNet, change: dict, numbers: str) -> None:
    (video, audio), (t_video, t_audio) = clip(1), times(1)
    args = {"video": video, "audio": audio, "t_video": t_video, "t_audio": t_audio, "shifts": None, **change}
    with pytest.raises(ValueError, match=numbers):
        net(Pair(args["video"], args["audio"]), Pair(args["t_video"], args["t_audio"]), args["shifts"])


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: UNetConfig(channels=100), "multiple of 16.*100"),
        (lambda: UNetConfig(windows=(1, 4)), "pair up"),
        (lambda: UNetConfig(head_channels=48), "256 channels.*48"),
        (lambda: UNetConfig(heads=5), "cannot be split into 5"),
        (lambda: UNetConfig(windows=(1, 4, 32)).check(ClipSpec()), "32 frames.*16"),
        (lambda: UNetConfig().check(ClipSpec(sample_rate=16_001)), "25601.*64"),
        (lambda: UNetConfig().check(ClipSpec(width=60)), "64×60.*8"),
    ],
)
def test_configurations_that_do_not_fit_are_refused_with_the_numbers(make: object, numbers: str) -> None:
    with pytest.raises(ConfigError, match=numbers):
        make()  # type: ignore[operator]
