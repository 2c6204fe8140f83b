"""`duet tune` on a GPU finds a solver of every kind, and none is the general one."""

from __future__ import annotations

import math
from pathlib import Path

from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.runtime.pipeline import Pipeline
from model.tuning.tune import Tuning, tune
from tests.model.tuning.test_tune import CALIBRATION, MANIFEST


def test_a_model_is_tuned_on_the_gpu(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(MANIFEST.with_calibration(CALIBRATION).to_json())
    quick = Tuning(evaluations=(3,), sr_evaluations=(2,), clips=2, teacher_steps=4, rounds=1, compared=4)
    tune(tmp_path, quick, "cuda", say=lambda line: None)
    manifest = read_manifest(tmp_path / FILE_NAME)
    assert manifest.tuned is not None
    found = [manifest.tuned.base[name][3] for name in ("generate", "v2a pigdm", "a2v pigdm")] + [manifest.tuned.sr[2]]
    for solver in found:
        assert all(math.isfinite(value) for value in solver.distance["tuned"].values())
        assert solver.distance["tuned"] != solver.distance[f"dpmpp_2m {solver.evaluations}"]
    Pipeline.load(manifest, "cuda").release()
