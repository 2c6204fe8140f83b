"""The networks that the paper's measures compare features of: their layout, their parts, and their weight files."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.checkpoint.loading import CheckpointError
from model.evaluation.published.audioclip import AudioClipHead, WaveletTransform
from model.evaluation.published.i3d import I3D, pad, preprocess
from model.evaluation.published.weights import AUDIOCLIP_FILE, I3D_FILE, WeightsMissing, load, require

M = TypeVar("M", bound=nn.Module)


def fill(network: M) -> M:
    """Random weights that keep activations of the order of one."""
    draws = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(1)
        elif name == "window":
            tensor.copy_(torch.hann_window(len(tensor), periodic=True))
        elif tensor.dim() > 1:
            tensor.normal_(generator=draws).mul_((2 / tensor[0].numel()) ** 0.5)
    return network


@pytest.fixture(scope="module")
def i3d() -> I3D:
    return fill(I3D())


def test_i3d_has_the_published_size(i3d: I3D) -> None:
    assert sum(parameter.numel() for parameter in i3d.parameters()) == 12_697_264
    assert len(i3d.state_dict()) == 344


def test_i3d_answers_with_logits_of_each_clip(i3d: I3D) -> None:
    frames = torch.randint(0, 256, (2, 16, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()
    with torch.no_grad():
        logits = i3d(preprocess(frames))
        alone = i3d(preprocess(frames[1:]))
    assert logits.shape == (2, 400)
    assert torch.allclose(logits[1:], alone, atol=1e-4)
    assert logits.std() > 1e-3


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(16, 7, 2, 2, 3), (224, 7, 2, 2, 3), (112, 3, 2, 0, 1), (7, 3, 1, 1, 1), (4, 2, 2, 0, 0), (15, 3, 2, 1, 1)],
)
def test_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    x = torch.ones(1, 1, size, 1, 1)
    padded = pad(x, (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    assert torch.equal(padded, F.pad(torch.ones(size), (before, after)))
    assert (len(padded) - kernel) // stride + 1 == math.ceil(size / stride)


def test_frames_are_resized_to_the_shorter_side_and_cropped_in_the_middle() -> None:
    frames = torch.zeros(1, 2, 3, 20, 40, dtype=torch.uint8)
    frames[..., 10:30] = 255
    seen = preprocess(frames, 40)
    assert seen.shape == (1, 3, 2, 40, 40)
    assert seen[..., 1:-1].min() == 1  # the white half of the width, in [-1, 1]


def test_wavelets_with_the_first_parameters_are_a_fourier_transform() -> None:
    """m = 0 makes the envelope flat: |Σ x exp(−i k t)|² / n with t from −π to π."""
    transform = WaveletTransform(9)
    frames = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    t = torch.linspace(-math.pi, math.pi, 64, dtype=torch.float64)
    waves = torch.exp(-1j * torch.arange(9, dtype=torch.float64)[:, None] * t)
    expected = (frames.double().to(torch.complex128) @ waves.mT).abs().square() / 64
    assert torch.allclose(transform(frames).double(), expected, rtol=1e-3, atol=1e-4)


def test_wavelets_are_powers_of_a_complex_sinc() -> None:
    transform = WaveletTransform(9)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        transform.m.copy_(0.3 + 2 * torch.rand(9, generator=draws))
        transform.fb.copy_(0.5 + 5 * torch.rand(9, generator=draws))
    frames = torch.randn(3, 64, generator=draws)
    t = torch.linspace(-math.pi, math.pi, 64, dtype=torch.float64)
    m, fb, fc = (value.detach().double()[:, None] for value in (transform.m, transform.fb, transform.fc))
    base = torch.sinc(fb * t / m / math.pi).to(torch.complex128)  # torch.sinc is normalised
    kernel = fb.sqrt() * base**m * torch.exp(-1j * fc * t)
    expected = (frames.double().to(torch.complex128) @ kernel.mT).abs().square() / 64
    assert torch.allclose(transform(frames).detach().double(), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def head() -> AudioClipHead:
    return fill(AudioClipHead())


def test_a_tone_stands_at_its_frequency(head: AudioClipHead) -> None:
    """1 kHz is in the first of three bands: bin 1000 · 2048 / 44 100 = 46.4."""
    seconds = torch.arange(70_560) / 44_100
    with torch.no_grad():
        spectrogram = head.spectrogram(32_767 * 0.5 * torch.sin(2 * math.pi * 1000 * seconds)[None])
    assert spectrogram.shape == (1, 3, 341, 124)
    assert spectrogram[0, 0, 1:, 60].argmax() + 1 in (46, 47)
    assert spectrogram[0, 0, 46, 60] > spectrogram[0, 1, :, 60].max() + 60


def test_published_embeddings_depend_on_their_batch_and_others_do_not(head: AudioClipHead) -> None:
    sound = torch.randn(9, 22_050, generator=torch.Generator().manual_seed(4)) * 0.1
    before = {name: value.clone() for name, value in head.state_dict().items()}
    published = head.embed(sound[:8])
    assert published.shape == (8, 1024)
    assert not torch.allclose(published[:4], head.embed(sound[:4]), rtol=0.1)
    exact = copy.deepcopy(head).double()  # in float32 a sum of another batch size ends in other roundings
    corrected = exact.embed(sound.double(), published=False)
    assert torch.allclose(corrected[:2], exact.embed(sound[:2].double(), published=False), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    with pytest.raises(ValueError, match="leave one of 9 clips alone"):
        head.embed(sound)


def test_weights_are_read_strictly_and_named_by_their_hash(head: AudioClipHead, tmp_path: Path) -> None:
    state = {f"audio.{name}": value for name, value in head.state_dict().items()}
    torch.save({**state, "visual.proj": torch.zeros(3)}, tmp_path / AUDIOCLIP_FILE.name)
    loaded = load(AUDIOCLIP_FILE, tmp_path)
    assert not loaded.published
    assert len(loaded.sha256) == 64
    assert torch.equal(loaded.network.fc.weight, head.fc.weight)
    assert not loaded.network.training

    state["audio.fc.weight"] = torch.zeros(3, 3)
    del state["audio.window"]
    torch.save(state, tmp_path / AUDIOCLIP_FILE.name)
    with pytest.raises(CheckpointError, match=r"(?s)missing window \(1654,\).*fc.weight is \(3, 3\)"):
        load(AUDIOCLIP_FILE, tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / I3D_FILE.name)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(I3D_FILE, tmp_path)


def test_missing_files_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"(?s)i3d_pretrained_400.pt: I3D.*AudioCLIP-Full-Training.pt: AudioCLIP"):
        require(tmp_path, I3D_FILE, AUDIOCLIP_FILE)
