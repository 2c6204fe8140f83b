"""A manifest as an order: what has to be asked for to get the same clip again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from duet.client.parameters import Kind

KINDS: tuple[Kind, ...] = ("generate", "v2a", "a2v")


@dataclass(frozen=True)
class Order:
    """One or several clips to make: all outputs of the parameters, or `only` that one.

    `source` is the given video or sound. `weights` is the SHA-256 that the model's weights must have, `versions` and
    `device` what the clip was made with: with others it may differ by rounding.
    """

    kind: Kind
    params: dict[str, Any]
    source: Path | None = None
    only: int | None = None
    weights: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def indices(self) -> tuple[int, ...]:
        """Which outputs are wanted."""
        return tuple(range(self.params.get("num_outputs", 1))) if self.only is None else (self.only,)

    def check_weights(self, name: str, found: str) -> None:
        """Raise ValueError if the model of this name has other weights than the clip was made with."""
        if self.weights is not None and self.weights != found:
            made, here = self.weights[:12], found[:12]
            raise ValueError(f"the clip was made with other weights of the model {name}, {made}…; here are {here}…")


def read_order(path: Path, source: Path | None) -> Order:
    """The order that makes the clip of the manifest at `path`, with the file `source` that it was made from.

    Ends the command (exit status 2) for what is no manifest of Duet, or another file.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, params, index = manifest["kind"], dict(manifest["params"]), int(manifest["output"]["index"])
        name, weights, used = manifest["model"]["name"], manifest["model"]["weights_sha256"], manifest["input"]
        given = None if used is None else (str(used["sha256"]), str(used["filename"]), float(used["used"]["start"]))
        versions = dict(manifest["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{path} is no manifest of a clip: {error!r}", param_hint="--from") from error
    if kind not in KINDS:
        raise typer.BadParameter(f"{path} is of a kind that is not known here: {kind!r}", param_hint="--from")
    if given is not None:
        _check_source(source, *given[:2])
        params["start"] = given[2]
    elif source is not None:
        raise typer.BadParameter(f"the clip of {path} was made from nothing: no file is needed", param_hint="FILE")
    params = {key: value for key, value in params.items() if value is not None}
    if kind == "v2a":
        params.pop("super_resolution", None)
    return Order(kind, params | {"model": name, "num_outputs": index + 1}, source, index, weights, versions)


def _check_source(source: Path | None, sha256: str, filename: str) -> None:
    if source is None:
        raise typer.BadParameter(f"the clip was made from {filename}: give that file too", param_hint="FILE")
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise typer.BadParameter(
            f"{source} is not the file that the clip was made from, {filename}: its SHA-256 is {found[:12]}…, "
            f"the manifest has {sha256[:12]}…",
            param_hint="FILE",
        )
