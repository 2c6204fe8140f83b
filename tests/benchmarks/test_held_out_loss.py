"""benchmarks.held_out_loss compares two models on the same samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import held_out_loss
from model.checkpoint.manifest import BUILTIN
from model.training.packing import pack


@pytest.mark.parametrize(("network", "terms"), [("base", {"video", "audio"}), ("sr", {"mse"})])
def test_a_spoilt_network_has_the_greater_loss(
    network: str, terms: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out_loss, "BATCH", 2)
    good, bad = BUILTIN / "demo", tmp_path / "bad"
    shutil.copytree(good, bad)
    weights = load_file(bad / f"{network}.safetensors")
    generator = torch.Generator().manual_seed(1)
    spoilt = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    save_file({name: value.to(weights[name].dtype) for name, value in spoilt.items()}, bad / f"{network}.safetensors")

    def losses(*folders: Path) -> dict[str, dict[str, float]]:
        held_out_loss.main([*map(str, folders), "--batches", "2", "--network", network])
        found = json.loads(capsys.readouterr().out)
        assert (found["samples"], set(found["losses"])) == (4, terms)
        return found["losses"]

    for term, loss in losses(good, bad).items():
        assert loss["after"] > 2 * loss["before"], term
        assert loss["difference"] == pytest.approx(loss["after"] - loss["before"], abs=2e-5)
    shutil.copytree(good, tmp_path / "run" / "model")
    pack(tmp_path / "run", tmp_path / "packed")
    for loss in losses(good, tmp_path / "packed").values():
        assert loss["difference"] == loss["interval"] == 0
