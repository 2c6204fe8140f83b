"""Inconsistent configurations are refused with the conflicting numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from model.networks.config import PRESETS, ClipSpec, ConfigError, ModelConfig, SRConfig, UNetConfig, norm_groups


def test_the_published_clip() -> None:
    clip = ClipSpec()
    assert (clip.duration, clip.samples) == (1.6, 25_600)
    assert clip.video_shape == (16, 3, 64, 64)
    assert clip.audio_shape == (1, 25_600)


def test_published_blocks_and_their_shifts() -> None:
    base = PRESETS["paper"].base
    assert base.block_windows == (1, 1, 4, 4, 8, 8, 8, 8, 8, 4, 4, 4, 1, 1, 1)
    assert base.max_shifts(16) == (15, 15, 12, 12, 8, 8, 8, 8, 8, 12, 12, 12, 15, 15, 15)
    assert replace(base, window_shift=False).max_shifts(16) == (0,) * 15


def test_the_middle_block_exists_for_the_published_windows_only() -> None:
    assert PRESETS["paper"].base.middle_coupled
    assert not UNetConfig(windows=(4, 4, 4)).middle_coupled
    assert not UNetConfig(modalities=("video",)).middle_coupled


def test_norms_have_the_published_groups_where_these_divide_the_channels() -> None:
    assert [norm_groups(channels) for channels in (128, 96, 48, 16)] == [32, 32, 16, 16]
    assert [norm_groups(channels, 8) for channels in (128, 96, 20)] == [8, 8, 4]


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (lambda: UNetConfig(channels=100), ["100", "16"]),
        (lambda: UNetConfig(heads=5), ["256", "5"]),
        (lambda: UNetConfig(head_channels=48), ["256", "48"]),
        (lambda: UNetConfig(windows=(1, 4)), ["(1, 4)", "(2, 4, 8)"]),
        (lambda: UNetConfig(windows=(0, 4, 8)), ["(0, 4, 8)"]),
        (lambda: UNetConfig(modalities=("smell",)), ["smell"]),
        (lambda: UNetConfig(audio_patch=0), ["audio_patch", "0"]),
        (lambda: UNetConfig(norm_groups=-1), ["norm_groups", "-1"]),
        (lambda: UNetConfig(prediction="score"), ["eps, v, x0", "score"]),
        (lambda: SRConfig(patch=0), ["patch", "0"]),
        (lambda: SRConfig(prediction="score"), ["eps, v, x0", "score"]),
        (lambda: SRConfig(heads=7), ["384", "7"]),
        (lambda: ModelConfig(clip=ClipSpec(height=60)), ["60×64", "8"]),
        (lambda: ModelConfig(clip=ClipSpec(sample_rate=16_010)), ["25616", "64"]),
        (lambda: ModelConfig(clip=ClipSpec(frames=4, sample_rate=16_000)), ["8", "4"]),
        (lambda: ModelConfig(clip=ClipSpec(frames=32, fps=40, sample_rate=1600)), ["1280", "20", "32"]),
        (lambda: ModelConfig(sr=SRConfig(factor=2, channel_mult=(1,) * 9, attention_scales=())), ["128", "256"]),
    ],
)
def test_inconsistent_configurations_are_refused_with_the_numbers(
    build: Callable[[], object], numbers: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        build()
    for number in numbers:
        assert number in str(refusal.value)


def test_a_single_modality_has_no_constraint_between_audio_and_frames() -> None:
    """Without RS-MMA the audio length does not depend on the frames."""
    ModelConfig(clip=ClipSpec(frames=4), base=UNetConfig(modalities=("video",)))


@pytest.mark.parametrize("field", ["frames", "fps", "height", "width", "sample_rate"])
@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), float("inf"), True, "10", None])
def test_a_clip_is_counted_in_whole_numbers_from_1(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be a whole number, at least 1"):
        replace(ClipSpec(), **{field: value})


def test_a_clip_without_a_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match="sample_rate must leave at least 1 audio sample"):
        ClipSpec(frames=1, fps=100, sample_rate=10)


def test_a_sound_that_ends_within_a_sample_is_refused() -> None:
    base = UNetConfig(
        channel_mult=(1, 2), cross_attention_scales=(2,), windows=(1,), video_attention_scales=(), audio_patch=1
    )
    with pytest.raises(ConfigError, match=r"16 frames at fps 24 last 16004\.67 samples at sample_rate 24007"):
        ModelConfig(clip=ClipSpec(fps=24, sample_rate=24_007), base=base)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        *((UNetConfig, field, 0) for field in ("channels", "res_blocks", "heads", "head_channels", "video_patch")),
        *((SRConfig, field, 0) for field in ("factor", "channels", "res_blocks", "heads", "patch", "norm_groups")),
        *((config, "channel_mult", value) for config in (UNetConfig, SRConfig) for value in ((), (0, 1), (1.5,))),
        *((config, "dropout", value) for config in (UNetConfig, SRConfig) for value in (-0.1, 1, float("nan"), "0")),
        (UNetConfig, "heads", "4"),
        (SRConfig, "factor", float("inf")),
    ],
)
def test_networks_refuse_values_outside_their_limits(config: type, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be"):
        config(**{field: value})
