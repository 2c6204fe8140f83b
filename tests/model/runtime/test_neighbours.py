"""A clip depends on its seed, not on its neighbours: alone, and among others that join and leave while it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS, ClipSpec, ModelConfig, UNetConfig
from model.request import SamplingParams
from model.runtime.batch_sizes import BatchSizes
from model.runtime.engine import Engine
from model.runtime.pipeline import Clip, ClipRequest, Pipeline, StepProgress
from tests.model.runtime.engine_runs import made_together

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ModelConfig(
    clip=ClipSpec(frames=4, height=8, width=8, sample_rate=640),
    base=UNetConfig(
        channels=32, channel_mult=(1, 1), res_blocks=1, head_channels=8, cross_attention_scales=(1, 2), windows=(1, 2)
    ),
    sr=PRESETS["tiny"].sr,
)
"""Every kind of layer, a few milliseconds a forward: each example here takes hundreds of them."""
CALIBRATION = {"times": [0.0, 500.0, 999.0], "video": [0.01, 0.1, 0.3], "audio": [0.01, 0.1, 0.3]}
MANIFEST = Manifest("tiny", TINY, trained=False, description="", licence="MIT", init_seed=3, calibration=CALIBRATION)


@dataclass(frozen=True)
class Neighbour:
    """Another job: joins after step `joins` of the one that is looked at, and is cancelled `stays` steps later."""

    kind: str
    guidance: str | None
    sampler: str
    steps: int
    seed: int
    joins: int
    stays: int


NEIGHBOURS = st.lists(
    st.builds(
        Neighbour,
        kind=st.sampled_from(["generate", "v2a", "a2v"]),
        guidance=st.sampled_from(["replacement", "pigdm", "decoupling"]),
        sampler=st.sampled_from(["dpmpp_2m", "ddim", "ddpm", "unipc"]),
        steps=st.integers(1, 12),
        seed=st.integers(0, 100),
        joins=st.integers(0, 6),
        stays=st.integers(1, 20),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(MANIFEST, "cpu", "float32")


def condition(kind: str, seed: int) -> torch.Tensor | None:
    shape = {"generate": None, "v2a": TINY.clip.video_shape, "a2v": TINY.clip.audio_shape}[kind]
    return None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def made(pipeline: Pipeline, request: ClipRequest, neighbours: list[Neighbour]) -> tuple[Clip, list[int]]:
    """The clip of `request` among `neighbours`, and how many clips went through the network in each tick."""
    engine = Engine(capacity=8)

    def joined(progress: StepProgress) -> None:
        """In the engine's thread, so that who meets whom depends on the example alone."""
        for neighbour in neighbours:
            if neighbour.joins == progress.step:
                join(neighbour)
        for run, leaves in runs:
            if leaves == progress.step:
                run.leave(KeyError("cancelled"))

    def join(neighbour: Neighbour) -> None:
        params = SamplingParams(
            seed=neighbour.seed,
            steps=neighbour.steps,
            sampler=neighbour.sampler,
            guidance="decoupling" if neighbour.kind == "generate" else neighbour.guidance,
            super_resolution=False,
        )
        other = ClipRequest(neighbour.kind, params, condition=condition(neighbour.kind, neighbour.seed))
        runs.append((engine.submit(pipeline.evaluator, pipeline.program(other)), neighbour.joins + neighbour.stays))

    runs = []
    run = engine.submit(pipeline.evaluator, pipeline.program(request, joined))
    for neighbour in neighbours:
        if not neighbour.joins:
            join(neighbour)
    engine.start()
    clip = run.result(60)
    engine.close(KeyError("done"))
    engine.join()
    return clip, list(engine.statistics.clips)


Compared = Callable[[ClipRequest, tuple[int, ...], list[Neighbour]], tuple[Clip, Clip]]


def request_of(kind: str, guidance: str | None, steps: int) -> ClipRequest:
    params = SamplingParams(seed=5, steps=steps, guidance=guidance, super_resolution=False)
    return ClipRequest(kind, params, condition=condition(kind, 9))


@pytest.fixture(scope="module")
def compared(pipeline: Pipeline) -> Compared:
    """The clip of a request at these batch sizes, alone (generated once) and among neighbours."""
    alone: dict[str, Clip] = {}

    def make(request: ClipRequest, sizes: tuple[int, ...], neighbours: list[Neighbour]) -> tuple[Clip, Clip]:
        pipeline.evaluator.use_batch_sizes(BatchSizes(sizes))
        key = f"{request.kind} {request.params} {sizes}"
        if key not in alone:
            alone[key] = made(pipeline, request, [])[0]
        among, batches = made(pipeline, request, neighbours)
        assert max(batches) > 1
        return alone[key], among

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "guidance"), [("generate", None), ("v2a", "pigdm"), ("a2v", "replacement")])
@settings(max_examples=3, deadline=None)
@given(neighbours=NEIGHBOURS)
def test_to_the_bit_at_a_fixed_batch_size(
    compared: Compared, kind: str, guidance: str | None, neighbours: list[Neighbour]
) -> None:
    expected, among = compared(request_of(kind, guidance, steps=8), (4,), neighbours)
    for one, other in ((expected.frames, among.frames), (expected.audio, among.audio)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


@pytest.mark.parametrize(("kind", "guidance"), [("generate", None), ("v2a", "replacement")])
@settings(max_examples=3, deadline=None)
@given(neighbours=NEIGHBOURS)
def test_within_rounding_at_any_batch_size(
    compared: Compared, kind: str, guidance: str | None, neighbours: list[Neighbour]
) -> None:
    expected, among = compared(request_of(kind, guidance, steps=20), (1, 2, 4), neighbours)
    if expected.audio is not None and among.audio is not None:
        assert float((expected.audio - among.audio).abs().max()) <= 1e-3
    if expected.frames is not None and among.frames is not None:
        off = (expected.frames.int() - among.frames.int()).abs()
        assert float((off <= 1).float().mean()) >= 0.999


def test_super_resolution_frames_do_not_depend_on_other_clips(pipeline: Pipeline) -> None:
    params = SamplingParams(seed=5, steps=2, sr_steps=3)
    pipeline.evaluator.use_batch_sizes(BatchSizes((8,)))
    alone = pipeline.run(ClipRequest("generate", params))
    engine = Engine(capacity=8, frame_budget=4 * TINY.clip.frames)
    requests = [ClipRequest("generate", replace(params, seed=seed)) for seed in (3, 5, 9)]
    before, among, _ = made_together(engine, pipeline, requests)
    assert max(engine.statistics.frames) == 3 * TINY.clip.frames
    assert torch.equal(alone.frames, among.frames)
    assert not torch.equal(alone.frames, before.frames)
