"""`duet models`: list the models of a server."""

from __future__ import annotations

from typing import Annotated, Any

from rich.console import Console

from duet.cli.exit_status import server_errors
from duet.cli.options import CONNECTION, ServerOptions, option
from duet.cli.output import echo, echo_json

SENSES = {"video": "picture", "audio": "sound"}


def models(
    *,
    reload: Annotated[bool, option("First make the server read its folders of models again.")] = False,
    server: ServerOptions = CONNECTION,
) -> None:
    """List the models of the server, and the clips they make."""
    with server_errors(), server.connect() as duet:
        if reload:
            changes = duet.reload_models()
            parts = [f"{what}: {', '.join(changes[what])}" for what in ("added", "changed", "removed") if changes[what]]
            echo("; ".join(parts) or "Nothing has changed.", err=True)
        found = duet.models()
    if server.json:
        echo_json([model.data for model in found])
        return
    for model in found:
        clip = model.data["clip"]
        sizes = " or ".join(f"{size['width']}×{size['height']}" for size in model.data["resolutions"])
        marks = [mark for mark, holds in (("default", model.default), ("untrained", not model.trained)) if holds]
        name = f"{model.name} ({', '.join(marks)})" if marks else model.name
        Console(highlight=False, soft_wrap=True).print(name, style="bold", markup=False)
        echo(f"  {model.description}")
        frames = f"{clip['frames']} frames of {sizes} at {clip['fps']} Hz"
        echo(f"  {frames}, {clip['duration']:g} s, sound at {clip['sample_rate']} Hz")
        methods = ", ".join(dict.fromkeys(name for names in model.guidance.values() for name in names))
        echo(f"  guidance: {methods or 'none'}")
        if near := _distances(model.data):
            echo(f"  differs from a clip of many steps by: {near}")
        if model.text is not None:
            examples = "; ".join(model.text["examples"][:3])
            echo(f"  prompts: {', '.join(model.text['languages'])}" + (f", such as: {examples}" if examples else ""))
            echo(f"  prompt scale: {_scale(model.text)}")
        echo(f"  licence: {model.licence}; weights {model.weights_hash[:16]}…")


def _scale(text: dict[str, Any]) -> str:
    """The default, and in what share of the noise it guides, if the server says so and it is not all."""
    share = text.get("guided_share", 1)
    return f"{text['prompt_scale']:g}" + (f", in the noisier {100 * share:g} %" if share < 1 else "")


def _distances(model: dict[str, Any]) -> str:
    """How far clips of each quality are from those of many steps; empty if the server does not know."""
    known = model.get("distances", {}).get("generate", {})
    parts = []
    for quality, steps in model["qualities"].items() if known else ():
        tuned = known.get(f"tuned {steps['steps']}") if quality != "best" else None
        found = tuned or known.get(f"dpmpp_2m {steps['steps']}", {})
        words = [f"{what} {found[name]:.2f}" for name, what in SENSES.items() if name in found]
        if words:
            parts.append(f"{quality}: {', '.join(words)}")
    return "; ".join(parts)
