"""The parts of a page of documentation that a benchmark writes, between two comments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PageParts:
    """`command` writes the parts of `page`, each under a name."""

    page: Path
    command: str

    def written(self, name: str) -> str:
        """The part `name` as the page has it. Raises ValueError if it has none."""
        begin, end = self._comments(name)
        text = self.page.read_text(encoding="utf-8")
        return text[text.index(begin) + len(begin) : text.index(end)].strip()

    def write(self, parts: Mapping[str, str]) -> None:
        """Replace these parts of the page. Raises ValueError, and writes nothing, if the page lacks one."""
        text = self.page.read_text(encoding="utf-8")
        for name, content in parts.items():
            begin, end = self._comments(name)
            text = f"{text[: text.index(begin)]}{begin}\n\n{content}\n\n{text[text.index(end) :]}"
        self.page.write_text(text, encoding="utf-8")

    def _comments(self, name: str) -> tuple[str, str]:
        return f"<!-- {name}: written by `{self.command}` -->", f"<!-- end of {name} -->"
