"""`duet verify`: what a file says of its making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

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
    json: Annotated[bool, option("Print the report as JSON.", "--json")] = False,
) -> None:
    """Show what a file says of its making, by its Content Credentials (C2PA). Nothing is sent anywhere.

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
    if json:
        echo_json(asdict(report))
    else:
        for line in _lines(report):
            echo(line)
    if report.credentials in ("tampered", "unreadable"):
        raise SystemExit(FAILED)


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
