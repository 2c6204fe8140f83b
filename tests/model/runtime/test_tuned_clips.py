"""Clips by tuned solvers: through the pipeline and the engine, in windows, and with super-resolution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.checkpoint.manifest import Manifest
from model.request import SamplingParams
from model.runtime.batch_sizes import BatchSizes
from model.runtime.engine import Engine
from model.runtime.evaluator import drive
from model.runtime.pipeline import Clip, ClipRequest, Pipeline, StepProgress
from model.sampling import guidance
from model.sampling.latents import Latents, clip
from model.sampling.randomness import RandomStream
from model.sampling.tuned import tuned
from tests.model.runtime.engine_runs import made_together
from tests.model.tuning.solvers import SMALL, with_solvers

CALIBRATION = {"times": [0.0, 999.0], "video": [0.01, 0.3], "audio": [0.01, 0.3]}
MANIFEST = with_solvers(
    Manifest(
        "small",
        SMALL,
        trained=False,
        description="",
        licence="MIT",
        init_seed=3,
        calibration=CALIBRATION,
        independent_timesteps=True,
    )
)
FAST = SamplingParams(seed=5, quality="fast")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(MANIFEST, "cpu", "float32")


def request(kind: str, params: SamplingParams = FAST, windows: int = 1) -> ClipRequest:
    if windows > 1:
        params = replace(params, duration=windows * SMALL.clip.duration)
    long = replace(SMALL.clip, frames=windows * SMALL.clip.frames)
    shape = {"generate": None, "v2a": long.video_shape, "a2v": long.audio_shape}[kind]
    given = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return ClipRequest(kind, params, condition=given)


def same(one: Clip, other: Clip) -> bool:
    pairs = ((one.frames, other.frames), (one.audio, other.audio))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize(("kind", "method"), [("generate", None), ("v2a", "clean"), ("a2v", "pigdm")])
def test_the_same_seed_gives_the_same_clip(pipeline: Pipeline, kind: str, method: str | None, windows: int) -> None:
    params = replace(FAST, guidance=method)
    first, again = (pipeline.run(request(kind, params, windows)) for _ in range(2))
    other = pipeline.run(request(kind, replace(params, seed=6), windows))
    assert same(first, again)
    assert not same(first, other)
    frames = first.frames if first.frames is not None else first.audio
    assert frames is not None
    assert len(frames) == windows * SMALL.clip.frames or frames.shape[1] == windows * SMALL.clip.samples


def test_it_takes_the_steps_of_its_quality(pipeline: Pipeline) -> None:
    seen: list[StepProgress] = []
    pipeline.run(request("generate"), seen.append)
    assert [(each.stage, each.step, each.total_steps) for each in seen] == [
        *(("base", step, 6) for step in range(1, 7)),
        *(("sr", step, 3) for step in range(1, 4)),
    ]


def test_it_is_the_tuned_sampler_from_the_noise_of_the_seed(pipeline: Pipeline) -> None:
    assert MANIFEST.tuned is not None
    stream = RandomStream(FAST.seed, 0)
    noise = Latents(stream.normal((1, *SMALL.clip.video_shape)), stream.normal((1, *SMALL.clip.audio_shape)))
    sampler = tuned(noise, pipeline.schedule, MANIFEST.tuned.base["generate"][6])
    chain = guidance.limited(sampler, pipeline.schedule, clip)
    shifts = SMALL.base.max_shifts(SMALL.clip.frames)
    latents = drive(guidance.with_shifts(chain, lambda batch: stream.shifts(shifts, batch)), pipeline.evaluator)
    made = pipeline.run(request("generate", replace(FAST, super_resolution=False)))
    assert made.audio is not None
    assert torch.equal(made.audio, latents["audio"][0].clamp(-1, 1))


def test_every_tuned_number_of_steps_gives_another_clip(pipeline: Pipeline) -> None:
    clips = [pipeline.run(request("generate", replace(FAST, steps=steps, sr_steps=2))) for steps in (4, 6, 8, 10)]
    clips += [pipeline.run(request("generate", replace(FAST, steps=10, sr_steps=steps))) for steps in (3, 4)]
    for number, one in enumerate(clips):
        assert not any(same(one, other) for other in clips[:number])


def test_clips_are_the_same_to_the_bit_among_others(pipeline: Pipeline) -> None:
    """In the engine, with other qualities beside it, at a single batch size."""
    pipeline.evaluator.use_batch_sizes(BatchSizes((4,)))
    asked = [request("generate"), request("v2a", replace(FAST, seed=8)), request("generate", windows=2)]
    alone = [made_together(Engine(8), pipeline, [each])[0] for each in asked]
    others = [request("generate", SamplingParams(seed=seed, steps=7, sr_steps=2)) for seed in (1, 2)]
    among = made_together(Engine(8), pipeline, [*others, *asked])[2:]
    pipeline.evaluator.use_batch_sizes(None)
    assert all(same(*pair) for pair in zip(alone, among, strict=True))
