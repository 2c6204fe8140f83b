"""The table of settings in docs/operations.md, made from the settings themselves.

python -m tests.settings_table        # writes it anew; tests/test_docs.py fails where that is due
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.settings import PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
BEGIN, END = "<!-- settings: written by `python -m tests.settings_table` -->", "<!-- end of settings -->"


def table() -> str:
    """Every setting with its default and meaning, in the order of service/settings.py."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown(field.default)} | {_sentence(field.description or '')} |")
    return "\n".join(lines)


def written() -> str:
    """The table as the page has it. Raises ValueError if the page has none."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def shown(default: Any) -> str:
    """A default as it would be written; empty where the setting is unset."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None or default == "":
        return ""
    if isinstance(default, timedelta):
        seconds = round(default.total_seconds())
        units = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
        default = next(f"{seconds // size}{unit}" for size, unit in units if seconds % size == 0)
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`"


def _sentence(description: str) -> str:
    """On one line, and nothing in it that a table or a page would take for its own."""
    return re.sub(r"\s+", " ", description).replace("|", "\\|").replace("<data>", "`<data>`")


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
