"""`duet evaluate`: measure how well sound and picture of a model's clips match."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Path as PathKind
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from duet.cli.data import DATA_SETS
from duet.cli.evaluate_edits import CLIPS as EDIT_CLIPS
from duet.cli.evaluate_edits import evaluate_edits
from duet.cli.evaluate_paper import CLIPS as PAPER_CLIPS
from duet.cli.evaluate_paper import PaperOptions, evaluate_paper
from duet.cli.exit_status import FAILED, USAGE, evaluation_errors, fail
from duet.cli.options import DEVICES, DTYPES, option, within
from duet.cli.output import table_console
from model.request import MAX_PROMPT_SCALE, SamplingParams

if TYPE_CHECKING:
    from model.checkpoint.manifest import Manifest
    from model.evaluation.generation import EvaluationRun
    from model.evaluation.intervals import Interval
    from model.evaluation.report import Evaluation, Result
    from model.sampling.latents import Latents

SHOWN = 8
"""Clips on the contact sheet of a run."""

CLIPS = 256
"""Clips per run on `bounce`."""

MAX_CLIPS = 100_000

PAPER = PaperOptions()


def evaluate(
    model: Annotated[str, Parameter(help="A model's folder, or the name of a model that ships with Duet.")],
    /,
    *,
    clips: Annotated[
        int | None,
        option(
            "Clips per run; few give wide intervals; default 256, 64 with --edit, 2048 with --protocol paper.",
            validator=within(2, MAX_CLIPS),
        ),
    ] = None,
    kinds: Annotated[str, option("Any of joint,v2a,a2v, separated by commas.", show_default=True)] = "joint,v2a,a2v",
    methods: Annotated[
        str, option("Any of clean,pigdm,replacement,gradient; default: those that the model supports.")
    ] = "",
    sampler: Annotated[str, option("Sampler of the base network.", show_default=True)] = "dpmpp_2m",
    steps: Annotated[int, option("Steps of the sampler.", validator=within(1), show_default=True)] = 20,
    spacing: Annotated[str, option("Spacing of the steps.", show_default=True)] = "log_snr",
    prompt_scale: Annotated[
        float | None,
        option(
            "Scale of the captions that prompt joint clips; default: the model's.",
            validator=within(0, MAX_PROMPT_SCALE),
        ),
    ] = None,
    duration: Annotated[
        float | None, option("Seconds of each clip; longer than a window of the model, also measured at their borders.")
    ] = None,
    seed: Annotated[int, option("Seed of the clips.", validator=within(0), show_default=True)] = 0,
    held_out: Annotated[
        bool,
        option(
            "Also evaluate combinations that training never sees, as separate runs; the default.",
            negative="--no-held-out",
        ),
    ] = True,
    data: Annotated[
        str | None,
        option("Measure as clips of this data set; default: the one that the model was trained on.", choices=DATA_SETS),
    ] = None,
    edit: Annotated[bool, option("Measure edits instead: see docs/editing.md.")] = False,
    device: Annotated[str, option("Device.", choices=DEVICES, show_default=True)] = "auto",
    dtype: Annotated[str, option("Type of numbers.", choices=("auto", *DTYPES), show_default=True)] = "auto",
    json: Annotated[Path | None, option("Write all figures to this file.", validator=PathKind(dir_okay=False))] = None,
    out: Annotated[
        Path | None, option("Write plots and contact sheets to this folder.", validator=PathKind(file_okay=False))
    ] = None,
    paper: PaperOptions = PAPER,
) -> None:
    """Make clips with MODEL and measure them: how well sound and picture match, or FVD, KVD and FAD."""
    from model.evaluation.generation import plan, possible_methods
    from model.evaluation.report import Watcher, plot
    from model.evaluation.report import evaluate as evaluate_bounce
    from model.evaluation.scene_report import data_of, evaluate_scenes, plan_scenes

    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise fail(USAGE, "--out needs matplotlib, which is not installed: pip install matplotlib")
    manifest = read_model(model)
    params = SamplingParams(
        seed, sampler=sampler, steps=steps, spacing=spacing, duration=duration, prompt_scale=prompt_scale
    )
    if paper.protocol == "paper":
        further = {
            "--duration": duration,
            "--edit": edit or None,
            "--data": data,
            "--out": out,
            "--prompt-scale": prompt_scale,
        }
        if other := [name for name, value in further.items() if value is not None]:
            raise fail(USAGE, f"{', '.join(other)} cannot be combined with --protocol paper")
        evaluate_paper(manifest, paper, clips or PAPER_CLIPS, params, json, progress_bar(), device, dtype)
        return
    if edit:
        if duration is not None:
            raise fail(USAGE, "--duration does not apply with --edit, which measures clips of one window")
        if prompt_scale is not None:
            raise fail(USAGE, "--prompt-scale does not apply with --edit, which measures edits without prompts")
        evaluate_edits(manifest, clips or EDIT_CLIPS, params, json, out, progress_bar(), device, dtype)
        return
    clips = clips or CLIPS
    with evaluation_errors():
        runs = plan(manifest, _names(kinds), _names(methods) or possible_methods(manifest), held_out)
        measure = evaluate_bounce
        if (data or data_of(manifest)) == "scenes":
            measure, runs = evaluate_scenes, plan_scenes(runs, manifest, held_out)
        for path in (json.parent if json else None, out):
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            task = progress.add_task("", total=clips * len(runs))

            def keep(run: EvaluationRun, made: Latents, _: Result) -> None:
                if out is not None:
                    _draw(run, made, manifest, out)

            watcher = Watcher(
                begins=lambda run: progress.update(task, description=run.name),
                clip=lambda: progress.advance(task),
                ends=keep,
            )
            found = measure(manifest, runs, clips, params, watcher, device, dtype)
        if json is not None:
            json.write_text(found.to_json(), encoding="utf-8")
        if out is not None:
            plot(found, out / "scores.png")
    _scores(found)
    _distances(found)
    _seams(found)


def _names(given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def read_model(model: str) -> Manifest:
    """The manifest in a folder, or of a model that ships with Duet."""
    from model.checkpoint.manifest import FILE_NAME, ManifestError, find_models, read_manifest

    try:
        if Path(model).is_dir():
            return read_manifest(Path(model) / FILE_NAME)
        known = find_models()
    except ManifestError as error:
        raise fail(FAILED, str(error)) from error
    if model not in known:
        raise fail(USAGE, f"{model} is neither a folder nor a model that ships with Duet ({', '.join(known)})")
    return known[model]


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _draw(run: EvaluationRun, made: Latents, manifest: Manifest, out: Path) -> None:
    from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet

    shown = made.map(lambda value: value[:SHOWN])
    name = run.name.replace(" ", "-")
    contact_sheet(shown).save(out / f"{name}-frames.png")
    spectrogram_sheet(shown, manifest.config.clip).save(out / f"{name}-sounds.png")


def _scores(found: Evaluation) -> None:
    _print(
        f"{found.manifest.name}: {found.clips} clips of {found.length.duration:g} s a run, intervals of 95 %",
        ("run", "measure", "value", "shuffled", "real", "normalised"),
        [
            (
                result.run.name,
                [
                    (
                        found.labels[score.measure],
                        _shown(score.value),
                        f"{score.floor.value:.3f}",
                        f"{score.ceiling.value:.3f}",
                        _shown(score.normalised),
                    )
                    for score in result.scores
                ],
            )
            for result in found.results
        ],
    )


def _distances(found: Evaluation) -> None:
    from model.evaluation.fidelity import DISTANCES

    labels = {distance.name: distance.label for distance in DISTANCES}
    _print(
        f"Fréchet distances to {found.clips} real clips, by features without published weights: not FVD or FAD",
        ("run", "features", "value", "of real clips"),
        [
            (
                result.run.name,
                [(labels[each.distance], _shown(each.value), _shown(each.floor)) for each in result.distances],
            )
            for result in found.results
        ],
    )


def _seams(found: Evaluation) -> None:
    from model.evaluation.seams import LABELS, REACH

    runs = []
    for result in found.results:
        if result.seams is None:
            continue
        lines = []
        for borders, scores in (("whole", result.seams.whole_windows), ("last", result.seams.last_windows)):
            for each in scores:
                values = (
                    f"{each.near.value:.4g}",
                    f"{each.elsewhere.value:.4g}",
                    _shown(each.ratio),
                    _shown(each.real),
                )
                lines.append((f"{LABELS[each.measure]}, {borders}", *values))
        lines += [(LABELS[each.measure], "", _shown(each.value), "", _shown(each.real)) for each in result.seams.drift]
        runs.append((result.run.name, lines))
    if runs:
        _print(
            f"Within {REACH} frames of the borders of whole windows, or of those of the last evaluation, against "
            "elsewhere; real: the same ratio of real clips",
            ("run", "measure", "near", "elsewhere", "ratio", "real"),
            runs,
        )


def _print(title: str, columns: Sequence[str], runs: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> None:
    """A table of lines for each run, which is named once."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for name, lines in runs:
        for number, line in enumerate(lines):
            table.add_row("" if number else name, *line, end_section=number == len(lines) - 1)
    table_console().print(table)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} … {interval.high:.3f})"
