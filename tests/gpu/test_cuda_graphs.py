"""CUDA graphs on a real device: the same clips as without, beside other threads, and nothing that waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from benchmarks.forward import draw_weights
from model.checkpoint.loading import build
from model.networks.coupled_unet import CoupledUNet
from model.runtime.batch_sizes import BatchSizes
from model.runtime.cuda_graphs import CudaRecorder, Graphs
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import Clip, Pipeline
from model.runtime.warmup import warm_up
from model.sampling.samplers import Evaluate, Prediction
from model.sampling.schedule import NoiseSchedule
from tests.gpu.conftest import (
    DEVICE,
    clips_of,
    drawn_clips,
    drawn_frames,
    made_together,
    pipeline_on_gpu,
    with_prompts,
)
from tests.model.runtime.test_neighbours import MANIFEST

KINDS = [
    ("generate", None),
    ("v2a", "pigdm"),
    ("a2v", "replacement"),
    ("generate", "decoupling"),
    ("v2a", "gradient"),
]
"""Every kind of forward: with and without RS-MMA, with a gradient and without."""


CAPTION_CHANNELS = 24


def close(one: torch.Tensor | None, other: torch.Tensor | None, atol: float) -> bool:
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=0, atol=atol)


def distance(one: Clip, other: Clip) -> tuple[float, float]:
    """Share of values of frames more than one level apart, and the greatest difference of sound."""
    frames = audio = 0.0
    if one.frames is not None and other.frames is not None:
        frames = float(((one.frames.int() - other.frames.int()).abs() > 1).float().mean())
    if one.audio is not None and other.audio is not None:
        audio = float((one.audio - other.audio).abs().max())
    return frames, audio


@contextmanager
def never_waiting() -> Iterator[None]:
    """An operation in which the host waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def warm() -> Pipeline:
    pipeline = pipeline_on_gpu("bfloat16")
    warm_up(pipeline)
    return pipeline


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_makes_the_same_clips_with_graphs_as_without(dtype: str) -> None:
    pipeline = pipeline_on_gpu(dtype)
    evaluator = pipeline.evaluator
    evaluator.use_batch_sizes(BatchSizes((1, 2, 4)))
    evaluator.frame_sizes = BatchSizes((4, 8))
    requests = clips_of(KINDS)
    evaluator.use_graphs(CudaRecorder(DEVICE))
    with_graphs = made_together(pipeline, requests)
    assert evaluator.graphs["base"].sizes
    assert evaluator.graphs["sr"].sizes
    evaluator.use_graphs(None)
    without = made_together(pipeline, requests)
    most_frames, most_audio = (1e-3, 1e-3) if dtype == "float32" else (0.05, 0.1)
    for one, other in zip(with_graphs, without, strict=True):
        frames, audio = distance(one, other)
        assert frames <= most_frames
        assert audio <= most_audio


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_forward_is_the_eager_one(dtype: str) -> None:
    pipeline = pipeline_on_gpu(dtype)
    evaluator, config = pipeline.evaluator, pipeline.manifest.config
    evaluator.use_batch_sizes(BatchSizes((4,)))
    evaluator.frame_sizes = BatchSizes((8,))
    requests = [*drawn_clips(config, 4), drawn_frames(config, 8)]
    eager = evaluator(requests)
    evaluator.use_graphs(CudaRecorder(DEVICE))
    atol = 1e-5 if dtype == "float32" else 1e-2
    for _ in range(3):  # a capture with its first replay, then replays
        answers = evaluator(requests)
        for one, other in zip(answers[:4], eager[:4], strict=True):
            assert close(one.eps["video"], other.eps["video"], atol)
            assert close(one.eps["audio"], other.eps["audio"], atol)
        assert close(answers[4].eps, eager[4].eps, atol)
        assert close(answers[4].variance, eager[4].variance, atol)
    assert len(evaluator.graphs["base"]) == len(evaluator.graphs["sr"]) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_forward_of_a_network_with_text_is_the_eager_one(dtype: str) -> None:
    """All prompts, and requests without one, are rows of one graph."""
    config = MANIFEST.config
    network = build(CoupledUNet, replace(config.base, text=CAPTION_CHANNELS))
    draw_weights(network)
    network = network.to(DEVICE).to_compute(getattr(torch, dtype))
    evaluator = Evaluator(network, None, NoiseSchedule.from_config(config.schedule))
    evaluator.use_batch_sizes(BatchSizes((6,)))
    without = drawn_clips(config, 4)
    requests = with_prompts(without, CAPTION_CHANNELS)
    eager = evaluator(requests)
    assert not close(evaluator(without)[1].eps["audio"], eager[1].eps["audio"], 1e-2)
    evaluator.use_graphs(CudaRecorder(DEVICE))
    atol = 1e-4 if dtype == "float32" else 5e-2  # guidance scales differences up
    for _ in range(3):
        evaluator(without[:2])  # overwrites the captions that the graph reads
        for one, other in zip(evaluator(requests), eager, strict=True):
            assert close(one.eps["video"], other.eps["video"], atol)
            assert close(one.eps["audio"], other.eps["audio"], atol)
    assert len(evaluator.graphs["base"]) == 1
    with never_waiting():
        evaluator(requests)


def test_graphs_that_share_a_pool_do_not_disturb_each_other() -> None:
    pipeline = pipeline_on_gpu()
    evaluator, config = pipeline.evaluator, pipeline.manifest.config
    evaluator.use_batch_sizes(BatchSizes((1, 2, 4)))
    evaluator.use_graphs(CudaRecorder(DEVICE))
    requests = drawn_clips(config, 4)
    together = [evaluator(requests[:count]) for count in (4, 2, 1)]
    again = [evaluator(requests[:count]) for count in (1, 4, 2)]
    for one, other in ((0, 1), (1, 2), (2, 0)):
        for a, b in zip(together[one], again[other], strict=True):
            assert torch.equal(a.eps["video"], b.eps["video"])
            assert torch.equal(a.eps["audio"], b.eps["audio"])


def test_warm_up_captures_every_size(warm: Pipeline) -> None:
    evaluator = warm.evaluator
    assert evaluator.batch_sizes is not None
    assert evaluator.graphs["base"].sizes == list(evaluator.batch_sizes.sizes) == [1, 2, 4, 8, 16]
    assert len(evaluator.graphs["base"]) == 10  # with and without RS-MMA
    assert evaluator.graphs["sr"].sizes == list(evaluator.frame_sizes.sizes) == [4, 8, 16, 32, 64]


def test_a_clip_is_bit_identical_alone_and_in_company_at_one_batch_size() -> None:
    pipeline = pipeline_on_gpu("bfloat16")
    warm_up(pipeline, (4,))
    requests = clips_of([("generate", None)] * 4)
    alone = made_together(pipeline, requests[2:3])[0]
    among = made_together(pipeline, requests)[2]
    assert alone.frames is not None
    assert alone.audio is not None
    assert torch.equal(alone.frames, among.frames)
    assert torch.equal(alone.audio, among.audio)


def test_captures_beside_threads_that_use_the_device() -> None:
    """Previews are drawn in other threads, also while graphs are captured again after a lack of memory."""
    stop = threading.Event()
    failures: list[Exception] = []

    def preview() -> None:
        try:
            while not stop.is_set():
                (torch.rand(64, 64).to(DEVICE) * 2).clamp(0, 1).cpu()
        except Exception as error:
            failures.append(error)

    pipeline = pipeline_on_gpu()
    evaluator, config = pipeline.evaluator, pipeline.manifest.config
    evaluator.use_batch_sizes(BatchSizes((4,)))
    expected = evaluator(drawn_clips(config, 4))
    threads = [threading.Thread(target=preview) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            evaluator.use_graphs(CudaRecorder(DEVICE))
            answers = evaluator(drawn_clips(config, 4))
            assert len(evaluator.graphs["base"]) == 1
            assert all(close(a.eps["video"], b.eps["video"], 1e-5) for a, b in zip(answers, expected, strict=True))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_forward_that_cannot_be_captured_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    def waits(x: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (x * (2.0 if float(x.sum()) > 0 else 3.0),)

    graphs = Graphs("test", waits)
    graphs.use(CudaRecorder(DEVICE))
    x = torch.ones(4, device=DEVICE)
    with torch.inference_mode():
        assert torch.equal(graphs(x=x)[0], 2 * x)
        assert torch.equal(graphs(x=-x)[0], -3 * x)
    assert len(graphs) == 0
    assert "runs without a CUDA graph" in caplog.text
    # The device and later captures are unharmed.
    pipeline = pipeline_on_gpu()
    pipeline.evaluator.use_batch_sizes(BatchSizes((1,)))
    pipeline.evaluator.use_graphs(CudaRecorder(DEVICE))
    pipeline.evaluator(drawn_clips(pipeline.manifest.config, 1))
    assert len(pipeline.evaluator.graphs["base"]) == 1


def test_no_forward_makes_the_host_wait(warm: Pipeline) -> None:
    evaluator, config = warm.evaluator, warm.manifest.config
    requests = [*drawn_clips(config, 3), drawn_frames(config, 8)]
    eager = Evaluator(evaluator.base, evaluator.sr, evaluator.schedule)
    for each in (evaluator, eager):
        each(requests)
        with never_waiting():
            each(requests)


@pytest.mark.parametrize(("kind", "guidance"), [("generate", None), ("v2a", "pigdm"), ("a2v", "replacement")])
def test_no_step_of_a_clip_makes_the_host_wait(warm: Pipeline, kind: str, guidance: str | None) -> None:
    program = warm.program(clips_of([(kind, guidance)], steps=6)[0])
    request = next(program)
    for step in range(5):
        answer = answered(warm, request)
        if step in (0, 4):  # the first allocates, the last may end the stage
            request = program.send(answer)
        else:
            with never_waiting():
                request = program.send(answer)
    program.close()


def answered(pipeline: Pipeline, request: object) -> Prediction:
    assert isinstance(request, Evaluate)
    return pipeline.evaluator([request])[0]
