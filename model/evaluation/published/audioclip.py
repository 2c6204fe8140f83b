"""The audio head of AudioCLIP (Guzhov et al., 2022), whose embeddings the paper's FAD compares: an ESResNeXt-fbsp
(Guzhov et al., 2021).

A transform of frequency B-spline wavelets, whose parameters are weights, gives a power spectrogram in decibels. Three
equal bands of it are the three channels of a ResNeXt-50 (32×4d), whose stages are multiplied by attention maps. Modules
are named as in the weight file `AudioCLIP-Full-Training.pt` below `audio.`.

The published evaluation feeds waveforms in [-1, 1] to a network that expects 16-bit values, and leaves batch norm in
training mode, so that an embedding depends on the other clips of its batch. `published=True` of `embed` repeats both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 44_100
"""Samples per second that the network expects."""

EMBEDDING = 1024
WINDOW, HOP, TRANSFORM = 1654, 561, 2048
"""Samples of a frame, between frames, and of the transform."""

BANDS = 3
PUBLISHED_BATCH = 8
"""Clips per batch of the published evaluation."""

FLOOR = 1e-18
"""Power that stands for zero."""

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels and blocks of the ResNeXt's stages."""

GROUPS, WIDTH, EXPANSION = 32, 4, 4


class AudioClipHead(nn.Module):
    """Embeddings of sounds. See `embed`."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.zeros(WINDOW))
        self.fbsp = WaveletTransform(TRANSFORM // 2 + 1)
        self.conv1 = nn.Conv2d(BANDS, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, (planes, blocks) in enumerate(STAGES, 1):
            outputs = planes * EXPANSION
            kernel = (3, 1) if number % 2 else (1, 5)
            self.add_module(f"att{number}", Attention(channels, outputs, kernel))
            stride = 1 if number == 1 else 2
            layers = [Bottleneck(channels, planes, stride)]
            layers += [Bottleneck(outputs, planes, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            channels = outputs
        self.att5 = Attention(channels, channels, (3, 5))
        self.fc = nn.Linear(channels, EMBEDDING)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False  # training mode uses the batch's statistics, and keeps the file's
        self.eval()

    def forward(self, sound: Tensor) -> Tensor:
        """(batch, samples) as 16-bit values, at 44.1 kHz → (batch, 1024)."""
        x = F.max_pool2d(self.bn1(self.conv1(self.spectrogram(sound))).relu(), 3, stride=2, padding=1)
        for number in range(1, len(STAGES) + 1):
            stage = getattr(self, f"layer{number}")(x)
            x = stage * getattr(self, f"att{number}")(x, stage.shape[-2:])
        pooled = x.mean((2, 3), keepdim=True)
        return self.fc((pooled * self.att5(x, pooled.shape[-2:])).flatten(1))

    def spectrogram(self, sound: Tensor) -> Tensor:
        """(batch, samples) → (batch, 3 bands, 341 frequencies, frames) in decibels."""
        sound = (sound + 32_768) * (2 / 65_535) - 1
        frames = _frames(sound) * self.window
        missing = TRANSFORM - WINDOW
        power = self.fbsp(F.pad(frames, (missing // 2, missing - missing // 2))).mT
        bands = power[:, : power.shape[1] // BANDS * BANDS].unflatten(1, (BANDS, -1))
        return 10 * torch.where(bands > 0, bands, FLOOR).log10()

    @torch.no_grad()
    def embed(self, sound: Tensor, published: bool = True) -> Tensor:
        """(clips, samples) in [-1, 1] at 44.1 kHz → (clips, 1024).

        `published`: as the published evaluation does (see the module); the clips are batched by eight, in their order.
        Raises ValueError if one clip is left over for a batch of its own, which has no statistics.
        """
        if published and len(sound) % PUBLISHED_BATCH == 1:
            raise ValueError(f"batches of {PUBLISHED_BATCH} leave one of {len(sound)} clips alone: take one fewer")
        self.train(published)
        try:
            scale = 1 if published else 32_767
            batches = [self(batch * scale) for batch in sound.split(PUBLISHED_BATCH)]
        finally:
            self.eval()
        return torch.cat(batches)


class WaveletTransform(nn.Module):
    """Power of frequency B-spline wavelets, sqrt(fb) sinc(fb t / m)^m exp(−i fc t) for each output, t from −π to π."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(outputs))
        self.fb = nn.Parameter(torch.ones(outputs))
        self.fc = nn.Parameter(torch.arange(outputs, dtype=torch.float32))

    def forward(self, frames: Tensor) -> Tensor:
        """(…, samples) → (…, outputs)."""
        samples = frames.shape[-1]
        small = 1e-8
        t = math.pi * torch.linspace(-1, 1, samples, device=frames.device, dtype=frames.dtype) + small
        m, fb, fc = (parameter[:, None] for parameter in (self.m, self.fb, self.fc))
        argument = fb * t / (m + small)
        sinc = torch.where(argument == 0, 1.0, argument.sin() / argument)
        # The power of a real base: negative ones turn the phase by π m. The base's own phase is 0 or π.
        size, phase = sinc.abs() ** m, torch.where(sinc < 0, math.pi, 0.0) * m
        envelope = fb.sqrt() * size / math.sqrt(samples)
        real, imaginary = envelope * (phase - fc * t).cos(), envelope * (phase - fc * t).sin()
        return F.linear(frames, real).square() + F.linear(frames, imaginary).square()


class Attention(nn.Module):
    """A map between 0 and 1 of the size of a stage's output, from its input."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inputs, inputs, kernel, padding=padding, groups=inputs)
        self.conv_point = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.bn(self.conv_point(self.conv_depth(F.adaptive_max_pool2d(x, list(size))))).sigmoid()


class Bottleneck(nn.Module):
    """The residual block of a ResNeXt-50 (Xie et al., 2017)."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        width, outputs = planes * WIDTH * GROUPS // 64, planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


def _frames(sound: Tensor) -> Tensor:
    """(batch, samples) → (batch, frames, WINDOW): every HOP samples; the last is filled up with zeros on both sides of
    the sound."""
    samples = sound.shape[-1]
    count = 1 + max(0, math.ceil((samples - WINDOW) / HOP))
    missing = max(0, (count - 1) * HOP + WINDOW - samples)
    return F.pad(sound, (missing // 2, missing - missing // 2)).unfold(-1, WINDOW, HOP)
