"""Records of numbers that a decoder process hands back as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Self


@dataclass(frozen=True)
class JsonNumbers:
    """Base of dataclasses whose fields are `int` or `float`."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, TypeError or AttributeError for JSON that is no such record."""
        types = {field.name: int if field.type == "int" else float for field in fields(cls)}
        return cls(**{name: types.get(name, float)(value) for name, value in json.loads(text).items()})
