"""Training steps as CUDA graphs on a real device: the losses and weights of eager steps, without waiting for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.training import loop
from model.training.configuration import TrainingConfig
from model.training.distribution import Processes
from model.training.gradients import Gradients
from model.training.training_log import LOSSES, read_rows
from tests.gpu.conftest import DEVICE
from tests.model.training.runs import Silent, small, small_teacher
from tests.model.training.test_gradients import KINDS, settings


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    return small_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True)
def own_matmul_precision() -> Iterator[None]:
    """Training computes float32 products in TF32; other tests do not."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def trained(config: TrainingConfig, out: Path, eager: bool) -> loop.TrainingRun:
    run = loop.prepare(config, out, Processes(0, 1, DEVICE), loop.Start(), Silent().say)
    if eager:
        run.gradients = Gradients(run.gradients.predict, run.state.network, 1, None)
    assert loop.train(run, loop.Limits(), Silent())
    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_train_as_eager_ones(
    kind: str, precision: str, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = settings(kind, teacher)
    config = small(steps=6, precision=precision, **{**found, "base": {**found.get("base", {}), "dropout": 0.0}})
    recorded, eager = (trained(config, tmp_path / str(way), way) for way in (False, True))
    assert "without a CUDA graph" not in caplog.text
    assert recorded.gradients._recording is not None
    rows = [[row["loss"] for row in read_rows(tmp_path / str(way) / LOSSES)] for way in (False, True)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3 if precision == "float32" else 3e-2)
    for one, other in zip(recorded.state.network.parameters(), eager.state.network.parameters(), strict=True):
        # Six steps of AdamW at a rate of 1e-3 move a weight by at most 6e-3.
        assert (one - other).abs().mean() < 2e-4


def test_dropout_differs_from_step_to_step(tmp_path: Path) -> None:
    config = small(steps=1, base={"dropout": 0.5})
    run = trained(config, tmp_path, eager=False)
    torch.manual_seed(0)
    for parameter in run.state.network.parameters():  # a new network ends in zeros, and hides dropout
        parameter.data.normal_(std=0.3)
    inputs = next(run.objective.inputs(run.source, 0, range(config.batch)))
    values = []
    for seed in (1, 2, 1):
        run.state.optimizer.zero_grad()
        values.append(run.gradients(run.objective, config, iter([inputs]), seed))
    # Some gradients are summed in no fixed order.
    torch.testing.assert_close(values[0], values[2], rtol=1e-4, atol=0)
    assert not torch.allclose(values[0], values[1], rtol=1e-3, atol=0)


def test_gradients_of_a_recorded_step_do_not_wait(tmp_path: Path) -> None:
    config = small(steps=3)
    run = trained(config, tmp_path, eager=False)
    inputs = next(run.objective.inputs(run.source, 3, range(config.batch)))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.gradients(run.objective, config, iter([inputs]), seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
