"""`duet evaluate`: how well what a model makes belongs together."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from duet.cli.failures import FAILED, USAGE, end

if TYPE_CHECKING:
    from model.checkpoint.manifest import Manifest
    from model.evaluation.bootstrap import Interval
    from model.evaluation.making import Run
    from model.evaluation.report import Evaluation, Result
    from model.sampling.latents import Latents

SHOWN = 8
"""Clips of a run on its contact sheet."""

MAX_CLIPS = 100_000

PIPED_WIDTH = 160
"""Characters of a line where there is no terminal."""


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder, or the name of one that ships with Duet.")],
    clips: Annotated[int, typer.Option(min=2, max=MAX_CLIPS, help="In each run; fewer than 256 say little.")] = 256,
    kinds: Annotated[str, typer.Option(help="Some of joint,v2a,a2v.")] = "joint,v2a,a2v",
    methods: Annotated[
        str, typer.Option(help="Some of clean,pigdm,replacement,gradient; default: those that the model allows.")
    ] = "",
    sampler: Annotated[str, typer.Option(help="As for a clip.")] = "dpmpp_2m",
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 20,
    spacing: Annotated[str, typer.Option(help="Of the steps.")] = "log_snr",
    seed: Annotated[int, typer.Option(min=0, help="Of what is made.")] = 0,
    held_out: Annotated[
        bool, typer.Option(help="Also condition on combinations that training never sees, counted by themselves.")
    ] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")] = "auto",
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write all figures to this file.")] = None,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Write plots and contact sheets there.")] = None,
) -> None:
    """Make clips with MODEL for the data set `bounce` and measure how sound and picture belong together."""
    from model.checkpoint.loading import CheckpointError
    from model.evaluation.making import EvaluationError, plan, possible_methods
    from model.evaluation.report import Watcher, plot
    from model.evaluation.report import evaluate as measure
    from model.request import RequestError, SamplingParams

    for name, value, known in (
        ("device", device, ("cpu", "cuda", "auto")),
        ("dtype", dtype, ("float32", "bfloat16", "float16", "auto")),
    ):
        if value not in known:
            raise end(USAGE, f"--{name} must be one of {', '.join(known)}; got {value}")
    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise end(USAGE, "--out draws with matplotlib, which is not installed: pip install matplotlib")
    manifest = _manifest(model)
    try:
        runs = plan(manifest, _names(kinds), _names(methods) or possible_methods(manifest), held_out)
        for path in (json.parent if json else None, out):
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            task = progress.add_task("", total=clips * len(runs))

            def keep(run: Run, made: Latents, _: Result) -> None:
                if out is not None:
                    _draw(run, made, manifest, out)

            watcher = Watcher(
                begins=lambda run: progress.update(task, description=run.name),
                clip=lambda: progress.advance(task),
                ends=keep,
            )
            params = SamplingParams(seed, sampler=sampler, steps=steps, spacing=spacing)
            found = measure(manifest, runs, clips, params, watcher, device, dtype)
        if json is not None:
            json.write_text(found.to_json(), encoding="utf-8")
        if out is not None:
            plot(found, out / "scores.png")
    except (EvaluationError, RequestError) as error:
        raise end(USAGE, str(error)) from error
    except (CheckpointError, MemoryError) as error:
        raise end(FAILED, str(error)) from error
    except OSError as error:
        raise end(FAILED, f"{error.filename or 'a file'} cannot be written: {error.strerror or error}") from error
    _table(found)


def _names(given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _manifest(model: str) -> Manifest:
    """That of a folder, or of a model that ships with Duet."""
    from model.checkpoint.manifest import FILE_NAME, ManifestError, find_models, read_manifest

    try:
        if Path(model).is_dir():
            return read_manifest(Path(model) / FILE_NAME)
        known = find_models()
    except ManifestError as error:
        raise end(FAILED, str(error)) from error
    if model not in known:
        raise end(USAGE, f"{model} is neither a folder nor a model that ships with Duet ({', '.join(known)})")
    return known[model]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _draw(run: Run, made: Latents, manifest: Manifest, out: Path) -> None:
    from model.evaluation.sheets import contact_sheet, spectrogram_sheet

    shown = made.map(lambda value: value[:SHOWN])
    name = run.name.replace(" ", "-")
    contact_sheet(shown).save(out / f"{name}-frames.png")
    spectrogram_sheet(shown, manifest.config.clip).save(out / f"{name}-sounds.png")


def _table(found: Evaluation) -> None:
    from model.evaluation.report import LABELS

    table = Table(title=f"{found.manifest.name}: {found.clips} clips a run, intervals of 95 %", title_justify="left")
    for column in ("run", "measure", "value", "shuffled", "real", "normalised"):
        table.add_column(column, justify="left" if column in ("run", "measure") else "right")
    for result in found.results:
        for number, score in enumerate(result.scores):
            table.add_row(
                "" if number else result.run.name,
                LABELS[score.measure],
                _shown(score.value),
                f"{score.floor.value:.3f}",
                f"{score.ceiling.value:.3f}",
                _shown(score.normalised),
                end_section=number == len(result.scores) - 1,
            )
    console = Console()
    # Where there is no terminal no line need be broken.
    (console if console.is_terminal else Console(width=PIPED_WIDTH)).print(table)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} … {interval.high:.3f})"
