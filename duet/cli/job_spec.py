"""Which clips a command makes: from its options, or from the manifest of an earlier clip."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.cli.exit_status import usage_error

if TYPE_CHECKING:
    from duet.client.parameters import Kind

KINDS: tuple[Kind, ...] = ("generate", "v2a", "a2v", "edit")


@dataclass(frozen=True)
class JobSpec:
    """One job: all outputs of `params`, or `only` the one of that index.

    `source` is the uploaded video or sound, `mask` the mask of an edit's region. `weights` is the SHA-256 that the
    model's weights must have.
    """

    kind: Kind
    params: dict[str, Any]
    source: Path | None = None
    only: int | None = None
    weights: str | None = None
    mask: Path | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of the outputs to make."""
        return tuple(range(self.params.get("num_outputs", 1))) if self.only is None else (self.only,)

    @property
    def saved(self) -> int:
        """Number of outputs that are saved."""
        return min(len(self.indices), self.params.get("keep", len(self.indices)))

    def check_weights(self, name: str, found: str) -> None:
        """Raise ValueError if the weights of model `name` are not those the clip was made with."""
        if self.weights is not None and self.weights != found:
            made, here = self.weights[:12], found[:12]
            raise ValueError(f"the clip was made with other weights of the model {name}, {made}…; here are {here}…")


def spec_from_manifest(path: Path, source: Path | None, mask: Path | None = None) -> JobSpec:
    """The job that makes the clip of the manifest at `path` again, from the `source` and the `mask` that it was made
    from.

    Ends the command (exit status 2) if it is not a manifest of Duet, or the file is another one.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, params, index = manifest["kind"], dict(manifest["params"]), int(manifest["output"]["index"])
        name, weights, used = manifest["model"]["name"], manifest["model"]["weights_sha256"], manifest["input"]
        given = None if used is None else (str(used["sha256"]), str(used["filename"]), float(used["used"]["start"]))
        masked = None if used is None or "mask" not in used else (str(used["mask"]["sha256"]), used["mask"]["filename"])
    except UnicodeDecodeError as error:  # which would repeat the whole file
        raise usage_error("--from", f"{path} is no text: give the manifest.json of a clip") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise usage_error("--from", f"{path} is not the manifest of a clip: {error!r}") from error
    if kind not in KINDS:
        raise usage_error("--from", f"{path} has the unknown kind {kind!r}")
    if given is not None:
        _check_source("FILE", source, *given[:2])
        if kind == "edit":
            params.pop("duration", None)
        else:
            params["start"] = given[2]
    elif source is not None:
        raise usage_error("FILE", f"the clip of {path} was made from nothing: leave the file out")
    if masked is not None:
        _check_source("--mask", mask, *masked)
    elif mask is not None:
        raise usage_error("--mask", f"the clip of {path} was made without a mask: leave it out")
    params = {key: value for key, value in params.items() if value is not None}
    for name_of in ("keep", "rank_by", *(("super_resolution",) if kind == "v2a" else ())):
        params.pop(name_of, None)
    return JobSpec(kind, params | {"model": name, "num_outputs": index + 1}, source, index, weights, mask)


def _check_source(name: str, source: Path | None, sha256: str, filename: str) -> None:
    if source is None:
        raise usage_error(name, f"the clip was made from {filename}: give that file too")
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise usage_error(
            name,
            f"{source} is not the file that the clip was made from, {filename}: its SHA-256 is {found[:12]}…, "
            f"the manifest has {sha256[:12]}…",
        )
