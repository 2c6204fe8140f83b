"""The bookkeeping around CUDA graphs: which graph serves a call, its static buffers, failures, dropping.

The recorder here is a stand-in that runs on the CPU; tests/gpu records on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.networks.config import UNetConfig
from model.networks.pair import Pair
from model.request import SamplingParams
from model.runtime.batch_sizes import BatchSizes
from model.runtime.cuda_graphs import Graphs, Outputs
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import ClipRequest, Pipeline
from model.runtime.warmup import typical_clips, typical_frames
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate
from model.sampling.schedule import NoiseSchedule
from tests.model.runtime.replay import ReplayOnCpu


def product(x: Tensor, y: Tensor | None, negative: bool = False) -> Outputs:
    product = x * (1 if y is None else y)
    return -product if negative else product, None


def graphs_with(recorder: ReplayOnCpu) -> Graphs:
    graphs = Graphs("test", product)
    graphs.use(recorder)
    return graphs


def test_each_shape_and_constant_has_a_graph_captured_once() -> None:
    recorder = ReplayOnCpu()
    graphs = graphs_with(recorder)
    for _ in range(3):
        for size in (4, 2, 1):
            for negative in (False, True):
                x, y = torch.randn(size, 3), torch.randn(size, 3)
                out, absent = graphs(x=x, y=y, negative=negative)
                assert torch.equal(out, -x * y if negative else x * y)
                assert absent is None
    assert (recorder.captures, recorder.replays, len(graphs), graphs.sizes) == (6, 18, 6, [1, 2, 4])


def test_an_absent_tensor_is_another_graph() -> None:
    recorder = ReplayOnCpu()
    graphs = graphs_with(recorder)
    x = torch.randn(2, 3)
    assert torch.equal(graphs(x=x, y=None)[0], x)
    assert torch.equal(graphs(x=x, y=2 * x)[0], 2 * x * x)
    assert torch.equal(graphs(x=2 * x, y=None)[0], 2 * x)
    assert recorder.captures == 2


def test_outputs_and_inputs_of_a_call_are_left_alone_by_the_next() -> None:
    graphs = graphs_with(ReplayOnCpu())
    first = torch.full((2, 3), 5.0)
    kept = graphs(x=first, y=None)[0]
    graphs(x=torch.zeros(2, 3), y=None)
    assert torch.equal(kept, torch.full((2, 3), 5.0))
    assert torch.equal(first, torch.full((2, 3), 5.0))


def test_graphs_of_all_sizes_share_input_buffers() -> None:
    graphs = graphs_with(ReplayOnCpu())
    for size in (4, 2, 1):
        graphs(x=torch.randn(size, 3), y=None)
    inputs = [graph.inputs["x"] for graph in graphs._graphs.values()]
    assert len({value.data_ptr() for value in inputs}) == 1


def test_a_larger_size_after_a_smaller_one_gets_a_buffer_of_its_own() -> None:
    graphs = graphs_with(ReplayOnCpu())
    for _ in range(2):
        for size in (1, 4, 2):
            x = torch.randn(size, 3)
            assert torch.equal(graphs(x=x, y=None)[0], x)


def test_what_cannot_be_captured_runs_eagerly_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = ReplayOnCpu(RuntimeError("operation not permitted"), RuntimeError("operation not permitted"))
    graphs = graphs_with(recorder)
    x = torch.randn(2, 3)
    for _ in range(3):
        assert torch.equal(graphs(x=x, y=None)[0], x)
        assert torch.equal(graphs(x=x[:1], y=None)[0], x[:1])
    assert (recorder.captures, recorder.replays) == (0, 0)
    assert [record.message for record in caplog.records] == [
        "test network: a batch of 2 runs without a CUDA graph: RuntimeError: operation not permitted"
    ]


def test_dropped_graphs_are_captured_again_and_none_without_a_recorder() -> None:
    recorder = ReplayOnCpu()
    graphs = graphs_with(recorder)
    x = torch.randn(2, 3)
    graphs(x=x, y=None)
    graphs.clear()
    assert (recorder.released, len(graphs)) == (1, 0)
    assert torch.equal(graphs(x=x, y=None)[0], x)
    assert recorder.captures == 2
    graphs.use(None)
    assert torch.equal(graphs(x=x, y=None)[0], x)
    assert (recorder.captures, recorder.released) == (2, 2)


def with_graphs(pipeline: Pipeline) -> ReplayOnCpu:
    """A recorder that the pipeline's evaluator uses, with batch sizes as on a GPU."""
    recorder = ReplayOnCpu()
    pipeline.evaluator.use_graphs(recorder)
    pipeline.evaluator.use_batch_sizes(BatchSizes((1, 2, 4)))
    pipeline.evaluator.frame_sizes = BatchSizes((4, 8), {4: 1.0, 8: 1.5})
    return recorder


@pytest.fixture
def recorder(pipeline: Pipeline) -> Iterator[ReplayOnCpu]:
    recorder = with_graphs(pipeline)
    yield recorder
    pipeline.evaluator.use_graphs(None)
    pipeline.evaluator.use_batch_sizes(None)


def drawn(pipeline: Pipeline, count: int) -> list[Evaluate]:
    """Requests at different times, with different shifts and clips."""
    config = pipeline.manifest.config
    generator = torch.Generator().manual_seed(3)
    requests = []
    for number in range(count):
        latents = Latents(
            torch.randn(1, *config.clip.video_shape, generator=generator),
            torch.randn(1, *config.clip.audio_shape, generator=generator),
        )
        limits = config.base.max_shifts(config.clip.frames)
        shifts = torch.tensor([[number % (limit + 1) for limit in limits]])
        requests.append(Evaluate(latents, 700.0 - 90 * number, 400.0, t_audio=100.0 * number, shifts=shifts))
    return requests


def equal(a: Latents, b: Latents) -> bool:
    return torch.equal(a["video"], b["video"]) and torch.equal(a["audio"], b["audio"])


def test_the_evaluator_answers_with_graphs_as_without(pipeline: Pipeline, recorder: ReplayOnCpu) -> None:
    requests = drawn(pipeline, 4)
    answers = [pipeline.evaluator(requests) for _ in range(2)]
    assert (recorder.captures, recorder.replays) == (1, 2)
    pipeline.evaluator.use_graphs(None)
    expected = pipeline.evaluator(requests)
    for answer in answers:
        assert all(equal(one.eps, other.eps) for one, other in zip(answer, expected, strict=True))


def test_frames_are_padded_to_a_graph_where_that_is_cheaper(pipeline: Pipeline, recorder: ReplayOnCpu) -> None:
    request = typical_frames(pipeline, 6)
    noise = torch.randn(request.x.shape, generator=torch.Generator().manual_seed(1))
    request = type(request)(noise, 0.5 * noise, 300.0)
    answer = pipeline.evaluator([request])[0]
    assert pipeline.evaluator.graphs["sr"].sizes == [8]
    pipeline.evaluator.use_graphs(None)
    assert torch.allclose(answer.eps, pipeline.evaluator([request])[0].eps, atol=1e-5)


def test_gradients_and_sizes_out_of_use_are_not_captured(pipeline: Pipeline, recorder: ReplayOnCpu) -> None:
    requests = drawn(pipeline, 2)
    with_gradient = [
        Evaluate(
            request.x, 500.0, 400.0, objective=lambda eps: eps["audio"].sum(), wrt=("video",), shifts=request.shifts
        )
        for request in requests
    ]
    assert all(answer.gradient is not None for answer in pipeline.evaluator(with_gradient))
    both = Latents(*(torch.cat([request.x[name] for request in requests * 2]) for name in ("video", "audio")))
    pipeline.evaluator([Evaluate(both, 500.0, 400.0, shifts=torch.cat([request.shifts for request in requests * 2]))])
    pipeline.evaluator.use_batch_sizes(None)
    pipeline.evaluator(requests)
    assert recorder.captures == 1  # four clips in one request are a batch size in use


class Crowded(torch.nn.Module):
    """Doubles, on a device with room for `room` clips. A gradient takes the room of four clips, and needs it beside the
    graphs, which take that of two."""

    config = UNetConfig()

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.recorder = ReplayOnCpu()

    @property
    def taken(self) -> int:
        return 2 if self.recorder.captures > self.recorder.released else 0

    def forward(self, x: Pair, *_: object) -> Pair:
        needed = 4 * len(x.audio) + self.taken if x.audio.requires_grad else len(x.audio)
        if needed > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return x.map(lambda value: 2 * value)


def crowded(room: int, sizes: tuple[int, ...]) -> Evaluator:
    network = Crowded(room)
    schedule = NoiseSchedule(torch.linspace(1e-4, 0.02, 1000).tolist())
    evaluator = Evaluator(network, None, schedule, batch_sizes=BatchSizes(sizes))  # type: ignore[arg-type]
    evaluator.use_graphs(network.recorder)
    return evaluator


def sounds(count: int, gradient: bool = False) -> list[Evaluate]:
    objective = (lambda eps: eps["audio"].sum()) if gradient else None
    wrt = ("audio",) if gradient else ()
    return [
        Evaluate(Latents(None, torch.full((1, 1, 4), float(n))), 500.0, 400.0, objective=objective, wrt=wrt)
        for n in range(count)
    ]


def values(answers: list) -> list[float]:
    return [float(answer.eps["audio"][0, 0, 0]) for answer in answers]


def test_out_of_memory_halves_the_sizes_drops_the_graphs_and_captures_the_rest_again() -> None:
    evaluator = crowded(room=3, sizes=(1, 2, 4))
    recorder = evaluator.base.recorder  # type: ignore[union-attr]
    assert values(evaluator(sounds(1))) == [0.0]
    assert (recorder.captures, evaluator.graphs["base"].sizes) == (1, [1])
    assert values(evaluator(sounds(7))) == [2.0 * n for n in range(7)]
    assert evaluator.batch_sizes is not None
    assert evaluator.batch_sizes.sizes == (1, 2)
    assert recorder.renewed == 1
    assert evaluator.graphs["base"].sizes == [1, 2]


def test_a_clip_that_fits_only_without_graphs_ends_their_use(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = crowded(room=4, sizes=(1, 2))
    evaluator(sounds(2))
    answers = evaluator(sounds(1, gradient=True))
    assert float(answers[0].gradient["audio"].sum()) == 8.0
    assert "no graphs from now on" in caplog.text
    assert values(evaluator(sounds(2))) == [0.0, 2.0]
    assert len(evaluator.graphs["base"]) == 0


def test_gradients_that_do_not_fit_are_halved_and_leave_the_graphs_alone() -> None:
    evaluator = crowded(room=8, sizes=(1, 2))
    evaluator(sounds(2))
    assert len(evaluator(sounds(2, gradient=True))) == 2
    assert evaluator.graphs["base"].sizes == [2]
    assert evaluator.batch_sizes is not None
    assert evaluator.batch_sizes.sizes == (1, 2)


def test_typical_requests_have_the_form_of_a_jobs(pipeline: Pipeline, recorder: ReplayOnCpu) -> None:
    """Otherwise the first job would wait for a capture."""
    pipeline.evaluator(typical_clips(pipeline, 1))
    pipeline.evaluator([typical_frames(pipeline, 4)])
    captures = recorder.captures
    pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=2, sr_steps=2)))
    assert recorder.captures == captures
