"""The arguments of a tool call: checked for what the service does not see."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mcp_types import Tool

from duet.client import FieldProblem


class InvalidArgument(Exception):
    """An argument is wrong; the message names it and what is allowed."""

    def __init__(self, name: str, got: Any, allowed: str) -> None:
        super().__init__(str(FieldProblem(name, _short(got), allowed)))


class Arguments:
    """The arguments of one call of `tool`. Null counts as absent."""

    def __init__(self, tool: Tool, given: Mapping[str, Any]) -> None:
        """Raises InvalidArgument for one that the tool does not have, or that it requires."""
        self._schemas = tool.input_schema["properties"]
        self._given = {name: value for name, value in given.items() if value is not None}
        for name, value in self._given.items():
            if name not in self._schemas:
                allowed = ", ".join(self._schemas) or "no arguments"
                raise InvalidArgument(name, value, f"only {allowed}")
        for name in tool.input_schema["required"]:
            if name not in self._given:
                raise InvalidArgument(name, None, self._schemas[name]["description"])

    def text(self, name: str) -> str | None:
        """Take a string. Raises InvalidArgument."""
        value = self._given.pop(name, None)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise InvalidArgument(name, value, self._schemas[name]["description"])
        return value

    def seconds(self, name: str) -> float:
        """Take a number within its limits, by default the schema's default. Raises InvalidArgument."""
        schema = self._schemas[name]
        value = self._given.pop(name, schema["default"])
        least, most = schema["minimum"], schema["maximum"]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= value <= most:
            raise InvalidArgument(name, value, f"a number {least} … {most}, in seconds")
        return float(value)

    def rest(self) -> dict[str, Any]:
        """Those not taken, for the service to check. Objects that a host has sent as text are parsed."""
        return {name: self._parsed(name, value) for name, value in self._given.items()}

    def _parsed(self, name: str, value: Any) -> Any:
        schema = self._schemas[name]
        takes_object = any(each.get("type") == "object" for each in (schema, *schema.get("anyOf", ())))
        if not (takes_object and isinstance(value, str) and value.lstrip().startswith("{")):
            return value
        try:
            return json.loads(value)
        except ValueError:
            return value


def _short(value: Any) -> Any:
    return value[:80] + "…" if isinstance(value, str) and len(value) > 80 else value
