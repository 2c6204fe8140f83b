"""Lack of memory on a real device, made by a limit on what this process may take of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from model.networks.config import PRESETS
from model.runtime.batch_sizes import BatchSizes
from model.runtime.cuda_graphs import CudaRecorder
from model.runtime.pipeline import Pipeline
from tests.gpu.conftest import DEVICE, drawn_clips, drawn_frames
from tests.model.runtime.test_neighbours import MANIFEST

pytestmark = pytest.mark.usefixtures("free_memory")

LARGER = replace(MANIFEST, config=PRESETS["demo"])
"""Its activations are large beside the allocator's granularity."""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(LARGER, "cuda", "bfloat16")


@pytest.fixture(autouse=True)
def afresh(pipeline: Pipeline) -> None:
    pipeline.evaluator.use_graphs(None)
    pipeline.evaluator.halvings.clear()


def growth(run: Callable[[], object]) -> int:
    """Bytes that `run` takes beyond those allocated before, at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def leave(free: int) -> None:
    """Let this process take `free` bytes more than it has now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)


def test_the_memory_of_graphs_is_kept_for_them_and_returned_when_they_are_dropped(pipeline: Pipeline) -> None:
    def reserved() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    evaluator, requests = pipeline.evaluator, drawn_clips(LARGER.config, 16)
    evaluator.use_batch_sizes(BatchSizes((1, 16)))
    needed = growth(lambda: evaluator(requests))
    before = reserved()
    evaluator.use_graphs(CudaRecorder(DEVICE))
    evaluator(requests)
    large = reserved()
    assert large - before > needed / 2
    evaluator(requests[:1])
    assert reserved() - large < needed / 2  # in the memory of the other
    evaluator.use_graphs(None)
    assert reserved() - before < needed / 4  # workspaces of libraries stay


@pytest.mark.parametrize("graphs", [True, False])
def test_a_batch_that_does_not_fit_is_halved_and_every_clip_answered(pipeline: Pipeline, graphs: bool) -> None:
    evaluator, requests = pipeline.evaluator, drawn_clips(LARGER.config, 16)
    evaluator.use_batch_sizes(BatchSizes((2,)))
    expected = evaluator(requests)
    evaluator.use_batch_sizes(BatchSizes((16,)))
    whole = growth(lambda: evaluator(requests))
    evaluator.use_batch_sizes(BatchSizes((1, 2, 16)))
    if graphs:
        evaluator.use_graphs(CudaRecorder(DEVICE))
    leave(whole * 3 // 4)
    answers = evaluator(requests)
    assert evaluator.batch_sizes is not None
    assert evaluator.batch_sizes.sizes == (1, 2)
    assert evaluator.halvings["base"] == 1
    assert evaluator.graphs["base"].sizes == ([2] if graphs else [])
    for one, other in zip(answers, expected, strict=True):
        assert torch.allclose(one.eps["video"], other.eps["video"], atol=0.05)


def test_frames_that_do_not_fit_are_halved(pipeline: Pipeline) -> None:
    evaluator, request = pipeline.evaluator, drawn_frames(LARGER.config, 64)
    evaluator.frame_sizes = BatchSizes((8,))
    expected = evaluator([request])[0]
    evaluator.frame_sizes = BatchSizes((64,))
    whole = growth(lambda: evaluator([request]))
    evaluator.frame_sizes = BatchSizes((8, 64))
    evaluator.use_graphs(CudaRecorder(DEVICE))
    leave(whole * 3 // 4)
    answer = evaluator([request])[0]
    assert evaluator.frame_sizes.sizes == (8,)
    assert evaluator.graphs["sr"].sizes == [8]
    assert torch.allclose(answer.eps, expected.eps, atol=0.05)


def test_a_gradient_that_fits_only_without_graphs_ends_their_use(pipeline: Pipeline) -> None:
    evaluator = pipeline.evaluator
    evaluator.use_batch_sizes(BatchSizes((1, 16)))
    guided = [
        replace(request, wrt=("video",), objective=lambda eps: eps["audio"].square().sum())
        for request in drawn_clips(LARGER.config, 1)
    ]
    needed = growth(lambda: evaluator(guided))
    evaluator.use_graphs(CudaRecorder(DEVICE))
    evaluator(drawn_clips(LARGER.config, 16))
    assert evaluator.graphs["base"].sizes == [16]
    leave(needed // 2)
    assert evaluator(guided)[0].gradient is not None
    assert evaluator.graphs["base"].sizes == []
    assert len(evaluator(drawn_clips(LARGER.config, 1))) == 1


def test_a_single_clip_that_does_not_fit_raises(pipeline: Pipeline) -> None:
    evaluator = pipeline.evaluator
    evaluator.use_batch_sizes(BatchSizes((1, 2)))
    evaluator.use_graphs(CudaRecorder(DEVICE))
    requests = drawn_clips(LARGER.config, 2)
    leave(2**20)
    with pytest.raises(torch.OutOfMemoryError):
        evaluator(requests)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(evaluator(requests)) == 2
