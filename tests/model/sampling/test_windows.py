"""The long sampler against targets with a known answer: what windows see exactly, the whole clip gets exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.sampling import guidance, samplers
from model.sampling.guidance import Condition
from model.sampling.latents import Latents, unchanged
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate, EvaluateAll, Prediction, Sampler
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas
from model.sampling.windows import Windows, share_mean, together, windowed
from tests.model.sampling.analytic import Mixture
from tests.model.sampling.test_guidance import answer as paired_answer
from tests.model.sampling.test_guidance import error_variance

SCHEDULE = NoiseSchedule(linear_betas(1000))
TWO_MODES = Mixture(SCHEDULE, (-0.6, 0.6), 0.2)
WINDOWS = Windows(frames=21, window=8, samples=5, overlap=2)

STOCHASTIC = ("ddpm", "ddim eta 1")
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": samplers.ddim,
    "dpm_solver": samplers.dpm_solver,
    "dpm_multistep": partial(samplers.dpm_multistep, order=3),
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_3m": samplers.dpmpp_3m,
    "unipc": samplers.unipc,
    "ddpm": samplers.ddpm,
    "ddim eta 1": partial(samplers.ddim, eta=1.0),
}


def solver(name: str, x: Latents, times: list[float]) -> Sampler:
    named = {"noise": RandomStream(4).normal_like} if name in STOCHASTIC else {}
    return SAMPLERS[name](x, SCHEDULE, times, **named)


def solve(program: Sampler, predict: Callable[[Evaluate], Prediction]) -> tuple[Latents, list[int]]:
    """The result, and how many evaluations were requested at a time."""
    counts: list[int] = []
    try:
        asked = next(program)
        while True:
            if isinstance(asked, EvaluateAll):
                counts.append(len(asked.requests))
                asked = program.send([predict(request) for request in asked.requests])  # type: ignore[arg-type]
            else:
                asked = program.send(predict(asked))
    except StopIteration as stop:
        return stop.value, counts


def each_value(request: Evaluate) -> Prediction:
    """Every value by itself: a window sees all that its answer depends on."""
    return Prediction(request.x.map(lambda value: TWO_MODES.eps(value, request.t)))


def start(windows: Windows = WINDOWS, seed: int = 0, batch: int = 1) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(batch, windows.frames, 3, 2, 2, generator=generator, dtype=torch.float64)
    audio = torch.randn(batch, 1, windows.frames * windows.samples, generator=generator, dtype=torch.float64)
    return Latents(video, audio)


def plain(window: Sampler, first: int) -> Sampler:
    return window


def long(sampler: Sampler, windows: Windows = WINDOWS, guide: Callable[..., Sampler] = plain, seed: int = 0) -> Sampler:
    return windowed(sampler, SCHEDULE, lambda t: windows, RandomStream(seed).integer, guide)  # type: ignore[return-value]


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[Windows, list[int]]:
    window = draw(st.integers(1, 17))
    windows = Windows(draw(st.integers(window, 90)), window, draw(st.integers(1, 7)), draw(st.integers(0, window - 1)))
    return windows, windows.starts(lambda low, high: draw(st.integers(low, high)))


@settings(max_examples=300, deadline=None)
@given(cuttings())
def test_windows_cover_the_clip_inside_it_and_overlap_as_wanted(cutting: tuple[Windows, list[int]]) -> None:
    windows, starts = cutting
    assert starts[0] == 0
    assert starts[-1] == windows.frames - windows.window
    for one, following in pairwise(starts):
        assert 0 < following - one <= windows.window - windows.overlap
    assert len(starts) <= windows.most


@settings(max_examples=300, deadline=None)
@given(cuttings(), st.integers(1, 6))
def test_weights_sum_to_one_everywhere(cutting: tuple[Windows, list[int]], per_frame: int) -> None:
    """Joining has no gain and no loss, at cross-fades too."""
    windows, starts = cutting
    total = torch.zeros(windows.frames * per_frame, dtype=torch.float64)
    for number, first in enumerate(starts):
        weight = windows.weight(starts, number, per_frame)
        assert bool((weight > 0).all())
        total[first * per_frame : (first + windows.window) * per_frame] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_a_cross_fade_is_linear_and_as_long_as_the_overlap() -> None:
    windows = Windows(frames=14, window=8, samples=5, overlap=2)
    first, second = (windows.weight([0, 6], number, 4) for number in (0, 1))
    fade = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    assert torch.allclose(second[:8], fade)
    assert torch.allclose(first[-8:], 1 - fade)
    assert torch.equal(first[:-8], torch.ones_like(first[:-8]))


def test_borders_are_where_windows_begin_and_end_inside_the_clip() -> None:
    windows = Windows(frames=21, window=8, samples=5, overlap=2)
    assert windows.borders([0, 5, 11, 13]) == [5, 8, 11, 13, 19]
    assert Windows(8, 8, 5).borders([0]) == []


def test_k_windows_of_frames_take_one_more() -> None:
    windows = Windows(frames=64, window=16, samples=1, overlap=0)
    counts = [len(windows.starts(lambda low, high, first=first: first)) for first in range(1, 17)]  # type: ignore[misc]
    assert set(counts[:-1]) == {5}
    assert counts[-1] == 4  # the cuts at whole windows
    assert windows.most == 5
    assert Windows(16, 16, 1).starts(lambda low, high: pytest.fail("one window has no cut")) == [0]


def test_what_was_cut_is_joined_to_the_same_clip() -> None:
    x = start()
    starts = WINDOWS.starts(RandomStream(1).integer)

    def join(whole: Latents) -> Latents:
        total = whole.map(torch.zeros_like)
        for number, first in enumerate(starts):
            WINDOWS.add(total, WINDOWS.cut(whole, first), starts, number)
        return total

    joined = join(x)
    for name in ("video", "audio"):
        assert torch.allclose(joined[name], x[name], atol=1e-12)
    only_sound = join(x.replace("video", None))
    assert only_sound.video is None
    assert torch.equal(only_sound["audio"], joined["audio"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_whole_is_sampled_as_without_windows_where_windows_see_all_they_need(name: str) -> None:
    in_eps = name in ("dpm_solver", "dpm_multistep")  # which end before CLEAN
    times = SCHEDULE.grid(10, "log_snr") if in_eps else SCHEDULE.times(10, "log_snr")
    expected, _ = solve(solver(name, start(), times), each_value)
    made, counts = solve(long(solver(name, start(), times)), each_value)
    assert len(counts) == 10
    assert max(counts) > 2
    for modality in ("video", "audio"):
        assert torch.allclose(made[modality], expected[modality], atol=1e-9)


@pytest.mark.parametrize(("name", "order"), [("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc", 3)])
def test_multistep_solvers_keep_their_order_on_the_long_state(name: str, order: int) -> None:
    def error(steps: int) -> float:
        times = SCHEDULE.grid(steps, "log_snr")
        made, _ = solve(long(solver(name, start(), times)), each_value)
        return max(
            float((made[modality] - TWO_MODES.flow(start()[modality], times[0], times[-1])).abs().max())
            for modality in ("video", "audio")
        )

    coarse, fine = error(24), error(192)
    assert math.log(coarse / fine, 8) > order - 0.25, (coarse, fine)


CORRELATION = 0.5
CLIPS = 4000


def chain_answer(request: Evaluate) -> Prediction:
    """The exact denoiser of a window of a stationary Gaussian process with correlation CORRELATION^lag, mean 0.25 and
    variance 0.25 (in place of audio: one sample a frame)."""
    x = request.x["audio"][:, 0]
    alpha, sigma = SCHEDULE.alpha(request.t), SCHEDULE.sigma(request.t)
    place = torch.arange(x.shape[1], dtype=torch.float64)
    covariance = 0.25 * CORRELATION ** (place[:, None] - place).abs()
    noisy = alpha**2 * covariance + sigma**2 * torch.eye(len(place), dtype=torch.float64)
    x0 = 0.25 + alpha * (x - alpha * 0.25) @ torch.linalg.solve(noisy, covariance)
    return Prediction(SCHEDULE.to_eps(request.x, Latents(None, x0[:, None]), request.t))


def moments(windows: Windows, draw: Callable[[int, int], int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every frame, and correlation of every frame with the next, over CLIPS samples."""
    generator = torch.Generator().manual_seed(2)
    x = Latents(None, torch.randn(CLIPS, 1, windows.frames, generator=generator, dtype=torch.float64))
    sampler = samplers.dpmpp_2m(x, SCHEDULE, SCHEDULE.times(40, "log_snr"))
    program = windowed(sampler, SCHEDULE, lambda t: windows, draw, plain)
    made = solve(program, chain_answer)[0]["audio"][:, 0]  # type: ignore[arg-type]
    centred = made - made.mean(0)
    variance = centred.square().mean(0)
    neighbours = (centred[:, 1:] * centred[:, :-1]).mean(0) / (variance[1:] * variance[:-1]).sqrt()
    return made.mean(0), variance, neighbours


def test_a_correlated_process_keeps_mean_variance_and_correlation_across_all_borders() -> None:
    mean, variance, neighbours = moments(Windows(48, 16, 1, 1), RandomStream(3).integer)
    assert float((mean - 0.25).abs().max()) < 0.04
    assert float((variance / 0.25 - 1).abs().max()) < 0.10
    assert float((neighbours - CORRELATION).abs().max()) < 0.08
    always_there = moments(Windows(48, 16, 1, 0), lambda low, high: high)[2]
    assert float(always_there[[15, 31]].abs().max()) < 0.1  # windows by themselves know nothing of each other
    assert float((always_there[:15] - CORRELATION).abs().max()) < 0.08


def condition_of(start: int | None, windows: Windows) -> Condition:
    x = start_pairs(5, windows)
    whole = Condition("audio", 0.5 * x["audio"], start_pairs(6, windows)["audio"])
    if start is None:
        return whole
    part = slice(start, start + windows.window)
    return Condition("audio", whole.clean[..., part], whole.noise[..., part])


def start_pairs(seed: int, windows: Windows) -> Latents:
    """Clips of one pixel and one sample a frame, so that both have the same shape."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, 1, windows.frames, generator=generator, dtype=torch.float64)
    return Latents(values[0], values[1])


class Pairs(Windows):
    """Cuts both modalities along their last axis: the toy problem of pairs of scalars."""

    def cut(self, x: Latents, start: int) -> Latents:
        return x.map(lambda value: value[..., start : start + self.window])

    def add(self, total: Latents, part: Latents, starts: Sequence[int], number: int) -> None:
        super().add(Latents(None, total["video"]), Latents(None, part["video"]), starts, number)


METHODS: dict[str, Callable[[Sampler, Condition], Sampler]] = {
    "replacement": lambda sampler, y: guidance.replacement(sampler, SCHEDULE, y, unchanged),
    "clean": lambda sampler, y: guidance.clean(sampler, SCHEDULE, y, unchanged),
    "pigdm": lambda sampler, y: guidance.pigdm(sampler, SCHEDULE, y, unchanged, error_variance),
    "gradient": lambda sampler, y: guidance.gradient(sampler, SCHEDULE, y, unchanged, 0.1),
    "decoupling of replacement": lambda sampler, y: guidance.decoupling(
        guidance.replacement(sampler, SCHEDULE, y, unchanged), 1.5
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "ddpm"])
def test_guidance_acts_in_windows_as_on_the_whole(name: str, method: str) -> None:
    windows = Pairs(21, 8, 1, 2)
    times = [*SCHEDULE.grid(7, "log_snr")[:-1], CLEAN]
    x = start_pairs(1, windows).replace("audio", None)
    guide = METHODS[method]
    expected, _ = solve(guide(solver(name, x, times), condition_of(None, windows)), paired_answer)
    guided = long(solver(name, x, times), windows, lambda window, first: guide(window, condition_of(first, windows)))
    made, counts = solve(guided, paired_answer)
    assert torch.allclose(made["video"], expected["video"], atol=1e-9)
    assert len(counts) == 7 * (2 if "decoupling" in method else 1)


def test_many_windows_are_requested_in_several_parts_and_all_are_counted() -> None:
    windows = Windows(400, 8, 5, 1)
    counted: list[tuple[int, int]] = []
    joined: list[Tensor] = []
    x = start(windows).replace("video", None)
    sampler = solver("ddim", x, SCHEDULE.times(2, "log_snr"))
    program = windowed(
        sampler,
        SCHEDULE,
        lambda t: windows,
        RandomStream(0).integer,
        plain,
        lambda done, starts: counted.append((done, len(starts))),
        lambda x0, t: joined.append(x0["audio"].clone()),
    )
    expected, _ = solve(solver("ddim", x, SCHEDULE.times(2, "log_snr")), each_value)
    sizes: list[int] = []

    def drive() -> None:
        asked = next(program)
        while True:
            sizes.append(len(asked.requests))
            asked.on_batch(len(asked.requests))
            asked = program.send([each_value(request) for request in asked.requests])

    with pytest.raises(StopIteration) as stop:
        drive()
    assert torch.allclose(stop.value.value["audio"], expected["audio"], atol=1e-9)
    assert max(sizes) == 16
    steps = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    ends = [(sum(step), sum(step)) for step in steps]
    assert [counted[len(sizes) // 2 - 1], counted[-1]] == ends
    assert len(joined) == 2
    assert all(bool(x0.all()) for x0 in joined)  # complete: the windows are added to zeros


def test_cuts_and_shifts_come_from_the_outputs_own_stream() -> None:
    def cuts(seed: int) -> list[list[int]]:
        stream = RandomStream(seed)
        return [WINDOWS.starts(stream.integer) for _ in range(12)]

    assert cuts(3) == cuts(3)
    assert cuts(3) != cuts(4)
    assert len({first for _, first, *_ in cuts(3)}) > 3


def test_chains_are_driven_in_rounds_and_each_gets_its_own_answers() -> None:
    def chain(name: float, evaluations: int) -> Sampler:
        seen = []
        for k in range(evaluations):
            seen.append((yield Evaluate(torch.tensor(name + k), 1.0, 0.0)).eps.item())
        return seen

    reports: list[int] = []
    program = together([chain(100.0, 2), chain(200.0, 3)], reports.append)
    rounds = []

    def drive() -> None:
        asked = next(program)
        while True:
            rounds.append(len(asked.requests))
            asked.on_batch(len(asked.requests))
            asked = program.send([Prediction(request.x) for request in asked.requests])

    with pytest.raises(StopIteration) as stop:
        drive()
    assert stop.value.value == [[100.0, 101.0], [200.0, 201.0, 202.0]]
    assert rounds == [2, 2, 1]
    assert reports == [2, 2, 1]


def test_aligned_windows_that_share_their_mean_are_standard_normal_noise() -> None:
    noise = torch.randn(4000, 24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shared = share_mean(noise, 8)
    assert torch.allclose(shared[:, :8], noise[:, :8], atol=1e-12)
    means = shared.unflatten(1, (3, 8)).mean(2)
    assert torch.allclose(means[:, 1], means[:, 0], atol=1e-12)
    assert torch.allclose(means[:, 2], means[:, 0], atol=1e-12)
    window = shared[:, 8:16].flatten(1)
    covariance = window.T @ window / len(window)
    assert float((covariance - torch.eye(16, dtype=torch.float64)).abs().max()) < 0.08


@pytest.mark.parametrize(("first", "ratio"), [(0, 1.0), (4, 1.375), (8, 1.5), (12, 1.375), (16, 1.0)])
def test_the_mean_of_an_unaligned_window_varies_more_where_means_are_shared(first: int, ratio: float) -> None:
    noise = torch.randn(40_000, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = share_mean(noise, 16)[:, first : first + 16].mean(1)
    assert float(means.var()) * 16 == pytest.approx(ratio, rel=0.04)
