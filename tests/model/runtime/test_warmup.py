"""Before the first job: batch sizes, warm networks, the type that the device computes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS
from model.runtime import warmup
from model.runtime.allocator import keep_freed_memory
from model.runtime.batch_sizes import SIZES_CPU
from model.runtime.pipeline import Pipeline, computes_in_bfloat16
from model.runtime.warmup import warm_up

MANIFEST = Manifest("tiny", PRESETS["tiny"], trained=False, description="", licence="MIT", init_seed=3)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(MANIFEST, "cpu")


def sizes(pipeline: Pipeline) -> tuple[int, ...]:
    assert pipeline.evaluator.batch_sizes is not None
    return pipeline.evaluator.batch_sizes.sizes


def test_a_cpu_with_room_gets_its_usual_batch_sizes(pipeline: Pipeline) -> None:
    warm_up(pipeline)
    assert sizes(pipeline) == SIZES_CPU


def test_little_memory_means_small_batches_but_never_none(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_memory_growth", lambda run: (run(), 100)[1])
    monkeypatch.setattr(warmup, "_free_memory", lambda: 450.0)
    warm_up(pipeline)
    assert sizes(pipeline) == (1, 2)
    monkeypatch.setattr(warmup, "_free_memory", lambda: 10.0)
    warm_up(pipeline)
    assert sizes(pipeline) == (1,)


def test_a_large_model_does_not_shrink_the_batches_of_the_next(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Pipeline.load(replace(MANIFEST, name="large", config=replace(PRESETS["demo"], sr=None)), "cpu", "float32")
    warm_up(large, (2,))
    torch.ones(1_200_000_000, dtype=torch.uint8)  # freed at once, as the activations of a still larger one
    monkeypatch.setattr(warmup, "_free_memory", lambda: 1.2e9)
    warm_up(pipeline)
    assert sizes(pipeline) == SIZES_CPU


def test_memory_that_an_earlier_forward_has_freed_does_not_hide_what_the_next_one_needs() -> None:
    def run() -> None:
        torch.ones(100_000_000, dtype=torch.uint8).add_(1)

    keep_freed_memory()
    try:
        growths = [warmup._memory_growth(run) for _ in range(2)]
    finally:
        keep_freed_memory(False)
    assert all(0.9e8 < growth < 3e8 for growth in growths)


def test_chosen_sizes_are_kept(pipeline: Pipeline) -> None:
    warm_up(pipeline, (8,))
    assert sizes(pipeline) == (8,)


def test_the_networks_compute_in_what_the_processor_has_instructions_for(pipeline: Pipeline) -> None:
    expected = torch.bfloat16 if computes_in_bfloat16(torch.device("cpu")) else torch.float32
    assert pipeline.evaluator.dtype is expected
    assert Pipeline.load(MANIFEST, "cpu", "float32").evaluator.dtype is torch.float32
