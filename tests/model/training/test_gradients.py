"""Steps that are recorded once and replayed give the losses and weights of eager ones.

The recorder is a stand-in that runs on the CPU; tests/gpu/test_training.py records on a GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.networks import ops
from model.networks.ops import add_bias
from model.networks.pair import Pair
from model.training import loop
from model.training.configuration import TrainingConfig
from model.training.distillation import DistillationObjective
from model.training.distribution import Processes
from model.training.gradients import Gradients
from model.training.objectives import make_objective
from model.training.sources import open_sources
from model.training.training_log import LOSSES, read_rows
from tests.model.runtime.replay import ReplayOnCpu
from tests.model.training.runs import Silent, small

KINDS: dict[str, dict[str, Any]] = {
    "coupled": {"base": {"dropout": 0.1}, "text": {"encoder": "wordllama"}},
    "sound": {"base": {"modalities": ["audio"]}, "times": {"independent_timesteps": False}},
    "super-resolution": {"kind": "sr", "sr": {"learn_sigma": True}},
    "distilled": {
        "seed": 4,
        "times": {"shared_t": 0.0, "clean_video": 0.5, "clean_audio": 0.5},
        "distillation": {"evaluations": 2, "teacher_steps": 1},
    },
}


def settings(kind: str, teacher: Path) -> dict[str, Any]:
    """Of this kind of network. A distilled one has the sound given in the first step, and the video in the second."""
    found = KINDS[kind]
    return found | {"distillation": found["distillation"] | {"teacher": str(teacher)}} if kind == "distilled" else found


def trained(config: TrainingConfig, out: Path, recorder: ReplayOnCpu | None) -> loop.TrainingRun:
    run = loop.prepare(config, out, Processes(0, 1, torch.device("cpu")), loop.Start(), Silent().say)
    run.gradients = Gradients(run.gradients.predict, run.state.network, 1, recorder)
    assert loop.train(run, loop.Limits(), Silent())
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_train_as_eager_ones(kind: str, teacher: Path, tmp_path: Path) -> None:
    config = small(steps=2, batch=2, optimizer={"clip_gradient": 0.5}, **settings(kind, teacher))
    recorder = ReplayOnCpu()
    replayed = trained(config, tmp_path / "replayed", recorder)
    eager = trained(config, tmp_path / "eager", None)
    assert (recorder.captures, recorder.replays) == (1, 2)
    if isinstance(replayed.objective, DistillationObjective):
        assert [replayed.objective._draw_given(step) for step in range(2)] == ["audio", "video"]
    rows = [read_rows(tmp_path / name / LOSSES) for name in ("replayed", "eager")]
    assert rows[0] == rows[1]
    weights = zip(replayed.state.network.parameters(), eager.state.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


@pytest.mark.parametrize("kind", ["coupled", "super-resolution"])
def test_replayed_steps_in_a_gpus_order_of_work_clip_each_gradient_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the biases of a block's two branches are added, and have the same gradient."""
    monkeypatch.setattr(ops, "fused", lambda x: True)
    monkeypatch.setattr(add_bias, "_add_bias", add_bias._add_bias_cpu)
    config = small(steps=2, batch=2, optimizer={"clip_gradient": 0.01}, **KINDS[kind])
    replayed = trained(config, tmp_path / "replayed", ReplayOnCpu())
    eager = trained(config, tmp_path / "eager", None)
    weights = zip(replayed.state.network.parameters(), eager.state.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_accumulated_steps_are_not_recorded(tmp_path: Path) -> None:
    recorder = ReplayOnCpu()
    trained(small(steps=1, batch=2, accumulate=2), tmp_path, recorder)
    assert recorder.captures == 0


def test_a_failed_recording_is_reported_once_and_steps_stay_eager(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(steps=2, **KINDS["sound"])
    with caplog.at_level(logging.WARNING):
        trained(config, tmp_path / "failed", ReplayOnCpu(RuntimeError("operation not permitted")))
    assert [record.message for record in caplog.records] == [
        "training runs without a CUDA graph: RuntimeError: operation not permitted"
    ]
    trained(config, tmp_path / "eager", None)
    assert read_rows(tmp_path / "failed" / LOSSES) == read_rows(tmp_path / "eager" / LOSSES)


def test_a_batch_that_cannot_be_recorded_does_not_keep_the_next_one_from_it(tmp_path: Path) -> None:
    recorder = ReplayOnCpu(torch.OutOfMemoryError("out of memory"))
    run = trained(small(steps=1, **KINDS["sound"]), tmp_path, recorder)
    assert (recorder.captures, recorder.renewed) == (0, 0)
    run.gradients.release()
    assert recorder.renewed == 1
    run.config = small(steps=10, batch=2, **KINDS["sound"])
    run.objective = make_objective(run.config, torch.device("cpu"))
    loop.one_step(run, run.source, range(2))
    assert (recorder.captures, recorder.replays) == (1, 1)


def test_another_batch_needs_a_release(tmp_path: Path) -> None:
    recorder = ReplayOnCpu()
    run = trained(small(steps=1, **KINDS["sound"]), tmp_path, recorder)
    for step, batch in enumerate((4, 8), start=1):
        run.config = small(steps=10, batch=batch, **KINDS["sound"])
        run.objective = make_objective(run.config, torch.device("cpu"))
        if batch == 8:
            with pytest.raises(ValueError, match=r"audio has shape \(8, .*recorded with \(4, "):
                loop.one_step(run, run.source, range(batch))
            run.gradients.release()
        loop.one_step(run, run.source, range(batch))
        assert run.state.step == 1 + step
    assert (recorder.captures, recorder.released) == (2, 1)


class Mixed(TorchDispatchMode):
    """Records operations that read both the CPU and the device, or move data between them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        kinds = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        if len(kinds) > 1 or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_losses_move_nothing_to_the_device(kind: str, teacher: Path, tmp_path: Path) -> None:
    """A copy from the host's memory cannot be recorded. Fake tensors stand for those of a GPU."""
    config = small(**settings(kind, teacher))
    # A teacher can only be loaded to a device that is there. The losses do not use it.
    objective = make_objective(config, torch.device("cpu" if kind == "distilled" else "cuda"))
    source, _ = open_sources(config, tmp_path, print)
    inputs = next(make_objective(config, torch.device("cpu")).inputs(source, 0, range(4)))

    def predict(*arguments: Any) -> Any:
        clips = arguments[0]
        if config.kind == "sr":
            return torch.randn_like(clips), torch.randn_like(clips)
        return Pair(*(None if clip is None else torch.randn_like(clip) for clip in clips))

    with FakeTensorMode() as fake:
        given = {name: None if value is None else fake.from_tensor(value).cuda() for name, value in inputs.items()}
        objective.losses(predict, given)  # tables are sent once
        with Mixed() as mixed:
            objective.losses(predict, given)
    assert mixed.found == []
