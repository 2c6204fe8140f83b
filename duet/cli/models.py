"""`duet models`: what a server can make clips with."""

from __future__ import annotations

import json
import sys

import typer

from duet.cli.dataclass_options import expanded
from duet.cli.failures import failures
from duet.cli.options import At


@expanded
def models(at: At) -> None:
    """List the models of the server, and what they make."""
    with failures(), at.connect() as duet:
        found = duet.models()
    if at.json:
        typer.echo(json.dumps([model.data for model in found], indent=2, ensure_ascii=False))
        return
    for model in found:
        clip = model.data["clip"]
        sizes = " or ".join(f"{size['width']}×{size['height']}" for size in model.data["resolutions"])
        marks = [mark for mark, holds in (("default", model.default), ("untrained", not model.trained)) if holds]
        name = f"{model.name} ({', '.join(marks)})" if marks else model.name
        typer.echo(typer.style(name, bold=True) if sys.stdout.isatty() else name)
        typer.echo(f"  {model.description}")
        frames = f"{clip['frames']} frames of {sizes} at {clip['fps']} Hz"
        typer.echo(f"  {frames}, {clip['duration']:g} s, sound at {clip['sample_rate']} Hz")
        methods = ", ".join(dict.fromkeys(name for names in model.guidance.values() for name in names))
        typer.echo(f"  guidance: {methods or 'none'}")
        typer.echo(f"  licence: {model.licence}; weights {model.weights_hash[:16]}…")
