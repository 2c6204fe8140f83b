"""Makes the result of `make train-demo` the demo model that ships, with all that is recorded of it.

    python -m benchmarks.publish_demo FOLDER [--clips 256] [--methods clean,pigdm] [--tune]

Replaces model/weights/demo, evaluates the model on `bounce` unless FOLDER holds an evaluation of as many clips, and on
`scenes` if it was trained on them, records the clip of tests/data, and writes the tables and figures of
docs/demo-model.md and the pictures of docs/jobs.md. With `--tune` it also searches for solvers of few steps. The prose
of the pages stays: read it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.demo_model import BOUNCE, FOLDER, SCENES
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.evaluation.scene_report import data_of
from model.training.packing import unpack
from model.training.scenes.kinds import KINDS

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"

PICTURES = ("joint-frames.png", "joint-sounds.png", "scores.png")
"""Of an evaluation, for docs/demo-model.md. The last needs matplotlib, which a training machine may not have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=256, help="clips of every run of the evaluation")
    parser.add_argument("--methods", default="clean,pigdm", help="conditioning methods to evaluate")
    parser.add_argument("--tune", action="store_true", help="search for solvers of few steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        unpack(options.folder, root)
        samples = root / "samples"
        samples.mkdir(exist_ok=True)
        install(root / "model", FOLDER)
        if options.tune:
            run("-m", "duet", "tune", FOLDER)
        if clips_evaluated(FOLDER) < options.clips or not all((samples / name).exists() for name in PICTURES):
            evaluate("bounce", options.clips, options.methods, FOLDER / BOUNCE, samples)
        if data_of(read_manifest(FOLDER / FILE_NAME)) == "scenes":
            clips = max(2, options.clips // len(KINDS)) * len(KINDS)
            evaluate("scenes", clips, options.methods, FOLDER / SCENES, samples / "scenes")
        figures(samples, FIGURES)
    run("-m", "tests.model.checkpoint.demo_clip")
    run("-m", "benchmarks.demo_model")
    run("-m", "benchmarks.figures", "--out", FIGURES)
    print("now read docs/demo-model.md, docs/few-steps.md, README.md and the studio's pictures again")


def install(model: Path, folder: Path) -> None:
    """Replace the model in `folder` by the one in `model`. Raises ManifestError; ValueError if a network is missing."""
    manifest = read_manifest(model / FILE_NAME)
    if manifest.base_weights is None or manifest.sr_weights is None:
        raise ValueError(f"{model} lacks a network: the demo model has a base network and super-resolution")
    if manifest.name != folder.name:
        raise ValueError(f"the model is called {manifest.name}, not {folder.name}")
    shutil.rmtree(folder)
    shutil.copytree(model, folder)


def clips_evaluated(folder: Path) -> int:
    """Clips of each run of the evaluation beside the weights; 0 if there is none of these weights."""
    path = folder / BOUNCE
    if not path.exists():
        return 0
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    current = evaluation["weights"] == read_manifest(folder / FILE_NAME).weights_hash
    return int(evaluation["clips"]) if current else 0


def evaluate(data: str, clips: int, methods: str, report: Path, samples: Path) -> None:
    """Measure the installed model on `clips` clips of a data set for each run; `samples` is for pictures."""
    command = ("-m", "duet", "evaluate", FOLDER, "--data", data, "--methods", methods, "--no-held-out")
    run(*command, "--clips", clips, "--json", report, "--out", samples)


def figures(samples: Path, out: Path) -> None:
    """The pictures of an evaluation under the names that docs/demo-model.md uses."""
    shutil.copy(samples / "joint-frames.png", out / "demo-frames.png")
    shutil.copy(samples / "scores.png", out / "demo-scores.png")
    Image.open(samples / "joint-sounds.png").save(out / "demo-sounds.webp", quality=80)


def run(*arguments: object) -> None:
    """Run Python with these arguments in the repository. Raises CalledProcessError."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
