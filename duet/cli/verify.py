"""`duet verify`: what a file says of its making, and whether its signal has Duet's mark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from json import loads as parsed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from duet.cli.exit_status import FAILED, fail
from duet.cli.options import option
from duet.cli.output import echo, echo_json

if TYPE_CHECKING:
    from service.credentials.report import Report

_VERDICTS = {
    "valid": "Content Credentials: valid, signed by a trusted certificate.",
    "untrusted": "Content Credentials: unchanged since it was signed, but by a certificate that is not trusted here.",
    "tampered": "Content Credentials: TAMPERED. The file was changed after it was signed.",
    "unreadable": "Content Credentials: unreadable.",
    "none": "Content Credentials: none.",
}
_GENERATED = {"all": "Generated: all of it, by a model.", "part": "Generated: a part of it, by a model."}


def verify(
    file: Annotated[ExistingFile, Parameter(help="A video or a sound, of any origin.")],
    /,
    *,
    trust: Annotated[ExistingFile | None, option("PEM file with the certificates to trust.", "--trust")] = None,
    mark: Annotated[
        bool,
        option("Look for Duet's mark in pictures and sound too, with the key DUET_SIGNAL_MARK_KEY.", "--mark"),
    ] = False,
    json: Annotated[bool, option("Print the report as JSON.", "--json")] = False,
) -> None:
    """Show what a file says of its making, by its Content Credentials (C2PA). Nothing is sent anywhere.

    With `--mark` it also decodes the file, in a confined process, and looks for the mark of DUET_SIGNAL_MARK.

    Ends with status 1 if the file was changed after it was signed, or cannot be read.
    """
    from service.credentials.identity import only_certificates
    from service.credentials.reading import UnknownFileError, read_credentials
    from service.sandbox.probe import ProbeUnavailableError

    try:
        trusted = only_certificates(trust.read_bytes()) if trust is not None else ""
    except ValueError as error:
        raise fail(FAILED, f"{trust} holds no certificate in PEM.") from error
    try:
        report = read_credentials(file, trusted)
    except (UnknownFileError, ProbeUnavailableError) as error:
        raise fail(FAILED, f"{file}: {error}") from error
    except OSError as error:
        raise fail(FAILED, f"{file} cannot be read: {error.strerror or error}") from error
    found = _find_marks(file) if mark else None
    if json:
        echo_json(asdict(report) | ({} if found is None else {"mark": found}))
    else:
        for line in (*_lines(report), *_mark_lines(found)):
            echo(line)
    if report.credentials in ("tampered", "unreadable"):
        raise SystemExit(FAILED)


def _find_marks(file: Path) -> dict[str, Any]:
    """As `model.media.marks.find_marks`, in a confined process; and which `key` was used."""
    from model.media.marks import LONGEST, find_marks
    from model.media.source import MediaError
    from service.settings import load_settings
    from workers.decoder import DecoderFault, DecoderLost, clip_bounds, confined_within
    from workers.outputs import mark_key

    settings = load_settings()
    try:
        found = confined_within(clip_bounds(LONGEST), find_marks, file, mark_key(settings))
    except (MediaError, DecoderFault, DecoderLost) as error:
        raise fail(FAILED, f"{file}: no mark can be looked for: {error}") from error
    key = "own" if settings.signal_mark_key.get_secret_value() else "published"
    return {"key": key, **parsed(found)}


def _mark_lines(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    for side in ("picture", "sound"):
        finding = found[side]
        if finding is None:
            why = found["unreadable"].get(side)
            yield f"Mark in the {side}: " + (f"it cannot be looked for: {why}." if why else f"there is no {side}.")
            continue
        said = "found" if finding["found"] else "not found"
        at = f" from {finding['start']:.1f} to {finding['end']:.1f} s" if finding["found"] else ""
        yield (
            f"Mark in the {side}: {said}{at}. Score {finding['score']:.1f} of {finding['threshold']:.1f} needed; the "
            f"chance of it without the mark is about {finding['chance']:.1g}."
        )


def _lines(report: Report) -> Iterator[str]:
    yield _VERDICTS[report.credentials]
    if report.generated is not None:
        yield _GENERATED[report.generated]
    if report.made_by:
        yield f"Made by: {report.made_by}" + (f", model {report.model.name}" if report.model else "")
    if report.signed_by:
        yield f"Signed by: {report.signed_by}" + (f", {report.signed_at}" if report.signed_at else "")
    for action in report.actions:
        yield f"  {action.action}" + (f": {action.description}" if action.description else "")
    for ingredient in report.ingredients:
        yield f"  from {ingredient.media_type}, with credentials: {ingredient.credentials}"
    if report.credentials in ("tampered", "unreadable"):
        yield f"Problems: {', '.join(report.problems)}"
    if report.comment:
        yield f"Comment, not signed: {report.comment}"
