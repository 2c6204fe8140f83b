"""States on disk: complete or refused, and exported in pieces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoint.loading import CheckpointError, load_network, to_published
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks.coupled_unet import CoupledUNet
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.training import checkpoints as states
from model.training import loop
from model.training.checkpoints import PIECES, StateError, checkpoints, export_state, read_checkpoint
from model.training.publish import calibrate_published, newest_checkpoint, publish
from tests.model.training.runs import Silent, run, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(small(), out)
    return out


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("enlarging")
    run(small(kind="sr", steps=2), out)
    return out


def test_a_truncated_checkpoint_is_refused_with_a_message(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "step-00000006.pt"
    path.write_bytes(newest_checkpoint(trained).read_bytes()[:5000])
    with pytest.raises(StateError, match="cannot be read as a training checkpoint"):
        read_checkpoint(path)


def test_a_failed_checkpoint_leaves_no_file(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        states.write_atomically(tmp_path / "step-00000001.pt", fail)
    assert list(tmp_path.iterdir()) == []


def test_an_imported_state_continues_with_a_fresh_optimiser(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "PIECE_BYTES", 40_000)
    content = read_checkpoint(newest_checkpoint(trained))
    written = export_state(content, tmp_path / "state", torch.float32)
    assert len(written) > 2
    assert all(path.stat().st_size <= 40_000 for path in written)
    resumed, done = run(small(steps=7), tmp_path / "out", loop.Start(state=tmp_path / "state"))
    assert done
    assert (resumed.state.step, resumed.state.since) == (7, 6)
    name = next(iter(content["network"]))
    before, now = content["network"][name], resumed.state.network.state_dict()[name]
    assert 0 < (now - before).abs().max() < 1e-2  # one warm-up step away

    (tmp_path / "state" / "state-001.bin").write_bytes(b"other")
    with pytest.raises(StateError, match="its SHA-256 differs"):
        run(small(steps=7), tmp_path / "spoilt", loop.Start(state=tmp_path / "state"))
    with pytest.raises(StateError, match=PIECES):
        run(small(steps=7), tmp_path / "nothing", loop.Start(state=tmp_path))


def test_the_coupling_gap_is_published_with_the_weights(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "coupling.jsonl").write_text('{"step": 3, "video": 0.25}\n{"step": 6, "video": 0.5}\n')
    publish(small(), tmp_path / "run", tmp_path / "small", torch.float32)
    assert (tmp_path / "small" / "coupling-base.csv").read_text() == "step,video\n3,0.25\n6,0.5\n"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_published_model_is_served_as_trained(trained: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    publish(small(), trained, tmp_path / "small", dtype)
    manifest = read_manifest(tmp_path / "small" / FILE_NAME)
    assert (manifest.name, manifest.trained, manifest.independent_timesteps) == ("small", True, True)
    network = CoupledUNet(manifest.config.base)
    with torch.no_grad():
        load_network(network, tmp_path / "small" / "base.safetensors")
    average = read_checkpoint(newest_checkpoint(trained))["average"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, average[name].to(dtype).float(), rtol=0, atol=0)
    record = json.loads((tmp_path / "small" / "training-base.json").read_text())
    assert record["step"] == 6
    assert (tmp_path / "small" / "losses-base.csv").read_text().startswith("step,loss,video,audio,gradient_norm\n1,")
    assert not (tmp_path / "small" / "coupling-base.csv").exists(), "this run measured none"

    pipeline = Pipeline.load(manifest, "cpu", "float32")
    sound = torch.zeros(manifest.config.clip.audio_shape)
    clip = pipeline.run(ClipRequest("a2v", SamplingParams(seed=1, steps=2, guidance="clean"), condition=sound))
    assert clip.frames is not None
    assert clip.frames.shape == (8, 16, 16, 3)


def test_a_base_and_a_super_resolution_run_become_one_model(trained: Path, enlarging: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with pytest.raises(CheckpointError, match="publish that first"):
        publish(small(kind="sr"), enlarging, folder, torch.float16)
    publish(small(), trained, folder, torch.float16)
    publish(small(kind="sr", steps=2), enlarging, folder, torch.float16)
    manifest = publish(small(), trained, folder, torch.float16)  # the base again: super-resolution stays
    pipeline = Pipeline.load(read_manifest(folder / FILE_NAME), "cpu", "float32")
    clip = pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=2, sr_steps=1)))
    assert clip.frames is not None
    assert clip.frames.shape == (8, 64, 64, 3)
    assert manifest.sr_weights == "sr.safetensors"


@pytest.mark.slow
def test_a_published_model_is_calibrated_for_pigdm(trained: Path, tmp_path: Path) -> None:
    config = small()
    manifest = publish(config, trained, tmp_path / "small", torch.float32)
    ready, _ = run(config, trained)
    calibrate_published(manifest, config, ready.held_out, torch.device("cpu"), Silent().say)
    curve = read_manifest(tmp_path / "small" / FILE_NAME).calibration
    assert len(curve["times"]) == len(curve["video"]) == len(curve["audio"]) == 33
    assert curve["video"][0] < curve["video"][-1]


def test_fine_tuning_starts_from_any_kind_of_weights(trained: Path, tmp_path: Path) -> None:
    average = read_checkpoint(newest_checkpoint(trained))["average"]
    publish(small(), trained, tmp_path / "model", torch.float32)
    network = CoupledUNet(small().model.base)
    network.load_state_dict(average)
    torch.save(to_published(network), tmp_path / "published.pt")
    # Without a step, the weights are still the initial ones.
    for path in (
        tmp_path / "model",
        tmp_path / "model" / "base.safetensors",
        newest_checkpoint(trained),
        tmp_path / "published.pt",
    ):
        out = tmp_path / f"from-{path.name}"
        started, _ = run(small(), out, loop.Start(init=path), loop.Limits(stop=True))
        assert all(torch.equal(value, average[name]) for name, value in started.state.network.state_dict().items())
        assert started.state.step == 0


def test_weights_of_another_network_are_refused_with_the_difference(trained: Path, tmp_path: Path) -> None:
    publish(small(), trained, tmp_path / "model", torch.float32)
    other = small(base={"windows": [2, 4]})
    with pytest.raises(CheckpointError, match=r"base.windows was \[1, 4\] and is \[2, 4\]"):
        run(other, tmp_path / "out", loop.Start(init=tmp_path / "model"))
    with pytest.raises(CheckpointError, match=r"base.windows was \[1, 4\] and is \[2, 4\]"):
        run(other, tmp_path / "out", loop.Start(init=checkpoints(trained / "checkpoints")[-1]))
    wider = small(base={"channels": 32})
    with pytest.raises(CheckpointError, match=r"base.channels was 16 and is 32"):
        run(wider, tmp_path / "out", loop.Start(init=tmp_path / "model" / "base.safetensors"))
    alone = shutil.copy(tmp_path / "model" / "base.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match=r"input_blocks\.1"):
        run(wider, tmp_path / "out", loop.Start(init=Path(alone)))
    (tmp_path / "published.pt").write_bytes(b"")
    grouped = small(base={"norm_groups": 8})
    with pytest.raises(CheckpointError, match=r"base.norm_groups was 32 and is 8"):
        run(grouped, tmp_path / "out", loop.Start(init=tmp_path / "published.pt"))


def test_a_curve_has_all_columns_of_a_run_whose_columns_changed(trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "run")
    rows = [{"step": 10, "video": 0.5, "video_0": 1.0}, {"step": 20, "video": 0.25, "audio_1": 2.0}]
    (out / "coupling.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    publish(small(), out, tmp_path / "model", torch.float32)
    curve = tmp_path / "model" / "coupling-base.csv"
    assert curve.read_text().splitlines() == ["step,video,video_0,audio_1", "10,0.5,1,", "20,0.25,,2"]
    (out / "coupling.jsonl").unlink()
    publish(small(), out, tmp_path / "model", torch.float32)
    assert not curve.exists()
