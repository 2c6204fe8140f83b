"""Edits through the pipeline: what is kept is exact, what is new is made, at any length, by every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.networks.config import ClipSpec
from model.request import EDIT_GUIDANCE, SAMPLERS, RequestError, SamplingParams
from model.runtime.edit import EditCondition
from model.runtime.engine import Engine
from model.runtime.pipeline import Clip, ClipRequest, Pipeline, StepProgress
from tests.model.runtime.test_neighbours import TINY

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = SamplingParams(seed=11, steps=2, super_resolution=False)
LONG = replace(TINY.clip, frames=7)
SAMPLES = TINY.clip.samples // TINY.clip.frames


def edit(
    clip: ClipSpec, video: slice | None = None, audio: slice | None = None, region: bool = False, seed: int = 1
) -> EditCondition:
    """An edit of a section of noise that makes these frames and samples anew; of the frames the left half if
    `region`."""
    generator = torch.Generator().manual_seed(seed)
    new_video = torch.zeros(clip.frames, clip.height, clip.width, dtype=torch.bool)
    new_audio = torch.zeros(clip.samples, dtype=torch.bool)
    if video is not None:
        new_video[video, :, : clip.width // 2 if region else clip.width] = True
    if audio is not None:
        new_audio[audio] = True
    frames = torch.randint(0, 256, clip.video_shape, generator=generator, dtype=torch.uint8)
    return EditCondition(frames, torch.rand(clip.audio_shape, generator=generator) * 2 - 1, new_video, new_audio)


def run(pipeline: Pipeline, condition: EditCondition, params: SamplingParams = QUICK) -> Clip:
    return pipeline.run(ClipRequest("edit", params, condition=condition))


def same(one: Clip, other: Clip) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
        for a, b in ((one.frames, other.frames), (one.audio, other.audio))
    )


EDITS = {
    "a span of sound": {"audio": slice(70, 200)},
    "a span of frames": {"video": slice(2, 4)},
    "both": {"video": slice(1, 3), "audio": slice(100, 260)},
    "an extension": {"video": slice(2, None), "audio": slice(2 * SAMPLES, None)},
    "a region": {"video": slice(1, 4), "region": True},
}


@pytest.mark.parametrize("frames", [3, 7])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_what_is_new_and_keeps_the_rest_exactly(pipeline: Pipeline, name: str, frames: int) -> None:
    spec = replace(TINY.clip, frames=frames)
    condition = edit(spec, **EDITS[name])  # type: ignore[arg-type]

    clip = run(pipeline, condition)

    assert (clip.frames is not None, clip.audio is not None) == tuple(m in condition.makes for m in ("video", "audio"))
    if clip.frames is not None:
        new = condition.new_video[..., None].expand_as(clip.frames)
        given = condition.frames.movedim(1, -1)
        assert torch.equal(clip.frames[~new], given[~new])
        assert float((clip.frames[new] != given[new]).float().mean()) > 0.9
    if clip.audio is not None:
        new = condition.new_audio[None]
        assert torch.equal(clip.audio[~new], condition.sound[~new])
        assert float((clip.audio[new] != condition.sound[new]).float().mean()) > 0.9


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_an_edit_that_depends_on_its_seed_alone(pipeline: Pipeline, sampler: str) -> None:
    params = replace(QUICK, sampler=sampler, steps=4, guidance="replacement")
    condition = edit(replace(TINY.clip, frames=5), slice(3, 5), slice(100, 250))
    first, again, other = (run(pipeline, condition, replace(params, seed=seed)) for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("method", EDIT_GUIDANCE)
@pytest.mark.parametrize("spec", [TINY.clip, LONG], ids=["one window", "several"])
def test_every_method_uses_what_is_kept(pipeline: Pipeline, method: str, spec: ClipSpec) -> None:
    params = replace(QUICK, guidance=method)
    one, other = (run(pipeline, edit(spec, audio=slice(80, 200), seed=seed), params) for seed in (1, 2))
    assert one.audio is not None
    assert other.audio is not None
    assert not torch.equal(one.audio[:, 80:200], other.audio[:, 80:200])


def test_an_edit_is_the_same_alone_and_in_company(pipeline: Pipeline) -> None:
    requests = [
        ClipRequest("edit", QUICK, condition=edit(LONG, slice(3, 6), slice(100, 400))),
        ClipRequest("edit", QUICK, condition=edit(TINY.clip, audio=slice(50, 150))),
        ClipRequest("generate", QUICK),
    ]
    engine = Engine(4)
    engine.start()
    try:
        runs = [engine.submit(pipeline.evaluator, pipeline.program(request)) for request in requests]
        together = [run.result(60) for run in runs]
    finally:
        engine.close(RuntimeError("the test has ended"))
        engine.join()
    assert all(same(pipeline.run(request), clip) for request, clip in zip(requests, together, strict=True))


def test_what_lies_under_a_mask_is_not_used(pipeline: Pipeline) -> None:
    condition = edit(LONG, slice(3, 6), slice(100, 400))
    changed = replace(condition, frames=condition.frames.clone(), sound=condition.sound.clone())
    changed.frames[3:6] = 7
    changed.sound[:, 100:400] = 0.5
    assert same(run(pipeline, condition), run(pipeline, changed))


def test_frames_with_something_new_are_enlarged_and_others_interpolated(pipeline: Pipeline) -> None:
    steps: list[StepProgress] = []
    condition = edit(replace(LONG, frames=12), slice(5, 7))
    params = replace(QUICK, super_resolution=True, sr_steps=2)

    clip = pipeline.run(ClipRequest("edit", params, condition=condition), steps.append)

    assert clip.frames is not None
    assert clip.frames.shape == (12, *TINY.output_size, 3)
    assert [step.step for step in steps if step.stage == "sr"] == [1, 2]
    assert steps[-1].fraction == pytest.approx(1.0)


def test_a_mirrored_model_keeps_the_frames_as_they_are(pipeline: Pipeline) -> None:
    mirrored = Pipeline(replace(pipeline.manifest, mirrored=True), pipeline.evaluator, pipeline.device)
    condition = edit(TINY.clip, slice(1, 3), region=True)
    clip = run(mirrored, condition)
    assert clip.frames is not None
    new = condition.new_video[..., None].expand_as(clip.frames)
    assert torch.equal(clip.frames[~new], condition.frames.movedim(1, -1)[~new])


def test_an_impossible_edit_is_refused(pipeline: Pipeline) -> None:
    good = edit(LONG, slice(3, 6))
    for bad, words in (
        (replace(good, new_video=good.new_video[:5]), "new_video"),
        (replace(good, sound=good.sound[:, :-1]), "sound"),
        (replace(good, frames=good.frames.float()), "uint8"),
        (edit(LONG), "something new"),
    ):
        with pytest.raises(RequestError, match=words):
            run(pipeline, bad)
    with pytest.raises(RequestError, match=r"lasts 0\.7 s"):
        run(pipeline, good, replace(QUICK, duration=0.8))
    with pytest.raises(RequestError, match="EditCondition"):
        pipeline.run(ClipRequest("edit", QUICK))
    with pytest.raises(RequestError, match="guidance for edit"):
        run(pipeline, good, replace(QUICK, guidance="gradient"))
