"""r_t², measured and used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint.manifest import Manifest, read_manifest
from model.media.encode import write_clip
from model.networks.config import PRESETS, UNetConfig
from model.networks.pair import Pair
from model.request import SamplingParams
from model.runtime.calibration import calibrate, calibrate_model
from model.runtime.evaluator import Evaluator
from model.sampling.error_variance import ErrorVariance, error_variance
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule, linear_betas

MANIFEST = Manifest("tiny", PRESETS["tiny"], trained=False, description="", licence="MIT", init_seed=3)


def test_calibration_measures_the_error_of_x0() -> None:
    """A network that predicts no noise at all leaves x̂_0 = x_t / α_t, clipped: its error at t = 0 is σ_0²/α_0²."""

    class Blind(torch.nn.Module):
        config = UNetConfig()

        def forward(self, x: Pair, *_: object) -> Pair:
            return x.map(torch.zeros_like)

    schedule = NoiseSchedule(linear_betas(1000))
    evaluator = Evaluator(Blind(), None, schedule)  # type: ignore[arg-type]
    clips = [Latents(torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 1, 512)) for _ in range(4)]
    curve = calibrate(evaluator, clips, (), points=5)
    assert curve["times"][0] == 0.0
    assert curve["times"][-1] == 999.0
    expected = schedule.sigma(0.0) ** 2 / schedule.alpha(0.0) ** 2
    for modality in ("video", "audio"):
        assert error_variance(curve, modality)(0.0) == pytest.approx(expected, rel=0.2)
        assert curve[modality] == sorted(curve[modality])
        assert curve[modality][-1] <= 1.0  # clipped


def test_error_variance_is_log_linear_between_measurements() -> None:
    assert ErrorVariance([0.0, 10.0], [1e-4, 1e-2])(5.0) == pytest.approx(1e-3)


def test_calibration_without_a_clip_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "model.json").write_text(MANIFEST.to_json())
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"not a video")
    left_out = []
    with pytest.raises(ValueError, match="at least one clip"):
        calibrate_model(model, tmp_path / "clips", 4, 3, "cpu", lambda _, path, why: left_out.append((path.name, why)))
    assert left_out[0][0] == "broken.mp4"
    assert left_out[0][1]
    assert read_manifest(model / "model.json").calibration == {}


def test_a_calibrated_model_uses_pigdm(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "model.json").write_text(MANIFEST.to_json())
    (tmp_path / "clips").mkdir()
    write_clip(
        tmp_path / "clips" / "one.mp4",
        torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8),
        10,
        torch.rand(1, 25_600) - 0.5,
        16_000,
        "noise",
    )
    assert calibrate_model(model, tmp_path / "clips", count=4, points=3, device="cpu") == 1
    manifest = read_manifest(model / "model.json")
    assert [len(curve) for curve in manifest.calibration.values()] == [3, 3, 3]
    assert all(value > 0 for value in manifest.calibration["video"])
    assert SamplingParams(seed=1).resolve("v2a", manifest).guidance == "pigdm"
