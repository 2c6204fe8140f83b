"""Classifier-free guidance: known answers on a Gaussian whose mean the caption gives, and on the tiny network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint.manifest import ManifestError
from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import MODALITIES, TEXT_TOKENS, ScheduleConfig, UNetConfig
from model.networks.pair import Pair
from model.networks.text import TextTokens
from model.request import SamplingParams
from model.runtime.batch_sizes import BatchSizes
from model.runtime.edit import EditCondition
from model.runtime.evaluator import Evaluator, Program, drive, evaluate
from model.runtime.guided_steps import step_forwards
from model.runtime.pipeline import ClipRequest, Pipeline
from model.sampling import guidance
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prompt, dpmpp_2m
from model.sampling.schedule import NoiseSchedule
from model.text.encoder import load_encoder
from tests.model.runtime.test_cuda_graphs import ReplayOnCpu
from tests.model.runtime.test_neighbours import MANIFEST
from tests.model.sampling.analytic import Mixture

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())
STD = 0.5
SETTINGS = UNetConfig(text=1)


class Gaussian(nn.Module):
    """The exact denoiser of clips of one value, N(m, STD²) in both modalities; the caption's first token is m, without
    one it is 0. `batches`: rows of every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SETTINGS
        self.batches: list[int] = []
        self.dtype = torch.float64

    def forward(self, x: Pair, t: Pair, shifts: Tensor | None, coupled: bool, text: TextTokens) -> Pair:
        self.batches.append(len(text.tokens))
        means = (text.tokens[:, 0, 0] * text.mask[:, 0]).double()

        def eps(value: Tensor, times: Tensor) -> Tensor:
            parts = [
                Mixture(SCHEDULE, (float(mean),), STD).eps(row, float(time))
                for row, mean, time in zip(value, means, times, strict=True)
            ]
            return torch.stack(parts)

        return x.map(eps, t)


def caption(mean: float | None) -> TextTokens:
    tokens = torch.full((1, TEXT_TOKENS, 1), mean or 0.0)
    return TextTokens(tokens, (torch.arange(TEXT_TOKENS) < (0 if mean is None else 1))[None])


def noise(value: float) -> Latents:
    return Latents(*(torch.full((1, 1), value, dtype=torch.float64) for _ in MODALITIES))


@pytest.mark.parametrize(
    ("prompt", "mean"),
    [
        (None, 0.0),
        (Prompt(caption(1.0)), 1.0),
        (Prompt(caption(1.0), caption(None), 3.0), 3.0),
        (Prompt(caption(1.0), caption(-0.5), 2.0), 2.5),
        (Prompt(caption(1.0), caption(-0.5), 0.0), -0.5),
    ],
)
def test_guidance_moves_a_gaussian_by_the_scale(prompt: Prompt | None, mean: float) -> None:
    """ε̂ of N(m, s²) is affine in m, so guidance between two is the Gaussian of mean m_n + scale · (m_p − m_n)."""
    times = SCHEDULE.times(40, "log_snr")
    sampler = dpmpp_2m(noise(0.7), SCHEDULE, times)
    made = drive(
        sampler if prompt is None else guidance.prompted(sampler, prompt), Evaluator(Gaussian(), None, SCHEDULE)
    )  # type: ignore[arg-type]
    exact = Mixture(SCHEDULE, (mean,), STD).flow(torch.tensor([0.7], dtype=torch.float64), times[0], times[-1])
    for name in MODALITIES:
        assert made[name].item() == pytest.approx(exact.item(), abs=1e-2)


def test_guidance_ends_at_a_time_and_the_caption_stays() -> None:
    """The flow of the Gaussian between the captions down to that time, then that of the caption."""
    times = SCHEDULE.times(160, "log_snr")
    network = Gaussian()
    sampler = guidance.prompted(dpmpp_2m(noise(0.7), SCHEDULE, times), GUIDED, until=times[63])
    made = drive(sampler, Evaluator(network, None, SCHEDULE))  # type: ignore[arg-type]
    assert network.batches == [2] * 64 + [1] * 96
    start = torch.tensor([0.7], dtype=torch.float64)
    halfway = Mixture(SCHEDULE, (2.5,), STD).flow(start, times[0], times[64])
    exact = Mixture(SCHEDULE, (1.0,), STD).flow(halfway, times[64], times[-1])
    for name in MODALITIES:
        assert made[name].item() == pytest.approx(exact.item(), abs=1e-2)


def requests(*prompts: Prompt | None, wrt: tuple[str, ...] = ()) -> list[Evaluate]:
    return [
        Evaluate(
            noise(0.3),
            500.0,
            400.0,
            prompt=prompt,
            wrt=wrt,
            objective=(lambda e: e["audio"].square().sum()) if wrt else None,
        )
        for prompt in prompts
    ]


GUIDED, PLAIN = Prompt(caption(1.0), caption(-0.5), 2.0), Prompt(caption(0.2))


def test_both_parts_share_a_batch_with_other_requests() -> None:
    network = Gaussian()
    evaluator = Evaluator(network, None, SCHEDULE, batch_sizes=BatchSizes((4,)))  # type: ignore[arg-type]
    asked = requests(GUIDED, None, PLAIN)
    answers = evaluator(asked)
    assert network.batches == [4]
    for request, mean in zip(answers, (2.5, 0.0, 0.2), strict=True):
        exact = Mixture(SCHEDULE, (mean,), STD).eps(noise(0.3)["video"], 500.0)
        assert request.eps["video"].item() == pytest.approx(exact.item(), abs=1e-6)
    assert evaluator.cost(asked) == 4.0


@pytest.mark.parametrize("prompt", [PLAIN, GUIDED])
def test_a_gradient_runs_through_the_guided_prediction(prompt: Prompt) -> None:
    """ε̂ = σ (x − α m) / (α² s² + σ²), so ∇ ε̂² = 2 ε̂ σ / (α² s² + σ²)."""
    network = Gaussian()
    (answer,) = Evaluator(network, None, SCHEDULE)(requests(prompt, wrt=("audio",)))  # type: ignore[arg-type]
    sigma, alpha = SCHEDULE.sigma(500.0), SCHEDULE.alpha(500.0)
    assert answer.gradient is not None
    slope = sigma / (alpha**2 * STD**2 + sigma**2)
    assert answer.gradient["audio"].item() == pytest.approx(2 * answer.eps["audio"].item() * slope, rel=1e-5)
    assert network.batches == [2 if prompt is GUIDED else 1]


WORDS = replace(
    MANIFEST,
    name="words",
    config=replace(MANIFEST.config, base=replace(MANIFEST.config.base, text=256)),
    text=TextEncoding("wordllama", load_encoder().sha256, ("en",)),
    independent_timesteps=True,
)
QUICK = SamplingParams(seed=3, steps=1, super_resolution=False)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    pipeline = Pipeline.load(WORDS, "cpu", "float32")
    pipeline.evaluator.use_batch_sizes(BatchSizes((2,)))
    return pipeline


def given(kind: str) -> Tensor | EditCondition | None:
    clip = WORDS.config.clip
    generator = torch.Generator().manual_seed(1)
    video, audio = torch.rand(clip.video_shape, generator=generator), torch.rand(clip.audio_shape, generator=generator)
    if kind == "edit":
        new = torch.arange(clip.samples).ge(clip.samples // 2)
        frames = (video * 255).to(torch.uint8)
        return EditCondition(frames, audio, torch.zeros(clip.frames, clip.height, clip.width), new.float())
    return {"generate": None, "v2a": video * 2 - 1, "a2v": audio * 2 - 1}[kind]


def sound(pipeline: Pipeline, kind: str, params: SamplingParams) -> Tensor:
    made = pipeline.run(ClipRequest(kind, params, condition=given(kind)))
    value = made.frames if kind == "a2v" else made.audio
    assert value is not None
    return value


METHODS: Sequence[tuple[str, str | None, str | None]] = [
    ("generate", None, None),
    ("generate", "decoupling", None),
    ("v2a", "clean", None),
    ("v2a", "replacement", None),
    ("v2a", "pigdm", None),
    ("v2a", "gradient", None),
    ("v2a", "gradient_code", "ddpm"),
    ("v2a", "decoupling", None),
    ("a2v", "clean", None),
    ("edit", "pigdm", None),
    ("edit", "clean", None),
]


@pytest.mark.parametrize(("kind", "method", "sampler"), METHODS)
def test_every_job_and_guidance_follows_the_prompt(
    pipeline: Pipeline, kind: str, method: str | None, sampler: str | None
) -> None:
    params = replace(QUICK, guidance=method, sampler=sampler)
    if kind == "v2a":
        params = replace(params, super_resolution=None)
    assert not torch.equal(sound(pipeline, kind, params), sound(pipeline, kind, replace(params, prompt="heavy rain")))


def test_prompt_negative_prompt_and_scale_all_matter_and_nothing_else_does(pipeline: Pipeline) -> None:
    rain = replace(QUICK, prompt="heavy rain")
    made = sound(pipeline, "generate", rain)
    assert torch.equal(made, sound(pipeline, "generate", replace(rain, prompt=" Heavy rain", prompt_scale=3.0)))
    for other in ({"prompt": "a fire"}, {"prompt_scale": 1.0}, {"negative_prompt": "fire"}):
        assert not torch.equal(made, sound(pipeline, "generate", replace(rain, **other)))  # type: ignore[arg-type]


def sharing(pipeline: Pipeline, share: float) -> Pipeline:
    """The same model, guided in a share of the steps."""
    text = pipeline.manifest.text
    assert text is not None
    manifest = replace(pipeline.manifest, text=replace(text, guided_share=share))
    return Pipeline(manifest, pipeline.evaluator, pipeline.device)


def asked(program: Program, evaluator: Evaluator) -> list[bool]:
    """Whether each evaluation of a program that asks for one clip of one window is guided."""
    guided: list[bool] = []
    request = next(program)
    try:
        while True:
            assert isinstance(request, Evaluate)
            assert request.prompt is not None
            guided.append(request.prompt.against is not None)
            request = program.send(evaluate(request, evaluator))
    except StopIteration:
        return guided


@pytest.mark.parametrize(
    ("share", "guided", "settings"),
    [
        (1.0, 20, {}),
        (0.55, 11, {}),
        (0.01, 1, {}),
        (0.55, 15, {"spacing": "uniform"}),
        (0.53, 11, {"sampler": "dpm_solver"}),
        (0.55, 11, {"sampler": "unipc"}),
        (0.55, 11, {"sampler": "ddim"}),
        (0.55, 11, {"sampler": "ddpm"}),
        (0.55, 20, {"prompt_scale": 0.5}),
        (0.55, 20, {"prompt_scale": 0.0}),
    ],
)
def test_a_model_guides_in_its_share_of_the_steps(
    pipeline: Pipeline, share: float, guided: int, settings: dict[str, Any]
) -> None:
    own = sharing(pipeline, share)
    params = replace(QUICK, steps=20, prompt="heavy rain", **settings).resolve("generate", own.manifest)
    found = asked(own.program(ClipRequest("generate", params)), own.evaluator)
    assert found == [True] * guided + [False] * (20 - guided)
    assert step_forwards(own.schedule, own.manifest.text, params) == tuple(1 + each for each in found)


def test_a_prompt_of_scale_0_is_no_prompt_in_all_steps(pipeline: Pipeline) -> None:
    own, params = sharing(pipeline, 0.5), replace(QUICK, steps=3)
    plain, held = (
        sound(own, "generate", each) for each in (params, replace(params, prompt="heavy rain", prompt_scale=0.0))
    )
    torch.testing.assert_close(held, plain)


@pytest.mark.parametrize(("kind", "method", "sampler"), METHODS)
def test_every_guidance_goes_on_where_the_prompt_no_longer_guides(
    pipeline: Pipeline, kind: str, method: str | None, sampler: str | None
) -> None:
    params = replace(QUICK, steps=2, guidance=method, sampler=sampler, prompt="heavy rain")
    if kind == "v2a":
        params = replace(params, super_resolution=None)
    made = [sound(sharing(pipeline, share), kind, params) for share in (1.0, 0.5)]
    assert all(each.isfinite().all() for each in made)
    assert not torch.equal(*made)


def test_windows_are_guided_in_the_same_steps(pipeline: Pipeline) -> None:
    params = replace(QUICK, steps=2, prompt="heavy rain", duration=2 * WORDS.config.clip.duration)
    assert not torch.equal(
        sound(sharing(pipeline, 0.5), "generate", params), sound(sharing(pipeline, 1.0), "generate", params)
    )


def test_one_graph_serves_all_prompts_and_none(pipeline: Pipeline) -> None:
    recorder = ReplayOnCpu()
    prompts = [None, "heavy rain", "a fire"]
    asked = [replace(QUICK, prompt=prompt) for prompt in prompts]
    evaluator = pipeline.evaluator
    eager = [sound(pipeline, "generate", params) for params in asked]
    evaluator.use_batch_sizes(BatchSizes((2,)))
    evaluator.use_graphs(recorder)
    try:
        replayed = [sound(pipeline, "generate", params) for params in asked]
    finally:
        evaluator.use_graphs(None)
    assert recorder.captures == 1
    for one, other in zip(replayed, eager, strict=True):
        assert torch.equal(one, other)


def test_windows_of_a_long_clip_follow_the_prompt(pipeline: Pipeline) -> None:
    params = replace(QUICK, duration=2 * WORDS.config.clip.duration)
    assert not torch.equal(
        sound(pipeline, "generate", params), sound(pipeline, "generate", replace(params, prompt="heavy rain"))
    )


def test_progress_ends_at_one_however_many_forwards_a_step_takes(pipeline: Pipeline) -> None:
    shares: list[float] = []
    params = replace(QUICK, steps=2, prompt="rain", guidance="decoupling", duration=2 * WORDS.config.clip.duration)
    pipeline.run(ClipRequest("generate", params), lambda progress: shares.append(progress.fraction))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TextEncoding("wordllama", "00" * 32, ("en",)), "other token vectors"),
        (TextEncoding("another", "00" * 32, ("en",)), "no text encoder 'another'"),
        (None, "go together"),
    ],
)
def test_a_model_of_another_encoder_is_not_loaded(text: TextEncoding | None, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        Pipeline.load(replace(WORDS, text=text), "cpu", "float32")
