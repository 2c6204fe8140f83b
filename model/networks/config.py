"""Configuration of a model: its clip, its two networks, its schedule. Without torch, because the API reads it too.

Base numbers are fields, derived numbers are properties. Figures of the `paper` preset: Ruan et al.,
CVPR 2023, and the flags of the published scripts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

MODALITIES = ("video", "audio")
KINDS = ("generate", "v2a", "a2v", "edit")
PredictionType = Literal["eps", "v", "x0"]


def norm_groups(channels: int, groups: int = 32) -> int:
    """Groups of a group normalisation: `groups` (32 as published), or their greatest common divisor with `channels`."""
    return math.gcd(groups, channels)


AUDIO_STRIDE = 4
"""Audio is pooled by 4 where video is pooled by 2×2: both keep a quarter of their values at each scale."""


TEXT_TOKENS = 32
"""Tokens of a caption that a network sees; the rest is cut off. Fixed, so that CUDA graphs need one shape only."""


class ConfigError(ValueError):
    """An invalid or inconsistent configuration; the message names the field or the numbers."""


def integer_stride(steps: int, wanted: int) -> int | None:
    """The smallest stride from 0 that keeps exactly `wanted` of `steps` timesteps, as in the published code."""
    return next((stride for stride in range(1, steps) if len(range(0, steps, stride)) == wanted), None)


@dataclass(frozen=True)
class ClipSpec:
    """The clip a model makes: `frames` images of `height`×`width` pixels at `fps` hertz with mono sound at
    `sample_rate`."""

    frames: int = 16
    fps: int = 10
    height: int = 64
    width: int = 64
    sample_rate: int = 16_000

    def __post_init__(self) -> None:
        _check_counts(self, "frames", "fps", "height", "width", "sample_rate")
        if self.samples < 1:
            raise ConfigError(
                f"sample_rate must leave at least 1 audio sample in {self.duration} s; got {self.sample_rate}"
            )

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        """Audio samples that sound as long as the frames last."""
        return self.frames * self.sample_rate // self.fps

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """(frames, channels, height, width)."""
        return self.frames, 3, self.height, self.width

    @property
    def audio_shape(self) -> tuple[int, int]:
        """(channels, samples)."""
        return 1, self.samples


@dataclass(frozen=True)
class UNetConfig:
    """The coupled U-Net. Scales are named by their downsampling factor: 1, 2, 4, 8.

    `head_channels` is the width of an RS-MMA head; every self-attention uses `heads` heads. `windows[k]` is the RS-MMA
    window, in frames, at `cross_attention_scales[k]`. With one modality only that sub-network is built, without RS-MMA:
    the paper's single-modality baselines.

    Options for small networks, not in the published one. `norm_groups`: the most groups of a group normalisation; CPUs
    are slow at groups of two or three channels. `video_patch` and `audio_patch`: a square of that many pixels a side,
    or that many samples, is one token of the finest scale (Hoogeboom et al., simple diffusion, 2023). `prediction`: the
    output, "eps" (noise), "v" or "x0" (see model/sampling/prediction.py). `text`: channels of the token vectors of
    captions, 256 for `wordllama`; None is a network without text. `text_attention_scales`: where both modalities attend
    to them, besides the middle.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    res_blocks: int = 2
    heads: int = 4
    head_channels: int = 64
    cross_attention_scales: tuple[int, ...] = (2, 4, 8)
    windows: tuple[int, ...] = (1, 4, 8)
    window_shift: bool = True
    video_attention_scales: tuple[int, ...] = (2, 4, 8)
    audio_attention_scales: tuple[int, ...] = ()
    scale_shift_norm: bool = True
    dropout: float = 0.0
    modalities: tuple[str, ...] = MODALITIES
    video_patch: int = 1
    audio_patch: int = 1
    norm_groups: int = 32
    prediction: PredictionType = "eps"
    text: int | None = None
    text_attention_scales: tuple[int, ...] = (2, 4, 8)

    def __post_init__(self) -> None:
        _check_counts(self, "res_blocks", "heads", "head_channels", "video_patch", "audio_patch", "norm_groups")
        _check_network(self)
        if self.text is not None:
            _check_counts(self, "text")
        if len(self.windows) != len(self.cross_attention_scales):
            raise ConfigError(
                f"windows {self.windows} and cross_attention_scales {self.cross_attention_scales} must pair up: "
                "one window for each scale"
            )
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            raise ConfigError(f"modalities must be some of {MODALITIES}; got {self.modalities}")
        if any(window < 1 for window in self.windows):
            raise ConfigError(f"windows must be at least 1 frame; got {self.windows}")
        for level, mult in enumerate(self.channel_mult):
            scale, width = 2**level, mult * self.channels
            scales = (*self.video_attention_scales, *self.audio_attention_scales, *self.text_scales)
            attends = scale in scales or mult == self.channel_mult[-1]
            if attends and width % self.heads:
                raise ConfigError(
                    f"{width} channels at scale {scale} cannot be split into {self.heads} self-attention heads"
                )
            if self.coupled and scale in self.cross_attention_scales and width % self.head_channels:
                raise ConfigError(
                    f"{width} channels at scale {scale} cannot be split into RS-MMA heads of {self.head_channels}"
                )

    @property
    def coupled(self) -> bool:
        """Both modalities are present, coupled by RS-MMA."""
        return set(self.modalities) == set(MODALITIES)

    @property
    def scales(self) -> tuple[int, ...]:
        return tuple(2**level for level in range(len(self.channel_mult)))

    @property
    def text_width(self) -> int:
        """Channels of a caption's tokens in the network."""
        return 2 * self.channels

    @property
    def text_scales(self) -> tuple[int, ...]:
        """The scales at which both modalities attend to a caption; empty without text."""
        return self.text_attention_scales if self.text is not None else ()

    @property
    def video_stride(self) -> int:
        """Side of a token at the coarsest scale, in pixels."""
        return self.video_patch * 2 ** (len(self.channel_mult) - 1)

    @property
    def audio_stride(self) -> int:
        """Length of a token at the coarsest scale, in samples."""
        return self.audio_patch * AUDIO_STRIDE ** (len(self.channel_mult) - 1)

    @property
    def middle_coupled(self) -> bool:
        """The published code builds the middle RS-MMA block only for windows (1, 4, 8) exactly; checkpoints depend on
        it."""
        return self.coupled and self.windows == (1, 4, 8)

    @property
    def block_windows(self) -> tuple[int, ...]:
        """Window of every shifted RS-MMA block in order of execution: input blocks, then output blocks."""
        if not self.coupled:
            return ()
        window = dict(zip(self.cross_attention_scales, self.windows, strict=True))
        down = [window[s] for s in self.scales for _ in range(self.res_blocks) if s in window]
        up = [window[s] for s in reversed(self.scales) for _ in range(self.res_blocks + 1) if s in window]
        return tuple(down + up)

    def max_shifts(self, frames: int) -> tuple[int, ...]:
        """Largest allowed shift of every RS-MMA block: a window starts at frame 0 … frames − window."""
        return tuple(frames - window if self.window_shift else 0 for window in self.block_windows)

    def check(self, clip: ClipSpec) -> None:
        """Raise ConfigError, naming the numbers, unless the network can process `clip`."""
        scales = len(self.channel_mult)
        if "video" in self.modalities and (clip.height % self.video_stride or clip.width % self.video_stride):
            patches = f" of patches of {self.video_patch}" if self.video_patch > 1 else ""
            raise ConfigError(
                f"frames of {clip.height}×{clip.width} pixels are not divisible by {self.video_stride} "
                f"({scales} scales{patches})"
            )
        if "audio" in self.modalities and clip.samples % self.audio_stride:
            patches = f", patches of {self.audio_patch}" if self.audio_patch > 1 else ""
            raise ConfigError(
                f"{clip.samples} audio samples are not divisible by {self.audio_stride} "
                f"({scales} scales of stride {AUDIO_STRIDE}{patches})"
            )
        if self.coupled:
            self.check_coupling(clip.frames, clip.samples)

    def check_coupling(self, frames: int, samples: int) -> None:
        """Raise ConfigError, naming the numbers, unless RS-MMA works for clips of these lengths."""
        coarsest = samples // self.audio_stride
        if coarsest < frames:
            raise ConfigError(
                f"{samples} audio samples leave {coarsest} at the coarsest scale, fewer than {frames} frames"
            )
        if max(self.block_windows, default=1) > frames:
            raise ConfigError(
                f"an RS-MMA window of {max(self.block_windows)} frames is longer than the clip's {frames}"
            )


@dataclass(frozen=True)
class SRConfig:
    """The super-resolution U-Net (guided-diffusion's upsampler), one frame at a time, `height`×`width` → ×`factor`.

    `patch`, `norm_groups` and `prediction` are options for small networks, as in UNetConfig.
    """

    factor: int = 4
    channels: int = 192
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    res_blocks: int = 2
    heads: int = 4
    attention_scales: tuple[int, ...] = (8, 16, 32)
    learn_sigma: bool = True
    scale_shift_norm: bool = True
    dropout: float = 0.0
    patch: int = 1
    norm_groups: int = 32
    prediction: PredictionType = "eps"

    def __post_init__(self) -> None:
        _check_counts(self, "factor", "res_blocks", "heads", "patch", "norm_groups")
        _check_network(self)
        for level, mult in enumerate(self.channel_mult):
            if 2**level in self.attention_scales and (mult * self.channels) % self.heads:
                raise ConfigError(
                    f"{mult * self.channels} channels at scale {2**level} cannot be split into {self.heads} heads"
                )

    @property
    def scales(self) -> tuple[int, ...]:
        return tuple(2**level for level in range(len(self.channel_mult)))

    @property
    def stride(self) -> int:
        """Side of a token at the coarsest scale, in pixels."""
        return self.patch * self.scales[-1]

    @property
    def out_channels(self) -> int:
        """3 for the prediction, and 3 for the logits of the variance if it is learned."""
        return 6 if self.learn_sigma else 3

    def check(self, clip: ClipSpec) -> None:
        """Raise ConfigError, naming the numbers, unless frames of `clip` can be upsampled."""
        for side in (clip.height * self.factor, clip.width * self.factor):
            if side % self.stride:
                patches = f" of patches of {self.patch}" if self.patch > 1 else ""
                raise ConfigError(
                    f"a side of {side} pixels is not divisible by {self.stride} "
                    f"({len(self.channel_mult)} scales{patches})"
                )


def _check_counts(config: object, *names: str, most: int | None = None) -> None:
    """Raise ConfigError unless each named field is a whole number, at least 1 and at most `most`."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            limit = "at least 1" if most is None else f"1 … {most}"
            raise ConfigError(f"{name} must be a whole number, {limit}; got {value!r}")


def _check_network(config: UNetConfig | SRConfig) -> None:
    _check_counts(config, "channels")
    if config.channels % 16:
        raise ConfigError(f"channels must be a multiple of 16 (group normalisation); got {config.channels}")
    if not config.channel_mult or not all(type(mult) is int and mult > 0 for mult in config.channel_mult):
        raise ConfigError(f"channel_mult must be whole numbers of at least 1; got {config.channel_mult!r}")
    if not isinstance(config.dropout, int | float) or not 0 <= config.dropout < 1:
        raise ConfigError(f"dropout must be at least 0 and less than 1; got {config.dropout!r}")
    if config.prediction not in get_args(PredictionType):
        raise ConfigError(f"prediction must be one of {', '.join(get_args(PredictionType))}; got {config.prediction!r}")


MAX_SCHEDULE_STEPS = 100_000


@dataclass(frozen=True)
class ScheduleConfig:
    """The forward process: `steps` betas, `linear` (1e-4 … 0.02 at 1000 steps) or `cosine`."""

    kind: str = "linear"
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "cosine"):
            raise ConfigError(f"schedule kind must be 'linear' or 'cosine'; got {self.kind!r}")
        _check_counts(self, "steps", most=MAX_SCHEDULE_STEPS)
        if self.kind == "linear" and self.steps <= 20:
            raise ConfigError(
                f"steps of a linear schedule must be at least 21, so that every β is less than 1; got {self.steps}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """One servable model: clip, base network, super-resolution network if it has one, schedule."""

    clip: ClipSpec = field(default_factory=ClipSpec)
    base: UNetConfig = field(default_factory=UNetConfig)
    sr: SRConfig | None = field(default_factory=SRConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        self.base.check(self.clip)
        if self.sr is not None:
            self.sr.check(self.clip)
        samples = self.clip.duration * self.clip.sample_rate
        if "audio" in self.base.modalities and self.clip.frames * self.clip.sample_rate % self.clip.fps:
            raise ConfigError(
                f"{self.clip.frames} frames at fps {self.clip.fps} last {samples:.2f} samples at sample_rate "
                f"{self.clip.sample_rate}; it must be a whole number"
            )

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the frames after super-resolution."""
        factor = self.sr.factor if self.sr else 1
        return self.clip.height * factor, self.clip.width * factor


_SMALL_SR = SRConfig(
    factor=8,
    channels=64,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_scales=(),
    learn_sigma=False,
    patch=8,
    norm_groups=8,
    prediction="x0",
)

PRESETS: dict[str, ModelConfig] = {
    "paper": ModelConfig(),
    "demo": ModelConfig(
        clip=ClipSpec(height=32, width=32),
        base=UNetConfig(
            channels=64,
            channel_mult=(1, 2, 3),
            res_blocks=1,
            head_channels=32,
            cross_attention_scales=(1, 2, 4),
            window_shift=False,
            video_attention_scales=(2, 4),
            video_patch=2,
            audio_patch=25,  # a whole number of tokens for each frame at every scale
            norm_groups=8,
            prediction="x0",
        ),
        sr=_SMALL_SR,
    ),
    "pocket": ModelConfig(
        clip=ClipSpec(height=16, width=16, sample_rate=8000),
        base=UNetConfig(
            channels=32,
            channel_mult=(2, 3),
            res_blocks=1,
            head_channels=32,
            cross_attention_scales=(1, 2),
            windows=(1, 4),
            window_shift=False,
            video_attention_scales=(2,),
            video_patch=4,
            audio_patch=40,
            norm_groups=8,
            prediction="x0",
        ),
        sr=_SMALL_SR,
    ),
    "tiny": ModelConfig(
        clip=ClipSpec(frames=8, height=16, width=16, sample_rate=1280),
        base=UNetConfig(channels=32, channel_mult=(1, 1, 1, 1), res_blocks=1, head_channels=16),
        sr=SRConfig(channels=32, channel_mult=(1, 1), res_blocks=1, attention_scales=()),
    ),
}
"""`paper`: the published model. `demo`: for minutes of training on one GPU. `pocket`: for training on two CPU cores.
`tiny`: for tests; a forward takes milliseconds."""
