"""`duet evaluate --edit`: how well edits of clips of `bounce` go on from, and agree with, what they keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from duet.cli.exit_status import evaluation_errors
from duet.cli.output import table_console

if TYPE_CHECKING:
    from rich.progress import Progress

    from model.checkpoint.manifest import Manifest
    from model.evaluation.editing import EditEvaluation, EditRow
    from model.request import SamplingParams
    from model.sampling.latents import Latents

CLIPS = 64
"""Clips of each row."""

SHOWN = 8
"""Clips on the contact sheet of a row."""


def evaluate_edits(
    manifest: Manifest,
    clips: int,
    params: SamplingParams,
    json: Path | None,
    out: Path | None,
    progress: Progress,
    device: str,
    dtype: str,
) -> None:
    """Evaluate and print. Ends the command with a sentence if a file or a parameter is not usable."""
    from model.evaluation.editing import allowed_methods, evaluate_edits, evaluated_clips

    methods = allowed_methods(manifest)
    spec = manifest.config.clip

    def keep(row: EditRow, made: Latents) -> None:
        if out is not None:
            _draw(row, made, manifest, out)

    with evaluation_errors():
        for path in (json.parent if json else None, out):
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
        with progress:
            task = progress.add_task("edits", total=evaluated_clips(spec, len(methods), clips))
            found = evaluate_edits(
                manifest, methods, clips, params, lambda: progress.advance(task), keep, device, dtype
            )
        if json is not None:
            json.write_text(found.to_json(), encoding="utf-8")
    _show(found)


def _draw(row: EditRow, made: Latents, manifest: Manifest, out: Path) -> None:
    from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet

    shown = made.map(lambda value: value[:SHOWN])
    name = f"{row.task}-{row.method}".replace(" ", "-")
    contact_sheet(shown).save(out / f"{name}-frames.png")
    spectrogram_sheet(shown, manifest.config.clip).save(out / f"{name}-sounds.png")


def _show(found: EditEvaluation) -> None:
    from model.evaluation.editing import LABELS

    title = f"{found.manifest.name}: {found.clips} clips a row, intervals of 95 %"
    table = Table("edit", "measure", "method", "value", title=title, title_justify="left")
    for task in dict.fromkeys(row.task for row in found.rows):
        rows = [row for row in found.rows if row.task == task]
        for measure in rows[0].scores:
            for number, row in enumerate(rows):
                score = row.scores[measure]
                label = "" if number else LABELS[measure]
                value = f"{score.value:.3f} ({score.low:.3f} … {score.high:.3f})"
                table.add_row(task if not number else "", label, row.method, value, end_section=row is rows[-1])
    table_console().print(table)
