"""Paths that a clip is written to. Existing files are kept unless --force is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from duet.cli.exit_status import FAILED, fail, usage_error
from duet.cli.options import OutputOptions

MAIN = {".mp4": "video.mp4", ".wav": "audio.wav"}
"""The file of an output that a suffix selects."""


@dataclass(frozen=True)
class OutputFiles:
    """`path` is for output 0, `clip-1.mp4` for output 1, and so on. With `all_files` the other files of an output get
    the same stem: `clip.wav`, `clip.manifest.json`. `unnamed`: the name contains `{seed}`, which is not yet known."""

    path: Path
    all_files: bool = False
    force: bool = False
    unnamed: bool = False

    @classmethod
    def choose(cls, options: OutputOptions, default: str) -> OutputFiles:
        """The file of --output; if that is a folder or missing, the file `default` there or in the current folder.

        Ends the command (exit status 2) if a clip cannot have that path.
        """
        output = options.output
        named = output is not None and not output.is_dir()
        path = output if output is not None and named else (output or Path()) / default
        if path.suffix.lower() not in MAIN:
            raise usage_error("--output", f"{path.name} must end in {' or '.join(MAIN)}")
        if not path.parent.is_dir():
            raise usage_error("--output", f"there is no folder {path.parent}")
        return cls(path, options.all_files, options.force, not named and "{seed}" in default)

    def for_seed(self, seed: int) -> OutputFiles:
        """The same with the seed in the name, if the name has a place for it."""
        if not self.unnamed:
            return self
        return replace(self, path=self.path.with_name(self.path.name.replace("{seed}", str(seed))), unnamed=False)

    def paths(self, index: int, names: Iterable[str]) -> dict[str, Path]:
        """Paths by file name for the output in place `index`, the main file first."""
        main = MAIN[self.path.suffix.lower()]
        base = self.path.with_stem(f"{self.path.stem}-{index}") if index else self.path
        found = {main: base}
        if self.all_files:
            found |= {name: base.with_name(self._beside(base.stem, name)) for name in names if name != main}
        return found

    def check(self, count: int, names: Iterable[str] = ()) -> None:
        """End the command if a file of the first `count` outputs exists and must not be replaced."""
        names = tuple(names)
        for index in range(count):
            for path in self.paths(index, names).values():
                if path.exists() and not self.force:
                    raise fail(FAILED, f"{path} already exists. Replace it with --force, or choose another with -o.")

    @staticmethod
    def _beside(stem: str, name: str) -> str:
        kind, _, suffix = name.partition(".")
        return f"{stem}.{suffix}" if name in MAIN.values() else f"{stem}.{kind}.{suffix}"
