"""Clips of any length through the pipeline: what comes out, that it depends on the seed alone, how it is followed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.networks.config import ClipSpec
from model.request import GUIDANCE, SAMPLERS, RequestError, SamplingParams, clip_of
from model.runtime.engine import Engine
from model.runtime.evaluator import drive
from model.runtime.pipeline import Clip, ClipPart, ClipRequest, Pipeline, StepProgress
from model.sampling import guidance, samplers
from model.sampling.error_variance import error_variance
from model.sampling.latents import Latents, clip
from model.sampling.randomness import RandomStream
from tests.model.runtime.engine_runs import made_together
from tests.model.runtime.test_neighbours import MANIFEST, TINY

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = TINY.clip.duration
"""Seconds: 4 frames at 10 a second, with 64 samples each."""
LONG = 1.3
QUICK = SamplingParams(seed=11, steps=3, duration=LONG, super_resolution=False)


def given(kind: str, duration: float | None = LONG, seed: int = 1) -> torch.Tensor | None:
    spec = clip_of(duration, TINY.clip)
    shape = {"generate": None, "v2a": spec.video_shape, "a2v": spec.audio_shape}[kind]
    return None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def same(one: Clip, other: Clip) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
        for a, b in ((one.frames, other.frames), (one.audio, other.audio))
    )


def made(pipeline: Pipeline, kind: str, params: SamplingParams, condition: torch.Tensor | None = None) -> torch.Tensor:
    """The frames or, for v2a, the sound."""
    condition = given(kind, params.duration) if condition is None else condition
    clip = pipeline.run(ClipRequest(kind, params, condition=condition))
    value = clip.audio if kind == "v2a" else clip.frames
    assert value is not None
    return value


@pytest.mark.parametrize(("duration", "frames"), [(0.1, 1), (0.25, 3), (0.4, 4), (0.41, 5), (0.8, 8), (1.3, 13)])
@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v"])
def test_a_clip_has_the_whole_frames_that_cover_its_duration(
    pipeline: Pipeline, kind: str, duration: float, frames: int
) -> None:
    params = replace(QUICK, duration=duration, steps=2, super_resolution=kind != "v2a", sr_steps=None)
    clip = pipeline.run(ClipRequest(kind, params, condition=given(kind, duration)))
    large = (frames, *TINY.output_size, 3)
    assert (clip.frames.shape if clip.frames is not None else None) == (None if kind == "v2a" else large)
    assert (clip.audio.shape if clip.audio is not None else None) == (None if kind == "a2v" else (1, frames * 64))


def by_hand(pipeline: Pipeline, kind: str, params: SamplingParams) -> Latents:
    """One window as it was made before there were others: noise, sampler, guidance, shifts."""
    schedule, params = pipeline.schedule, params.resolve(kind, pipeline.manifest)
    stream = RandomStream(params.seed, 0)
    noise = Latents(stream.normal((1, *TINY.clip.video_shape)), stream.normal((1, *TINY.clip.audio_shape)))
    modality = {"v2a": "video", "a2v": "audio"}.get(kind)
    x = noise.replace(modality, None) if modality else noise
    times = schedule.times(params.steps, params.spacing)
    sampler = {
        "dpm_solver": lambda: samplers.dpm_solver(x, schedule, schedule.grid(params.steps, params.spacing), 3),
        "ddim": lambda: samplers.ddim(x, schedule, times),
        "ddpm": lambda: samplers.ddpm(x, schedule, times, stream.normal_like),
    }.get(params.sampler, lambda: getattr(samplers, params.sampler)(x, schedule, times))()
    if modality is None:
        unlimited = params.sampler == "dpm_solver"
        chain = guidance.limited(sampler, schedule, (lambda x0: x0) if unlimited else clip)
        if params.guidance == "decoupling":
            chain = guidance.decoupling(chain, params.guidance_scale or 0.0)
    else:
        value = given(kind, None)
        assert value is not None
        condition = guidance.Condition(modality, value[None], noise[modality])
        scale = params.guidance_scale or 0.0
        variance = error_variance(pipeline.manifest.calibration, modality)
        chain = {
            "clean": lambda: guidance.clean(sampler, schedule, condition, clip),
            "pigdm": lambda: guidance.pigdm(sampler, schedule, condition, clip, variance, scale),
            "gradient": lambda: guidance.gradient(sampler, schedule, condition, clip, scale),
        }[params.guidance or ""]()
    limits = TINY.base.max_shifts(TINY.clip.frames)
    return drive(guidance.with_shifts(chain, lambda batch: stream.shifts(limits, batch)), pipeline.evaluator)


def test_a_model_of_one_frame_runs() -> None:
    config = replace(TINY, clip=replace(TINY.clip, frames=1), base=replace(TINY.base, windows=(1, 1)))
    pipeline = Pipeline.load(replace(MANIFEST, config=config), "cpu", "float32")

    clip = pipeline.run(ClipRequest("generate", replace(QUICK, duration=None)))

    assert clip.frames is not None
    assert len(clip.frames) == 1


@pytest.mark.parametrize(
    ("kind", "method", "sampler"),
    [
        *(("generate", None, sampler) for sampler in SAMPLERS),
        ("generate", "decoupling", "dpmpp_2m"),
        ("v2a", "clean", "dpmpp_3m"),
        ("v2a", "pigdm", "unipc"),
        ("a2v", "gradient", "ddpm"),
    ],
)
def test_one_window_is_made_as_without_windows_to_the_bit(
    pipeline: Pipeline, kind: str, method: str | None, sampler: str
) -> None:
    params = SamplingParams(seed=5, steps=4, sampler=sampler, guidance=method, super_resolution=False)
    expected = by_hand(pipeline, kind, params)
    for duration in (None, WINDOW):
        clip = pipeline.run(ClipRequest(kind, replace(params, duration=duration), condition=given(kind, None)))
        if clip.audio is not None:
            assert torch.equal(clip.audio, expected["audio"][0].clamp(-1, 1))
        if clip.frames is not None:
            bytes_ = ((expected["video"][0] + 1) * 127.5).clamp(0, 255).to(torch.uint8)
            assert torch.equal(clip.frames, bytes_.movedim(1, -1))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["generate", "a2v"])
def test_every_sampler_gives_the_same_long_clip_for_the_same_seed(pipeline: Pipeline, sampler: str, kind: str) -> None:
    params = replace(QUICK, sampler=sampler, steps=4)
    first, again, other = (made(pipeline, kind, replace(params, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", GUIDANCE)
@pytest.mark.parametrize("kind", ["v2a", "a2v"])
def test_every_guidance_follows_the_condition_at_its_time(pipeline: Pipeline, method: str, kind: str) -> None:
    """With independent shifts and cuts, what is given at the end cannot change what no window sees beside it."""
    sampler = "ddpm" if method == "gradient_code" else "dpmpp_2m"
    params = replace(QUICK, sampler=sampler, guidance=method, duration=1.6)
    condition = given(kind, 1.6)
    assert condition is not None
    changed = condition.clone()
    if kind == "v2a":
        changed[-2:] = -changed[-2:]
    else:
        changed[:, -128:] = -changed[:, -128:]
    one, other = (made(pipeline, kind, params, value) for value in (condition, changed))
    per_frame = 64 if kind == "v2a" else 1
    one, other = (value[0] if kind == "v2a" else value for value in (one, other))
    assert not torch.equal(one[-2 * per_frame :], other[-2 * per_frame :])
    # Each of 3 steps passes a change on by a window less a frame at most.
    assert torch.equal(one[: 4 * per_frame], other[: 4 * per_frame])


@pytest.mark.parametrize("method", ["decoupling", None])
def test_guidance_of_joint_clips_works_in_windows(pipeline: Pipeline, method: str | None) -> None:
    assert made(pipeline, "generate", replace(QUICK, guidance=method)).shape[0] == 13


@pytest.mark.parametrize("method", ["clean", "pigdm"])
def test_a_clip_shorter_than_a_window_holds_the_last_frame_and_ends_in_silence(pipeline: Pipeline, method: str) -> None:
    params = replace(QUICK, duration=0.3, guidance=method)
    video, audio = given("v2a", 0.3), given("a2v", 0.3)
    assert video is not None
    assert audio is not None
    held = torch.cat([video, video[-1:]])
    silent = torch.cat([audio, torch.zeros(1, 64)], dim=1)
    whole = replace(params, duration=WINDOW)
    assert torch.equal(made(pipeline, "v2a", params, video), made(pipeline, "v2a", whole, held)[:, :192])
    assert torch.equal(made(pipeline, "a2v", params, audio), made(pipeline, "a2v", whole, silent)[:3])


def test_sound_that_ends_within_the_last_frame_is_filled_with_silence(pipeline: Pipeline) -> None:
    audio = given("a2v")
    assert audio is not None
    ends = audio[:, :-40]
    silent = torch.cat([ends, torch.zeros(1, 40)], dim=1)
    assert torch.equal(made(pipeline, "a2v", QUICK, ends), made(pipeline, "a2v", QUICK, silent))


def test_video_may_be_given_as_bytes(pipeline: Pipeline) -> None:
    pixels = torch.randint(0, 256, (13, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(made(pipeline, "v2a", QUICK, pixels), made(pipeline, "v2a", QUICK, pixels.float() / 127.5 - 1))


@pytest.mark.parametrize(
    ("kind", "shape"), [("v2a", (12, 3, 8, 8)), ("v2a", (14, 3, 8, 8)), ("a2v", (1, 768)), ("a2v", (1, 833))]
)
def test_a_condition_of_another_length_is_refused(pipeline: Pipeline, kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="shape"):
        pipeline.run(ClipRequest(kind, QUICK, condition=torch.zeros(shape)))


@pytest.mark.parametrize(("kind", "method"), [("generate", None), ("v2a", "pigdm"), ("a2v", "clean")])
def test_a_long_clip_is_the_same_alone_and_in_company(pipeline: Pipeline, kind: str, method: str | None) -> None:
    request = ClipRequest(kind, replace(QUICK, guidance=method), 1, given(kind))
    alone = pipeline.run(request)
    others = [
        ClipRequest("generate", SamplingParams(seed=3, steps=9, super_resolution=False)),
        ClipRequest("v2a", replace(QUICK, seed=8, guidance="replacement", duration=2.0), 0, given("v2a", 2.0)),
        ClipRequest("generate", replace(QUICK, seed=8, guidance="decoupling")),
    ]
    engine = Engine(capacity=6)
    *_, among = made_together(engine, pipeline, [*others, request])
    assert same(alone, among)
    assert not same(alone, pipeline.run(replace(request, index=2)))
    assert max(engine.statistics.clips) > 1


def test_progress_goes_on_within_a_step_and_previews_show_the_whole_clip(pipeline: Pipeline) -> None:
    params = replace(QUICK, duration=8.0, super_resolution=True, sr_steps=2, guidance="decoupling")
    seen: list[StepProgress] = []
    pipeline.run(ClipRequest("generate", replace(params, steps=1, duration=None)))  # so that step times are known
    clip = pipeline.run(ClipRequest("generate", params), seen.append)
    assert clip.frames is not None
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    steps = [(progress.stage, progress.step, progress.total_steps) for progress in seen]
    assert sorted(set(steps), key=steps.index) == [
        *(("base", k, 3) for k in range(4)),
        *(("sr", k, 40) for k in range(1, 41)),
    ]
    # 80 frames are 27 windows or one less: 16 and what is left, 4 of them at a time, each part twice for decoupling.
    within = [progress for progress in seen if (progress.stage, progress.step) == ("base", 1)]
    assert 12 <= len(within) <= 14
    assert len({progress.fraction for progress in within}) == len(within)
    assert all(progress.eta_seconds is not None for progress in seen[1:4])
    for progress in (seen[0], within[0], seen[-1]):
        preview = progress.preview()
        assert preview.frames is not None
        assert preview.frames.shape == (64, 8, 8, 3)
    sound = within[0].preview().audio
    assert sound is not None
    assert sound.shape == (80 * 64 / 2,)
    # The last preview shows every group enlarged, the first and the last frame too.
    shown = seen[-1].preview().frames
    assert shown is not None
    for place in (0, -1):
        small = clip.frames[place].float().movedim(-1, 0)
        expected = torch.nn.functional.interpolate(small[None], (8, 8), mode="area")[0].movedim(0, -1)
        assert float((shown[place].float() - expected).abs().max()) <= 1.01


def test_parts_come_as_they_are_ready_and_make_up_the_clip(pipeline: Pipeline) -> None:
    params = replace(QUICK, super_resolution=True, sr_steps=2)
    request = ClipRequest("generate", params)
    whole = pipeline.run(request)
    ready: list[int] = []
    stream = pipeline.stream(request, lambda progress: ready.append(progress.step if progress.stage == "sr" else 0))
    parts: list[ClipPart] = []
    while True:
        try:
            parts.append(next(stream))
        except StopIteration as stop:
            clip = stop.value
            break
        # The first group is there before the last is begun.
        assert max(ready) <= 2 * len(parts)
    assert clip.frames is None
    assert [(part.start, len(part.frames)) for part in parts if part.frames is not None] == [
        (0, 4),
        (4, 4),
        (8, 4),
        (12, 1),
    ]
    assert torch.equal(torch.cat([part.frames for part in parts if part.frames is not None]), whole.frames)
    assert torch.equal(torch.cat([part.audio for part in parts if part.audio is not None], dim=1), whole.audio)
    sound_only = list(pipeline.stream(ClipRequest("v2a", QUICK, condition=given("v2a"))))
    assert {part.frames for part in sound_only} == {None}
    assert sum(part.audio.shape[1] for part in sound_only if part.audio is not None) == 13 * 64


@pytest.mark.parametrize("sr_sampler", ["dpmpp_2m", "ddim"])
def test_groups_of_super_resolution_do_not_show(pipeline: Pipeline, sr_sampler: str) -> None:
    """Frames that are equal before it are equal after it, on both sides of a group's border too."""
    params = replace(
        QUICK, duration=1.2, super_resolution=True, sr_sampler=sr_sampler, sr_steps=10 if sr_sampler == "ddim" else 3
    )
    program = pipeline.program(ClipRequest("generate", params))
    asked, low, high = next(program), [], None
    try:
        while True:
            if isinstance(asked, samplers.EvaluateFrames):
                # What a still clip would give, whatever the base network made.
                still = asked.low_res[:1] * 0 + torch.linspace(-1, 1, asked.low_res.shape[-1])
                asked = replace(asked, low_res=still.expand_as(asked.low_res))
                low.append(asked.x)
            if isinstance(asked, samplers.EvaluateAll):
                asked = program.send(pipeline.evaluator(asked.requests))
            else:
                asked = program.send(pipeline.evaluator([asked])[0])
    except StopIteration as stop:
        high = stop.value.frames
    noise = low[0][0]
    if sr_sampler == "ddim":  # which begins from the noise itself
        firsts = low[::10]
        assert len(firsts) == 3
        assert all(torch.equal(frame, noise) for group in firsts for frame in group)
        assert all(torch.equal(frame, high[0]) for frame in high)
    assert high.shape[0] == 12


def test_a_rate_that_frames_do_not_divide_allows_no_other_length() -> None:
    awkward = replace(TINY, clip=ClipSpec(frames=8, fps=16, height=8, width=8, sample_rate=1000), sr=None)
    manifest = replace(MANIFEST, config=awkward)
    with pytest.raises(RequestError, match="cannot be divided among 16 frames") as refusal:
        SamplingParams(seed=1, duration=0.25).resolve("generate", manifest)
    assert refusal.value.field == "duration"
    assert SamplingParams(seed=1, duration=0.5).resolve("generate", manifest).duration == 0.5


@pytest.mark.parametrize(
    ("kind", "duration", "acts"),
    [("generate", LONG, True), ("generate", WINDOW, False), ("v2a", LONG, False), ("a2v", LONG, False)],
)
def test_colour_and_level_are_pulled_together_in_joint_clips_of_several_windows(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, kind: str, duration: float, acts: bool
) -> None:
    strengths: list[float] = []
    monkeypatch.setattr("model.runtime.base_stage.reduce_drift", lambda x0, windows, pull: strengths.append(pull))
    made(pipeline, kind, replace(QUICK, steps=6, duration=duration))
    assert bool(strengths) == acts
    assert strengths == sorted(strengths, reverse=True)
    assert all(0 < strength <= 1 for strength in strengths)
    assert len(strengths) < 6  # none where the signal is clear
