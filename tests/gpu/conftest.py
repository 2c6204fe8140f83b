"""Every test in this folder needs a GPU. The models are small: one forward takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
import torch

from model.networks.config import TEXT_TOKENS, ModelConfig
from model.networks.text import TextTokens
from model.request import SamplingParams
from model.runtime.engine import Engine
from model.runtime.pipeline import Clip, ClipRequest, Pipeline
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateFrames, Prompt
from tests.model.runtime import engine_runs
from tests.model.runtime.test_neighbours import MANIFEST, condition

DEVICE = torch.device("cuda", 0)


ORDER = ("precision", "training", "cuda_graphs", "norm_kernels", "memory", "media", "tune", "gpu_claim")
"""Test files, those that tell the most first: time on a GPU may be short."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and put them in ORDER."""
    places = [place for place, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    own = sorted((items[place] for place in places), key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")))
    for place, item in zip(places, own, strict=True):
        item.add_marker(pytest.mark.gpu)
        items[place] = item


@pytest.fixture
def free_memory() -> Iterator[None]:
    """No limit on memory and no cached memory, before and after the test."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def pipeline_on_gpu(dtype: str = "float32") -> Pipeline:
    """A small untrained model, not warmed up."""
    return Pipeline.load(MANIFEST, "cuda", dtype)


def clips_of(kinds: Sequence[tuple[str, str | None]], steps: int = 5) -> list[ClipRequest]:
    """Jobs of these kinds, each with guidance and another seed."""
    return [
        ClipRequest(
            kind,
            SamplingParams(seed=seed, steps=steps, guidance=guidance, sr_steps=None if kind == "v2a" else 2),
            condition=condition(kind, seed),
        )
        for seed, (kind, guidance) in enumerate(kinds)
    ]


def made_together(pipeline: Pipeline, requests: Sequence[ClipRequest]) -> list[Clip]:
    """The clips of an engine that runs all of `requests` at once."""
    engine = Engine(capacity=8, frame_budget=pipeline.evaluator.frames_per_forward, device=DEVICE)
    return engine_runs.made_together(engine, pipeline, requests)


def drawn_clips(config: ModelConfig, count: int) -> list[Evaluate]:
    """Requests for the base network: noise at different times, with different shifts."""
    generator = torch.Generator().manual_seed(3)
    limits = config.base.max_shifts(config.clip.frames)
    return [
        Evaluate(
            Latents(
                torch.randn(1, *config.clip.video_shape, generator=generator).to(DEVICE),
                torch.randn(1, *config.clip.audio_shape, generator=generator).to(DEVICE),
            ),
            t=900.0 - 50 * number,
            s=400.0,
            t_audio=40.0 * number,
            shifts=torch.tensor([[number % (limit + 1) for limit in limits]]),
        )
        for number in range(count)
    ]


def with_prompts(requests: Sequence[Evaluate], channels: int) -> list[Evaluate]:
    """The requests with every kind of prompt: none, a caption, one with guidance, guidance against another caption."""
    generator = torch.Generator().manual_seed(7)

    def caption(words: int) -> TextTokens:
        tokens = torch.randn(1, TEXT_TOKENS, channels, generator=generator).to(DEVICE)
        return TextTokens(tokens, (torch.arange(TEXT_TOKENS, device=DEVICE) < words)[None])

    kinds = (
        None,
        Prompt(caption(5)),
        Prompt(caption(TEXT_TOKENS), caption(0), 3.0),
        Prompt(caption(2), caption(9), 2.0),
    )
    return [replace(request, prompt=prompt) for request, prompt in zip(requests, cycle(kinds), strict=False)]


def drawn_frames(config: ModelConfig, count: int) -> EvaluateFrames:
    """A request for the super-resolution network."""
    generator = torch.Generator().manual_seed(5)
    x, low_res = torch.randn(2, count, 3, *config.output_size, generator=generator).to(DEVICE)
    return EvaluateFrames(x, low_res, 600.0)
