"""From a request to a clip on the tiny preset: what comes out, that it depends on the seed alone, and how it is
followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS
from model.request import GUIDANCE, SAMPLERS, RequestError, SamplingParams
from model.runtime.evaluator import drive, evaluate
from model.runtime.pipeline import ClipRequest, Pipeline, StepProgress, to_uint8
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateFrames, dpmpp_2m

TINY = PRESETS["tiny"]
MANIFEST = Manifest("tiny", TINY, trained=False, description="", licence="MIT", init_seed=3)
QUICK = SamplingParams(seed=11, steps=3, sr_steps=2)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    calibration = {"times": [0.0, 500.0, 999.0], "video": [0.01, 0.1, 0.3], "audio": [0.01, 0.1, 0.3]}
    return Pipeline.load(replace(MANIFEST, calibration=calibration, independent_timesteps=True), "cpu", "float32")


def given(kind: str) -> torch.Tensor | None:
    shape = {"generate": None, "v2a": TINY.clip.video_shape, "a2v": TINY.clip.audio_shape}[kind]
    return None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_each_kind_makes_what_is_missing(pipeline: Pipeline) -> None:
    clips = {}
    for kind in ("generate", "v2a", "a2v"):
        params = replace(QUICK, sr_steps=None) if kind == "v2a" else QUICK
        clips[kind] = pipeline.run(ClipRequest(kind, params, condition=given(kind)))
    large = (TINY.clip.frames, *TINY.output_size, 3)
    for kind, frames, audio in (("generate", large, True), ("v2a", None, True), ("a2v", large, False)):
        clip = clips[kind]
        assert (None if clip.frames is None else tuple(clip.frames.shape)) == frames
        assert (clip.audio is not None) == audio
        if clip.frames is not None:
            assert clip.frames.dtype == torch.uint8
        if clip.audio is not None:
            assert clip.audio.shape == TINY.clip.audio_shape
            assert float(clip.audio.abs().max()) <= 1.0
    assert set(clips["generate"].timings) == {"base", "sr"}
    assert set(clips["v2a"].timings) == {"base"}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["generate", "v2a"])
def test_every_sampler_gives_the_same_clip_for_the_same_seed(pipeline: Pipeline, sampler: str, kind: str) -> None:
    params = SamplingParams(seed=5, steps=4, sampler=sampler, super_resolution=False)
    first, again, other = (
        pipeline.run(ClipRequest(kind, replace(params, seed=seed), condition=given(kind))).audio for seed in (5, 5, 6)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool(first.isfinite().all())


@pytest.mark.parametrize("method", GUIDANCE)
@pytest.mark.parametrize("kind", ["v2a", "a2v"])
def test_every_guidance_depends_on_the_condition(pipeline: Pipeline, method: str, kind: str) -> None:
    sampler = "ddpm" if method == "gradient_code" else "dpmpp_2m"
    params = SamplingParams(seed=5, steps=3, sampler=sampler, guidance=method, super_resolution=False)
    condition = given(kind)
    assert condition is not None

    def result(value: torch.Tensor) -> torch.Tensor:
        clip = pipeline.run(ClipRequest(kind, params, condition=value))
        made = clip.frames if kind == "a2v" else clip.audio
        assert made is not None
        return made.float()

    assert not torch.equal(result(condition), result(-condition))


def test_outputs_of_a_job_differ(pipeline: Pipeline) -> None:
    clips = [pipeline.run(ClipRequest("generate", QUICK, index)).audio for index in (0, 1)]
    assert clips[0] is not None
    assert not torch.equal(clips[0], clips[1])


@pytest.mark.slow
def test_published_super_resolution_starts_from_noise_and_costs_25_steps(pipeline: Pipeline) -> None:
    seen: list[StepProgress] = []
    pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=2, sr_sampler="ddim")), seen.append)
    assert [p.step for p in seen if p.stage == "sr"] == list(range(1, 26))


def test_super_resolution_starts_at_the_time_of_the_request(pipeline: Pipeline) -> None:
    assert pipeline.manifest.config.schedule.steps == 1000
    clips = {}
    for start in (None, 999, 500):
        program, times = pipeline.program(ClipRequest("generate", replace(QUICK, steps=1, sr_start=start))), []
        answer: Any = None
        try:
            while True:
                asked = program.send(answer)
                if isinstance(asked, EvaluateFrames):
                    times.append(asked.t)
                answer = evaluate(asked, pipeline.evaluator)
        except StopIteration as stop:
            clips[start] = stop.value.frames
        assert times == [999.0 if start is None else start, 0.0]
    assert torch.equal(clips[None], clips[999])
    assert not torch.equal(clips[None], clips[500])


def test_progress_counts_sampler_steps_and_ends_at_one(pipeline: Pipeline) -> None:
    params = SamplingParams(seed=2, steps=4, sr_steps=3, guidance="decoupling")
    seen: list[StepProgress] = []
    pipeline.run(ClipRequest("generate", params), seen.append)
    assert [(p.stage, p.step, p.total_steps) for p in seen] == [
        *(("base", k, 4) for k in range(1, 5)),
        *(("sr", k, 3) for k in range(1, 4)),
    ]
    fractions = [p.fraction for p in seen]
    assert all(0.0 < p.fraction <= 1.0 for p in seen)
    assert fractions[-1] == pytest.approx(1.0)
    assert seen[-1].eta_seconds == pytest.approx(0.0)
    again: list[StepProgress] = []
    pipeline.run(ClipRequest("generate", params), again.append)
    assert all(p.eta_seconds is not None for p in again)
    assert [p.fraction for p in again] == sorted(p.fraction for p in again)


def test_an_exception_of_the_caller_ends_the_run(pipeline: Pipeline) -> None:
    class Stop(Exception):
        pass

    def stop(progress: StepProgress) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        pipeline.run(ClipRequest("generate", QUICK), stop)


@pytest.mark.parametrize("condition", [None, torch.zeros(1, 17)])
def test_a_missing_or_misshapen_condition_is_refused(pipeline: Pipeline, condition: torch.Tensor | None) -> None:
    with pytest.raises(RequestError, match="shape"):
        pipeline.run(ClipRequest("a2v", QUICK, condition=condition))


def test_requests_share_a_forward_and_get_their_own_answers() -> None:
    """Mixed times, shifts, sizes, with and without a gradient: each as if it were alone."""
    evaluator = Pipeline.load(MANIFEST, "cpu", "float32").evaluator
    generator = torch.Generator().manual_seed(0)

    def latents(batch: int) -> Latents:
        return Latents(
            torch.randn(batch, *TINY.clip.video_shape, generator=generator),
            torch.randn(batch, *TINY.clip.audio_shape, generator=generator),
        )

    limits = torch.tensor(TINY.base.max_shifts(TINY.clip.frames))

    def shifts(batch: int) -> torch.Tensor:
        return (torch.rand(batch, len(limits), generator=generator) * (limits + 1)).long()

    def guided(t: float, objective: Callable[[Latents], torch.Tensor]) -> Evaluate:
        return Evaluate(latents(1), t, 0.0, shifts=shifts(1), objective=objective, wrt=("audio",))

    requests = [
        Evaluate(latents(1), 999.0, 0.0, shifts=shifts(1)),
        Evaluate(latents(2), 3.0, 0.0, shifts=shifts(2), t_audio=0.0),
        Evaluate(latents(1), 500.0, 0.0, shifts=shifts(1), coupled=False),
        guided(70.0, lambda eps: eps["video"].square().sum()),
        guided(90.0, lambda eps: eps["video"].sum()),
    ]
    for request, shared in zip(requests, evaluator(requests), strict=True):
        (alone,) = evaluator([request])
        for modality in ("video", "audio"):
            assert torch.allclose(shared.eps[modality], alone.eps[modality], atol=1e-4, rtol=1e-4)
        assert (shared.gradient is None) == (request.objective is None)
        if shared.gradient is not None and alone.gradient is not None:
            assert shared.gradient["audio"].shape == request.x["audio"].shape
            gradient, own = shared.gradient["audio"], alone.gradient["audio"]
            assert float((gradient - own).norm() / own.norm()) < 1e-3


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_modality_is_sampled_alone(modality: str) -> None:
    config = replace(TINY, base=replace(TINY.base, modalities=(modality,)), sr=None)
    pipeline = Pipeline.load(replace(MANIFEST, config=config), "cpu", "float32")
    clip = pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=2)))
    assert (clip.frames is not None, clip.audio is not None) == (modality == "video", modality == "audio")


def test_bytes_are_truncated_as_published() -> None:
    values = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 1.7]).view(1, 1, -1, 1).expand(1, 3, -1, 1)
    assert to_uint8(values)[0, :, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_driving_one_sampler_returns_its_result(pipeline: Pipeline) -> None:
    x = Latents(torch.randn(1, *TINY.clip.video_shape), torch.randn(1, *TINY.clip.audio_shape))
    result = drive(dpmpp_2m(x, pipeline.schedule, pipeline.schedule.times(2, "log_snr")), pipeline.evaluator)
    assert result["video"].shape == x["video"].shape
