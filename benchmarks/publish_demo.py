"""Makes the result of `make train-demo` the demo model that ships, with all that is recorded of it.

    python -m benchmarks.publish_demo FOLDER [--clips 256] [--methods clean,pigdm] [--tune]

Calibrates the model if the run had no time for it, and evaluates it on `bounce` and, if it was trained on them, on
`scenes`, unless FOLDER holds such an evaluation of these weights with as many clips. Records the clip of tests/data,
writes the tables and figures of docs/demo-model.md, the pictures of docs/jobs.md, and the figures of other pages that
take minutes. With `--tune` it also searches for solvers of few steps. Everything is made in a temporary folder under
build/; model/weights/demo and the other files are replaced at the end, all together, and nothing is if a step fails.
Then it lists the pages and figures that are still of the earlier model. The prose of the pages stays: read it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks import demo_model, figures, sheets, sr_start
from duet.cli.evaluate import evaluate
from duet.cli.tune import tune
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.demo_training.planned_run import REPORTS
from model.evaluation.generation import KINDS, plan, possible_methods
from model.evaluation.report import plot_recorded
from model.evaluation.scene_report import data_of
from model.runtime.pipeline import Pipeline
from model.training.packing import unpack
from model.training.publish import calibrate_on_training_data, recorded_configuration
from model.training.scenes.kinds import KINDS as SCENE_KINDS
from tests.model.checkpoint import demo_clip

ROOT = Path(__file__).parents[1]

MAX_BYTES = 40_000_000
"""Of the weights of both networks, which are in the wheel."""

METHODS = ("clean", "pigdm")
"""Conditioning methods that are evaluated by default, where the model allows them."""

SHEETS = {"bounce": Path("samples"), "scenes": Path("samples/scenes")}
"""Folders of an evaluation's contact sheets in a packed run, by data set."""

MODEL = demo_model.FOLDER.relative_to(ROOT)
PAGE = demo_model.PAGE.relative_to(ROOT)
FIGURES = PAGE.parent / "figures"
CLIP = demo_clip.RECORDED.relative_to(ROOT)

OF_THE_EARLIER_MODEL = {
    "docs/few-steps.md, docs/figures/few_steps.json, few_steps.png": "duet tune model/weights/demo; "
    "rm docs/figures/few_steps.json; the two commands of the page; python -m benchmarks.few_steps_report",
    "docs/editing.md, docs/figures/edits.json": "duet evaluate demo --edit --clips 32 --json docs/figures/edits.json",
    "docs/long-clips.md, docs/figures/seams.png": "python -m benchmarks.long_clips --folder DIR --clips 64 and the "
    "other commands of the page; python -m benchmarks.seams_figure docs/figures/seams.png MEASURED.json",
    "docs/evaluation.md, docs/figures/ddpm.json": "python -m benchmarks.ddpm, as the page says",
    "docs/evaluation.md, docs/figures/checkpoint_order.json, checkpoint_order.png": "python -m "
    "benchmarks.checkpoint_order, as the page says",
    "docs/provenance.md, docs/figures/signal_mark.json": "python -m benchmarks.signal_mark, as the page says",
    "docs/studio.md, docs/study.md, docs/figures/studio.png, studio-phone.png, study-phone.png": "python -m "
    "benchmarks.screenshots",
    "docs/performance.md": "the commands of the page, for the demo model's speeds",
}
"""Pages and figures that take hours or a browser, with the commands that make them anew."""

PROSE = "docs/demo-model.md, docs/samplers.md, docs/jobs.md, docs/scenes-model.md, docs/quickstart.md, README.md"
"""Pages that say in words what the model makes."""


@dataclass(frozen=True)
class Wanted:
    """`clips` of each run of an evaluation; `methods`: None accepts those that the training run evaluated."""

    clips: int = 256
    methods: tuple[str, ...] | None = None
    tune: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=256, help="clips of every run of the evaluation")
    parser.add_argument("--methods", help="conditioning methods to evaluate; default: clean,pigdm, or those of the run")
    parser.add_argument("--tune", action="store_true", help="search for solvers of few steps")
    options = parser.parse_args()
    methods = tuple(name.strip() for name in options.methods.split(",")) if options.methods else None
    try:
        publish(options.folder, ROOT, Wanted(options.clips, methods, options.tune), say)
    except (ValueError, OSError, MemoryError) as error:
        raise SystemExit(f"{options.folder}: {error}") from error


def say(text: str) -> None:
    print(text, flush=True)


def publish(packed: Path, root: Path, wanted: Wanted, say: Callable[[str], None]) -> None:
    """Make the model in the folder `packed` the one that ships in the repository `root`. Replaces nothing if a step
    fails; raises what `prepare` raises."""
    before = read_manifest(root / MODEL / FILE_NAME).weights_hash
    (root / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-demo-", dir=root / "build") as name:
        work = Path(name)
        try:
            prepare(packed, root, work, wanted, say)
            install(work, root)
        except BaseException:
            say("nothing was replaced")
            raise
    manifest = read_manifest(root / MODEL / FILE_NAME)
    say(f"{MODEL} is replaced, with its tables, figures and recorded clip")
    if manifest.weights_hash != before:
        say("\nThese are still of the earlier model. Make them anew:")
        for pages, command in OF_THE_EARLIER_MODEL.items():
            say(f"  {pages}:\n    {command}")
    say(f"\nRead again: {PROSE}")


def prepare(packed: Path, root: Path, work: Path, wanted: Wanted, say: Callable[[str], None]) -> None:
    """Make everything that changes, in the folder `work`/new, under the names that it has in the repository.

    Raises ValueError for a model that cannot ship, StateError, CheckpointError, DataError, OSError, MemoryError, and
    SystemExit as the commands that it runs.
    """
    run, new = work / "run", work / "new"
    unpack(packed, run)
    folder = new / MODEL
    shutil.copytree(run / "model", folder)
    manifest = checked(folder)
    if not manifest.calibration:
        say("calibrating")
        manifest = calibrated(manifest, work, say)
    methods = wanted.methods or tuple(name for name in METHODS if name in possible_methods(manifest))
    plan(manifest, KINDS, methods, held_out=False)  # raises EvaluationError for those that the model does not allow
    if wanted.tune:
        say("searching for solvers of few steps")
        tune(folder)
        manifest = read_manifest(folder / FILE_NAME)
    for data in ("scenes", "bounce") if data_of(manifest) == "scenes" else ("bounce",):
        clips = wanted.clips if data == "bounce" else whole_kinds(wanted.clips)
        report, samples = folder / REPORTS[data], run / SHEETS[data]
        if evaluated(report, manifest, data, clips, wanted.methods) and (samples / "joint-frames.png").exists():
            say(f"{data}: the evaluation of the training run stays")
        else:
            say(f"{data}: evaluating {clips} clips a run, with {', '.join(methods)}")
            names = ",".join(methods)
            evaluate(str(folder), clips=clips, methods=names, held_out=False, data=data, json=report, out=samples)
    (new / CLIP).parent.mkdir(parents=True)
    say("recording the clip of the tests")
    pipeline = demo_clip.pipeline(manifest)
    demo_clip.record(pipeline, new / CLIP)
    say("drawing")
    draw(pipeline, run / SHEETS["bounce"], root, new)


def checked(folder: Path) -> Manifest:
    """The manifest of the model in `folder`. Raises ManifestError; ValueError if such a model cannot be the demo."""
    manifest = read_manifest(folder / FILE_NAME)
    if manifest.base_weights is None or manifest.sr_weights is None:
        raise ValueError("a network is missing: the demo model has a base network and super-resolution")
    if manifest.name != folder.name:
        raise ValueError(f"the model is called {manifest.name}, not {folder.name}")
    if not manifest.config.base.coupled:
        raise ValueError("the model has one modality only: the demo model has pictures and sound")
    size = sum(path.stat().st_size for path in manifest.weight_files)
    if size > MAX_BYTES:
        raise ValueError(f"the weights have {size / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that may ship")
    return manifest


def calibrated(manifest: Manifest, work: Path, say: Callable[[str], None]) -> Manifest:
    """The manifest with a calibration on clips that were held out from training. Raises StateError, DataError."""
    calibrate_on_training_data(manifest, recorded_configuration(manifest.folder), work, say)
    return read_manifest(manifest.folder / FILE_NAME)


def whole_kinds(clips: int) -> int:
    """`clips` rounded down to a multiple of the kinds of `scenes`, at least two of each."""
    return max(2, clips // len(SCENE_KINDS)) * len(SCENE_KINDS)


def evaluated(report: Path, manifest: Manifest, data: str, clips: int, methods: tuple[str, ...] | None) -> bool:
    """Whether `report` is of these weights on this data set, with as many clips, all kinds and these methods."""
    if not report.exists():
        return False
    found = json.loads(report.read_text(encoding="utf-8"))
    kinds = {run["kind"] for run in found["runs"]}
    used = {run["method"] for run in found["runs"]}
    same = (found["weights"], found.get("data", "bounce")) == (manifest.weights_hash, data)
    return same and found["clips"] >= clips and kinds >= set(KINDS) and used >= set(methods or ())


def draw(pipeline: Pipeline, samples: Path, root: Path, new: Path) -> None:
    """The page of the demo model with its figures, and the figures of other pages that take minutes."""
    out = new / FIGURES
    out.mkdir(parents=True)
    folder = new / MODEL
    Image.open(samples / "joint-frames.png").save(out / "demo-frames.png")
    Image.open(samples / "joint-sounds.png").save(out / "demo-sounds.webp", quality=80)
    plot_recorded(json.loads((folder / demo_model.BOUNCE).read_text(encoding="utf-8")), out / "demo-scores.png")
    shutil.copy(root / PAGE, new / PAGE)
    demo_model.write(pipeline.manifest, new / PAGE)
    figures.pictures(pipeline, out)
    sheets.extended(out / "edit-extend.png", pipeline.manifest)
    frames = json.loads((root / FIGURES / "sr_start.json").read_text(encoding="utf-8"))["frames"]
    with torch.no_grad():
        found = sr_start.measure(pipeline, frames)
    sr_start.draw(found, out / "sr_start.png")
    (out / "sr_start.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def install(work: Path, root: Path) -> None:
    """Replace the model by the one in `work`/new, and the other files there: all of them, or none if one fails. `work`
    is on the repository's disk. Raises OSError."""
    new, earlier = work / "new", work / "earlier"
    others = (path for path in new.rglob("*") if path.is_file() and not path.is_relative_to(new / MODEL))
    names = [Path(MODEL), *sorted(path.relative_to(new) for path in others)]
    try:
        for name in names:
            if (root / name).exists():
                (earlier / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).rename(earlier / name)
            (new / name).rename(root / name)
    except BaseException:
        for name in names:
            if not (new / name).exists():
                (root / name).rename(new / name)
            if (earlier / name).exists():
                (earlier / name).rename(root / name)
        raise


if __name__ == "__main__":
    main()
