"""Attention against simple loops over queries, heads and samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.networks.attention import CrossModalAttention, SelfAttention, window_keys
from model.networks.pair import Pair


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_weights(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=i) * parameter.shape[-1] ** -0.5)
    return module


def slow_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query (d) over keys and values (n, d)."""
    scores = [float(query @ key) / math.sqrt(len(query)) for key in keys]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def slow_rs_mma(
    q_v: Tensor, kv_v: Tensor, q_a: Tensor, kv_a: Tensor, frames: int, window: int, shift: int
) -> tuple[Tensor, Tensor]:
    """One sample, one head. Video tokens (frames · pixels, d), audio samples (samples, d); kv are (tokens, 2, d)."""
    pixels, samples = len(q_v) // frames, len(q_a)
    segment = samples // frames
    out_v, out_a = torch.empty_like(q_v), torch.empty_like(q_a)
    for frame in range(frames):
        heard = [((frame + shift) * segment + x) % samples for x in range(window * segment)]
        for token in range(frame * pixels, (frame + 1) * pixels):
            out_v[token] = slow_attention(q_v[token], kv_a[heard, 0], kv_a[heard, 1])
        seen = [((frame + shift) * pixels + x) % len(q_v) for x in range(window * pixels)]
        end = samples if frame == frames - 1 else (frame + 1) * segment
        for sample in range(frame * segment, end):
            out_a[sample] = slow_attention(q_a[sample], kv_v[seen, 0], kv_v[seen, 1])
    return out_v, out_a


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, int, int, int, int, list[int]]:
    """(frames, height, width, samples, window, one shift per sample); samples need not divide by frames."""
    frames = draw(st.integers(1, 6))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    samples = draw(st.integers(frames, 5 * frames))
    window = draw(st.integers(1, frames))
    shifts = draw(st.lists(st.integers(0, frames - window), min_size=1, max_size=3))
    return frames, height, width, samples, window, shifts


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(clips())
def test_rs_mma_is_the_loop_over_frames_for_every_sample_s_own_shift(
    clip: tuple[int, int, int, int, int, list[int]],
) -> None:
    frames, height, width, samples, window, shifts = clip
    heads, d, batch = 2, 16, len(shifts)
    module = with_weights(CrossModalAttention(heads * d, heads, window))
    video, audio = drawn(batch, frames, height, width, heads * d), drawn(batch, samples, heads * d, seed=1)
    with torch.no_grad():
        out_video, out_audio = module(Pair(video, audio), torch.tensor(shifts))
        q_v, *kv_v = module.video.project(video.flatten(1, 3), heads)
        q_a, *kv_a = module.audio.project(audio, heads)
        kv_v, kv_a = torch.stack(kv_v, dim=2), torch.stack(kv_a, dim=2)
        for b, shift in enumerate(shifts):
            of_heads = [
                slow_rs_mma(q_v[b, :, h], kv_v[b, :, :, h], q_a[b, :, h], kv_a[b, :, :, h], frames, window, shift)
                for h in range(heads)
            ]
            seen_video = module.video.proj(torch.cat([v for v, _ in of_heads], dim=1))
            seen_audio = module.audio.proj(torch.cat([a for _, a in of_heads], dim=1))
            torch.testing.assert_close(out_video[b], video[b] + seen_video.view(video[b].shape), atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(out_audio[b], audio[b] + seen_audio, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("window", "samples"), [(1, 12), (1, 14), (2, 12)])
def test_no_shift_is_a_shift_of_zero(window: int, samples: int) -> None:
    """A window of one frame is read in place then, unless samples are left over at the end."""
    module = with_weights(CrossModalAttention(16, 2, window))
    found = []
    for shift in (None, torch.zeros(2, dtype=torch.long)):
        clip = Pair(drawn(2, 4, 2, 3, 16).requires_grad_(), drawn(2, samples, 16, seed=1).requires_grad_())
        out = module(clip, shift)
        gradients = torch.autograd.grad(sum(value.square().sum() for value in out), [*clip, *module.parameters()])
        found.append([*out, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_windows_wrap_from_the_last_frame_to_the_first() -> None:
    keys = window_keys(8, frames=4, per_frame=2, window=2, shift=torch.tensor([0, 1]))
    assert keys[0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 0, 1]]
    assert keys[1].tolist() == [[2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 0, 1], [0, 1, 2, 3]]


def test_remaining_samples_are_attended_only_by_windows_that_wrap() -> None:
    keys = window_keys(9, frames=4, per_frame=2, window=2, shift=torch.tensor([0]))
    assert keys[0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 0]]


def test_no_state_is_kept_between_calls_of_different_lengths() -> None:
    module = with_weights(CrossModalAttention(32, 2, window=2))
    small = Pair(drawn(1, 3, 2, 2, 32), drawn(1, 6, 32))
    with torch.no_grad():
        before = module(small)
        module(Pair(drawn(1, 4, 3, 2, 32), drawn(1, 17, 32)))
        after = module(small)
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_without_a_window_every_frame_attends_to_the_whole_clip() -> None:
    whole, windowed = (with_weights(CrossModalAttention(32, 2, window)) for window in (None, 3))
    clip = Pair(drawn(2, 3, 2, 2, 32), drawn(2, 9, 32))
    for a, b in zip(whole(clip), windowed(clip, torch.tensor([0, 0])), strict=True):
        torch.testing.assert_close(a, b)


def test_rs_mma_at_the_start_of_training_changes_nothing() -> None:
    video, audio = drawn(1, 3, 2, 2, 32), drawn(1, 9, 32)
    out_video, out_audio = CrossModalAttention(32, 2, window=1)(Pair(video, audio))
    assert torch.equal(out_video, video)
    assert torch.equal(out_audio, audio)


@pytest.mark.parametrize("heads_first", [False, True])
def test_self_attention_is_the_loop_over_queries(heads_first: bool) -> None:
    heads, d, tokens = 4, 8, 6
    module, x = with_weights(SelfAttention(heads * d, heads, heads_first)), drawn(2, tokens, heads * d)
    with torch.no_grad():
        qkv = module.qkv(module.norm(x))
        for b in range(2):
            of_heads = []
            for h in range(heads):
                # where head h finds its q, k, v: inside the head's own slice, or inside three slices for all heads
                at = [(3 * h + n) * d if heads_first else (n * heads + h) * d for n in range(3)]
                q, k, v = (qkv[b, :, start : start + d] for start in at)
                of_heads.append(torch.stack([slow_attention(q[t], k, v) for t in range(tokens)]))
            expected = x[b] + module.proj(torch.cat(of_heads, dim=1))
            torch.testing.assert_close(module(x)[b], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_over_frames_is_self_attention_at_each_place(batch: int) -> None:
    module, x = with_weights(SelfAttention(32, 4)), drawn(batch, 5, 20, 32)
    out = module.over_frames(x)
    for place in range(20):
        torch.testing.assert_close(out[:, :, place], module(x[:, :, place].contiguous()), atol=1e-5, rtol=1e-4)
