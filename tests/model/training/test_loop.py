"""Losses do not depend on interruptions, accumulation parts or the number of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training import loop
from model.training.checkpoints import StateError, checkpoints, read_checkpoint
from model.training.configuration import OptimizerConfig
from model.training.loop import learning_rate
from model.training.training_log import COUPLING, LOSSES, read_rows
from tests.model.training.runs import run, small, to_toml


def losses(out: Path) -> list[float]:
    rows = read_rows(out / LOSSES)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    _, done = run(small(steps=12), out)
    assert done
    return out


def command(path: Path, out: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    line = [sys.executable, *launcher, "-m", "duet", "train", str(path), "--out", str(out), *arguments]
    threads = max(1, torch.get_num_threads() // processes)  # it determines the order of summation
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def after(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has written the losses of `step`."""
    while len(read_rows(out / LOSSES)) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def weights(out: Path) -> dict[str, Any]:
    return read_checkpoint(checkpoints(out / "checkpoints")[-1])


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_losses_and_weights(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(steps=100_000))
    out = tmp_path / "killed"
    process = command(path, out)
    after(out, 5, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    reached = weights(out)["step"]
    assert reached >= 3
    run(small(steps=reached + 4), out)
    assert len(losses(out)) == reached + 4
    assert losses(out)[:12] == losses(whole)[: reached + 4]


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_identically_in_one_process(whole: Path, tmp_path: Path) -> None:
    # Without the final checkpoint the run looks killed: steps after the last due checkpoint are lost.
    run(small(steps=5), tmp_path)
    checkpoints(tmp_path / "checkpoints")[-1].unlink()
    assert weights(tmp_path)["step"] == 3
    run(small(steps=12), tmp_path)
    assert losses(tmp_path) == losses(whole)
    one, other = weights(whole), weights(tmp_path)
    for part in ("network", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_exits_with_0(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(steps=100_000, output={"losses": 1, "checkpoint": 1_000_000, "samples": 0, "coupling": 0}))
    process = command(path, tmp_path / "out")
    after(tmp_path / "out", 2, process)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "the same command resumes from there" in said
    assert weights(tmp_path / "out")["step"] == len(losses(tmp_path / "out"))


def test_accumulation_gives_the_losses_of_the_whole_batch(whole: Path, tmp_path: Path) -> None:
    run(small(steps=6, accumulate=2), tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(whole)[:6], rel=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(steps=6))
    process = command(path, tmp_path / "out", "--device", "cpu", processes=2)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert losses(tmp_path / "out") == pytest.approx(losses(whole)[:6], rel=1e-4)
    norms = [[row["gradient_norm"] for row in read_rows(out / LOSSES)[:6]] for out in (whole, tmp_path / "out")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_run_learns(tmp_path: Path) -> None:
    run(small(steps=25, optimizer={"lr": 5e-3, "warmup": 2, "ema": 0.9}, output={"checkpoint": 25}), tmp_path)
    curve = losses(tmp_path)
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])


@pytest.mark.slow
def test_super_resolution_learns_and_draws_samples(tmp_path: Path) -> None:
    config = small(kind="sr", steps=10, output={"samples": 10, "checkpoint": 10})
    run(config, tmp_path)
    rows = read_rows(tmp_path / LOSSES)
    assert {"mse", "vb"} <= set(rows[0])
    assert rows[-1]["mse"] < rows[0]["mse"]
    assert (tmp_path / "samples" / "step-00000010" / "frames.png").stat().st_size > 0


@pytest.mark.slow
def test_samples_the_coupling_gap_and_tensorboard_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(small(steps=4, output={"samples": 4, "coupling": 2}), tmp_path)
    assert (tmp_path / "samples" / "step-00000004" / "clip-0.mp4").stat().st_size > 0
    gaps = read_rows(tmp_path / COUPLING)
    assert [row["step"] for row in gaps] == [2, 4]
    assert {"video", "audio", "clean_video", "clean_audio"} <= set(gaps[0])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert events.Images("sample 0/video")[0].encoded_image_string.startswith(b"GIF89a")
    assert events.Audio("sample 0/sound")[0].sample_rate == 1280


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_single_modality_baselines_train(modality: str, tmp_path: Path) -> None:
    config = small(
        steps=3,
        base={"modalities": [modality]},
        times={"independent_timesteps": False},
        output={"samples": 3, "coupling": 1},
    )
    run(config, tmp_path)
    rows = read_rows(tmp_path / LOSSES)
    assert rows[-1]["loss"] == pytest.approx(rows[-1][modality])


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights_and_the_same_curve(whole: Path, tmp_path: Path) -> None:
    run(small(steps=6, precision="bfloat16"), tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(whole)[:6], rel=0.02)
    assert {value.dtype for value in weights(tmp_path)["network"].values()} == {torch.float32}


def test_a_deadline_stops_with_a_checkpoint(tmp_path: Path) -> None:
    limits = loop.Limits(deadline=time.monotonic())
    _, done = run(small(), tmp_path, limits=limits)
    assert not done
    assert weights(tmp_path)["step"] == 0


def test_only_the_last_checkpoints_are_kept(whole: Path) -> None:
    assert [path.stem for path in checkpoints(whole / "checkpoints")] == ["step-00000009", "step-00000012"]


def test_a_checkpoint_of_another_configuration_is_refused_with_the_difference(whole: Path) -> None:
    with pytest.raises(StateError, match=r"base\.channels was 16 and is 32"):
        run(small(steps=13, base={"channels": 32}), whole)


def test_a_non_finite_loss_ends_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(loop.TrainingError, match=r"not finite at step \d+"):
        run(small(steps=50, optimizer={"lr": 1e12, "clip_gradient": 0.0}), tmp_path)
    for path in checkpoints(tmp_path / "checkpoints"):
        assert all(value.isfinite().all() for value in read_checkpoint(path)["network"].values())
    assert all(json.dumps(row, allow_nan=False) for row in read_rows(tmp_path / LOSSES))


def test_the_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(lr=1.0, warmup=4, decay=10)
    assert [learning_rate(config, step, 0, 100) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(config, 95, 0, 100) == pytest.approx(0.5)
    assert learning_rate(config, 50, 50, 100) == 0.25  # an imported state warms up again
