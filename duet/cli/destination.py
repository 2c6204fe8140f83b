"""Which files a clip is written to. What is there already stays, unless it may be replaced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from duet.cli.failures import FAILED, end

MAIN = {".mp4": "video.mp4", ".wav": "audio.wav"}
"""Which file of an output is meant by the ending of what is to be written."""


@dataclass(frozen=True)
class Destination:
    """`path` for output 0, `clip-1.mp4` for output 1 … With `all_files`, the further files of an output lie beside it
    under the same stem: `clip.wav`, `clip.manifest.json` … `unnamed`: `{seed}` in the name waits for the seed."""

    path: Path
    all_files: bool = False
    force: bool = False
    unnamed: bool = False

    @classmethod
    def choose(cls, output: Path | None, default: str, all_files: bool, force: bool) -> Destination:
        """`output`, or in that folder, or in the current one, `default`, which may have `{seed}` in it.

        Ends the command (exit status 2) if it cannot be a clip.
        """
        named = output is not None and not output.is_dir()
        path = output if output is not None and named else (output or Path()) / default
        if path.suffix.lower() not in MAIN:
            raise typer.BadParameter(f"{path.name} must end in {' or '.join(MAIN)}", param_hint="--output")
        if not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent}", param_hint="--output")
        return cls(path, all_files, force, not named and "{seed}" in default)

    def for_seed(self, seed: int) -> Destination:
        """The same, with the seed in the name if it waits for it."""
        if not self.unnamed:
            return self
        return replace(self, path=self.path.with_name(self.path.name.replace("{seed}", str(seed))), unnamed=False)

    def files(self, index: int, names: Iterable[str]) -> dict[str, Path]:
        """Where the files of these names go, of those of the `index`th output, the one that was asked for first."""
        main = MAIN[self.path.suffix.lower()]
        base = self.path.with_stem(f"{self.path.stem}-{index}") if index else self.path
        found = {main: base}
        if self.all_files:
            found |= {name: base.with_name(self._beside(base.stem, name)) for name in names if name != main}
        return found

    def check(self, count: int, names: Iterable[str] = ()) -> None:
        """End the command if one of the files of `count` outputs is there and must not be replaced."""
        names = tuple(names)
        for index in range(count):
            for path in self.files(index, names).values():
                if path.exists() and not self.force:
                    raise end(FAILED, f"{path} is there already; --force replaces it, -o names another.")

    @staticmethod
    def _beside(stem: str, name: str) -> str:
        kind, _, suffix = name.partition(".")
        return f"{stem}.{suffix}" if name in MAIN.values() else f"{stem}.{kind}.{suffix}"
