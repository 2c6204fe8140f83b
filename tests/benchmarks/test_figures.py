"""Every figure of the documentation can be made again: its page names the command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FIGURES = Path("docs/figures")


@pytest.mark.parametrize("figure", sorted(path.name for path in FIGURES.iterdir()))
def test_a_page_with_the_figure_names_the_command_that_makes_it(figure: str) -> None:
    """The command has the figure's path, or runs a benchmark that has its name or names it."""
    pages = {path: path.read_text(encoding="utf-8") for path in Path("docs").glob("*.md")}
    shown = [text for text in pages.values() if f"figures/{figure}" in text]
    assert shown, "no page shows it"
    assert any(_commanded(figure, text) for text in shown)


def _commanded(figure: str, page: str) -> bool:
    option = re.search(rf"(--\w+|benchmarks\.\w+) docs/figures/{re.escape(figure)}", page)
    modules = [Path("benchmarks", f"{name}.py") for name in set(re.findall(r"python -m benchmarks\.(\w+)", page))]
    named = [each for each in modules if each.stem == Path(figure).stem or figure in each.read_text(encoding="utf-8")]
    return option is not None or bool(named)
