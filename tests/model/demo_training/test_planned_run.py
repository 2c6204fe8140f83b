"""A run planned for a number of seconds: its plan, its packed result, and how it continues."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint.loading import CheckpointError
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.demo_training import planned_run
from model.demo_training.planned_run import PlannedRun, Shares, planned
from model.networks.coupled_unet import CoupledUNet
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.training import packing
from model.training.checkpoints import StateError
from model.training.configuration import read_configuration
from model.training.initial_weights import load_fitting
from model.training.loop import learning_rate
from model.training.packing import INDEX, is_packed, pack, unpack
from model.training.training_log import LOSSES, read_rows
from tests.model.training.runs import SMALL, small, to_toml
from tests.waiting import until


def test_steps_fill_the_time_that_is_left_and_the_rate_ends_at_0() -> None:
    config = small(steps=4000, optimizer={"lr": 1.0, "warmup": 200, "decay": 2500})
    plan = planned(config, since=1000, done=1200, rate=10.0, seconds=380)
    assert plan.steps == 1200 + 3800
    assert plan.optimizer.decay == 2500  # the same share of the 4000 steps of this run
    rates = [learning_rate(plan.optimizer, step, 1000, plan.steps) for step in range(1000, plan.steps)]
    assert rates[0] == pytest.approx(1 / 200)
    assert max(rates) == rates[1300] == 1.0
    assert 0 < rates[-1] < 1e-3


def test_a_short_plan_has_a_short_warm_up_and_one_step_at_least() -> None:
    config = small(steps=4000, optimizer={"warmup": 200, "decay": 2500})
    assert planned(config, 0, 20, 1.0, 30).optimizer.warmup == 5
    assert planned(config, 0, 20, 1.0, 0.1).steps == 21


def test_shares_of_more_than_the_whole_are_refused() -> None:
    with pytest.raises(ValueError, match=r"add up to at most 1; got 0\.9 and 0\.2"):
        Shares(0.9, 0.2)


def packed_files(folder: Path, root: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (root / "inner").mkdir(parents=True, exist_ok=True)
        (root / "inner" / name).write_bytes(content)
    return pack(root, folder)


def test_a_packed_folder_is_unpacked_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PIECE_BYTES", 10_000)
    folder, root = tmp_path / "packed", tmp_path / "root"
    first = packed_files(folder, root, one=b"1" * 25_000)
    assert len(first) > 3
    written = packed_files(folder, root, one=b"2" * 12_000, other=b"3")
    assert set(folder.iterdir()) == set(written), "the earlier pieces are gone"
    assert all(path.stat().st_size <= 10_000 for path in written)
    unpack(folder, tmp_path / "again")
    assert (tmp_path / "again" / "inner" / "one").read_bytes() == b"2" * 12_000
    assert (tmp_path / "again" / "inner" / "other").read_bytes() == b"3"


def test_an_interrupted_packing_leaves_the_earlier_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = tmp_path / "packed", tmp_path / "root"
    packed_files(folder, root, one=b"before")
    write = packing.write_atomically

    def killed(path: Path, content: object) -> None:
        if path.name == INDEX:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(packing, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        packed_files(folder, root, one=b"after")
    unpack(folder, tmp_path / "again")
    assert (tmp_path / "again" / "inner" / "one").read_bytes() == b"before"


def test_what_does_not_fit_or_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = tmp_path / "packed", tmp_path / "root"
    piece, *_ = packed_files(folder, root, one=b"content")
    piece.write_bytes(b"other")
    with pytest.raises(StateError, match="its SHA-256 differs"):
        unpack(folder, tmp_path / "again")
    piece.unlink()
    with pytest.raises(StateError, match="No such file"):
        unpack(folder, tmp_path / "again")
    monkeypatch.setattr(packing, "PIECE_BYTES", 1000)
    with pytest.raises(StateError, match="more than 7 pieces of 1000"):
        pack(root, folder)


def test_weights_are_taken_where_names_and_shapes_fit(tmp_path: Path) -> None:
    config = small().model.base
    held = CoupledUNet(config).state_dict()
    name, other, *_ = held
    held[other] = torch.zeros(3, 3, 3)
    save_file({key: torch.ones(value.shape) for key, value in held.items()}, tmp_path / "held.safetensors")
    network = CoupledUNet(config)
    before = network.state_dict()[other].clone()
    taken, total = load_fitting(tmp_path / "held.safetensors", network)
    assert (taken, total) == (len(held) - 1, len(held))
    assert network.state_dict()[name].eq(1).all()
    assert network.state_dict()[other].equal(before)
    save_file({"unknown": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of this network"):
        load_fitting(tmp_path / "other.safetensors", network)


@pytest.fixture
def configs(tmp_path: Path) -> list[Path]:
    """Files with the configurations of a small base network and its super-resolution."""
    paths = [tmp_path / "base.toml", tmp_path / "sr.toml"]
    for kind, path in zip(("base", "sr"), paths, strict=True):
        times = {"independent_timesteps": kind == "base"}
        optimizer = {**SMALL["optimizer"], "decay": 3}
        sr = {"channels": 16, "channel_mult": [1], "patch": 4}
        path.write_text(to_toml(kind=kind, batch=2, times=times, optimizer=optimizer, sr=sr))
    return paths


@pytest.mark.slow
def test_a_run_is_packed_continued_and_served(
    configs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_run, "PIECE_SECONDS", 10.0)
    base, sr = (read_configuration(path) for path in configs)
    said: list[str] = []

    def one(name: str, earlier: Path | None) -> Path:
        folder, work = tmp_path / name, tmp_path / f"{name}-work"
        ticks = itertools.count()  # a second passes whenever the time is asked for, on any machine
        clock = partial(next, ticks)
        shares, device = Shares(0.6, 0.4), torch.device("cpu")
        run = PlannedRun(clock(), 90, shares, folder, work, device, said.append, clock, doublings=1)
        if earlier is not None:
            run.resume(earlier)
        run.run(base, sr)
        assert len(list(folder.iterdir())) <= packing.MAX_FILES
        unpack(folder, tmp_path / f"{name}-unpacked")
        return folder

    one("second", one("first", None))
    assert any("with a falling rate" in line for line in said), said
    assert any("base: continuing after step" in line for line in said), said
    assert any(line.startswith("base: batch 4: ") for line in said), said
    record = json.loads((tmp_path / "second-unpacked" / "model" / "training-base.json").read_text())
    assert record["batch"] == 4, "twice the batch takes no longer by this clock"
    for part in ("base", "sr"):
        before, after = (
            json.loads((tmp_path / f"{run}-unpacked" / part / "state.json").read_text())["step"]
            for run in ("first", "second")
        )
        assert 0 < before < after
        rows = (tmp_path / "second-unpacked" / "model" / f"losses-{part}.csv").read_text().splitlines()
        assert int(rows[-1].split(",")[0]) == after
        last = read_rows(tmp_path / "second-work" / part / LOSSES)[-1]
        assert 0 < last["lr"] <= 1e-3 / 2
    manifest = read_manifest(tmp_path / "second-unpacked" / "model" / FILE_NAME)
    assert manifest.calibration
    pipeline = Pipeline.load(manifest, "cpu", "float32")
    clip = pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=2, sr_steps=1)))
    assert clip.frames is not None
    assert clip.frames.shape == (8, 64, 64, 3)


@pytest.mark.slow
def test_a_run_on_scenes_is_evaluated_on_scenes_and_on_bounce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_run, "EVALUATION_CLIPS", (16,))
    monkeypatch.setattr(planned_run, "EVALUATION_STEPS", 2)
    config = small(batch=2, data={"source": "scenes", "bounce_share": 0.5})
    clock = partial(next, itertools.count())  # as above
    folder, device = tmp_path / "packed", torch.device("cpu")
    said: list[str] = []
    PlannedRun(clock(), 2000, Shares(0.03, 0), folder, tmp_path / "work", device, said.append, clock).run(config, None)
    unpack(folder, tmp_path / "unpacked")
    manifest = read_manifest(tmp_path / "unpacked" / "model" / FILE_NAME)
    for data, report, samples in (
        ("bounce", "evaluation.json", "samples"),
        ("scenes", "evaluation-scenes.json", "samples/scenes"),
    ):
        found = json.loads((manifest.folder / report).read_text())
        assert (found["data"], found["weights"], found["clips"]) == (data, manifest.weights_hash, 16)
        assert (found["params"]["sampler"], found["params"]["steps"]) == ("dpmpp_2m", 2)
        assert [run["name"] for run in found["runs"]] == ["joint", "v2a clean", "a2v clean"]
        for name in ("joint", "v2a-clean", "a2v-clean"):
            for sheet in (f"{name}-frames.png", f"{name}-sounds.png"):
                assert (tmp_path / "unpacked" / samples / sheet).stat().st_size > 0
    evaluated = [line.split(",")[0] for line in said if "16 clips, normalised" in line]
    assert evaluated == ["scenes"] * 3 + ["bounce"] * 3


def command(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "model.demo_training", *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


@pytest.mark.slow
def test_sigterm_ends_a_run_with_what_it_has(configs: list[Path], tmp_path: Path) -> None:
    base, sr = configs
    process = command("--seconds", 100, "--out", tmp_path / "out", "--config", base, "--config-sr", sr)
    until(lambda: is_packed(tmp_path / "out") or process.poll() is not None, "a packed result", 110)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "done" in said
    unpack(tmp_path / "out", tmp_path / "unpacked")
    assert read_manifest(tmp_path / "unpacked" / "model" / FILE_NAME).trained


@pytest.mark.slow
def test_a_run_without_time_says_so(tmp_path: Path) -> None:
    said, _ = (process := command("--seconds", 0.01, "--out", tmp_path / "out")).communicate(timeout=100)
    assert process.returncode == 1
    assert "holds nothing" in said
