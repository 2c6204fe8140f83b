"""`duet evaluate --protocol paper`: FVD, KVD and FAD against real films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Path as PathKind
from rich.console import Console
from rich.table import Table

from duet.cli.exit_status import FAILED, USAGE, fail
from duet.cli.options import option, within
from duet.cli.output import table_console

if TYPE_CHECKING:
    from rich.progress import Progress

    from model.checkpoint.manifest import Manifest
    from model.evaluation.paper import PaperEvaluation
    from model.request import SamplingParams

CLIPS = 2048
"""Clips of each run, as published."""


@Parameter(name="*", group="The paper's protocol")
@dataclass(frozen=True)
class PaperOptions:
    """Which protocol, and what the paper's needs."""

    protocol: Annotated[
        Literal["bounce", "paper"],
        option("Correspondence on the data set bounce, or the paper's FVD, KVD and FAD.", show_default=True),
    ] = "bounce"
    reference: Annotated[
        Path | None,
        option("Folder of real films with sound: the training set, as published, or the test set.", metavar="FOLDER"),
    ] = None
    weights: Annotated[
        Path | None, option("Folder with i3d_pretrained_400.pt and AudioCLIP-Full-Training.pt.", metavar="FOLDER")
    ] = None
    runs: Annotated[int, option("Runs, each with new clips.", validator=within(1), show_default=True)] = 6
    work: Annotated[
        Path | None,
        option(
            "Folder for features, so that an interrupted evaluation goes on; default: MODEL-paper.",
            validator=PathKind(file_okay=False),
            metavar="FOLDER",
        ),
    ] = None


def evaluate_paper(
    manifest: Manifest,
    options: PaperOptions,
    clips: int,
    params: SamplingParams,
    json: Path | None,
    progress: Progress,
    device: str,
    dtype: str,
) -> None:
    """Evaluate and print. Ends the command with a sentence if a folder, a file or a parameter is not usable."""
    from model.checkpoint.loading import CheckpointError
    from model.evaluation.generation import EvaluationError
    from model.evaluation.paper import PaperPlan, evaluate
    from model.evaluation.published.weights import AUDIOCLIP_FILE, I3D_FILE, WeightsMissing
    from model.evaluation.reference_clips import NoReference
    from model.request import RequestError

    if options.reference is None or options.weights is None:
        raise fail(
            USAGE,
            "--protocol paper needs --reference FOLDER, real films with sound, and --weights FOLDER with "
            f"{I3D_FILE.name} and {AUDIOCLIP_FILE.name}; see docs/evaluation.md",
        )
    try:
        plan = PaperPlan(params, clips, options.runs)
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
        with progress:
            task = progress.add_task("real and made clips", total=2 * clips * options.runs)
            found = evaluate(
                manifest,
                plan,
                options.reference,
                options.weights,
                options.work or Path(f"{manifest.name}-paper"),
                lambda count: progress.advance(task, count),
                device,
                dtype,
            )
        if json is not None:
            json.write_text(found.to_json(), encoding="utf-8")
    except (EvaluationError, RequestError, NoReference, WeightsMissing) as error:
        raise fail(USAGE, str(error)) from error
    except (CheckpointError, MemoryError) as error:
        raise fail(FAILED, str(error)) from error
    except OSError as error:
        raise fail(FAILED, f"{error.filename or 'a file'}: {error.strerror or error}") from error
    _show(found, table_console())


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.4g}"


def _show(found: PaperEvaluation, console: Console) -> None:
    from model.evaluation.paper import MEASURES

    protocol = found.protocol
    title = f"{protocol['model']}: {protocol['clips']} clips a run, {protocol['runs']} runs"
    table = Table("measure", "mean", "95 % interval", "deviation", title=title, title_justify="left")
    for name, measure in found.measures.items():
        deviation = "" if measure.deviation is None else _number(measure.deviation)
        scale = MEASURES[name].scale
        interval = "" if measure.interval is None else " … ".join(map(_number, measure.interval))
        table.add_row(name if scale == 1 else f"{name}, × {scale:,}", _number(measure.mean), interval, deviation)
    console.print(table)
    height, width = protocol["size"]
    reference = protocol["reference"]
    lines = [
        f"clips: {protocol['frames']} frames of {width}x{height} at {protocol['fps']} Hz, {protocol['sample_rate']} Hz;"
        f" {protocol['params']['sampler']}, {protocol['params']['steps']} steps, seed {protocol['params']['seed']},"
        f" {protocol['dtype'].removeprefix('torch.')}",
        f"real: {protocol['clips']} of {reference['windows']} windows of {reference['films']} films in"
        f" {reference['folder']}, SHA-256 of their names and sizes {reference['sha256_of_names_and_sizes']}",
        *(f"{name}: {each.what}" for name, each in MEASURES.items()),
        f"I3D sees {protocol['size_of_i3d']}x{protocol['size_of_i3d']} pixels, AudioCLIP hears"
        f" {protocol['sample_rate_of_audioclip']} Hz; distances in {protocol['precision_of_distances']}",
        *(
            f"{name}: SHA-256 {each['sha256']}, {'' if each['known_hash'] else 'not '}{each['known_copy']}"
            for name, each in protocol["extractors"].items()
        ),
    ]
    if reasons := protocol["not_as_published"]:
        lines.append(f"Not comparable with the paper's figures: {'; '.join(reasons)}.")
    if reasons := protocol["not_known_to_be_as_published"]:
        lines.append(f"Not known to be as published: {'; '.join(reasons)}.")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
