"""Command line and client know every parameter of the API, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from duet.cli import app
from duet.client import parameters as client
from service.api import parameters as api

KINDS: list[tuple[str, type[BaseModel], Any]] = [
    ("generate", api.GenerateParameters, client.GenerateParameters),
    ("v2a", api.V2AParameters, client.V2AParameters),
    ("a2v", api.A2VParameters, client.A2VParameters),
    ("edit", api.EditParameters, client.EditParameters),
]
OF_THE_COMMAND = {"all", "force", "from", "json", "key", "local", "mask", "output", "url"}
"""Options that are not parameters of the job."""

PARTS = {"extend_before", "new_sound"}
"""Options that are fields of a parameter."""


@pytest.mark.parametrize(("kind", "model", "typed"), KINDS)
def test_the_client_has_the_parameters_of_the_api(kind: str, model: type[BaseModel], typed: Any) -> None:
    further = {"idempotency_key"} if kind == "generate" else {"idempotency_key", "on_upload"}
    further |= {"mask"} if kind == "edit" else set()
    assert set(typed.__annotations__) == set(model.model_fields) | further


@pytest.mark.parametrize(("kind", "model", "typed"), KINDS)
def test_the_command_line_has_the_parameters_of_the_api(kind: str, model: type[BaseModel], typed: Any) -> None:
    names = {name for each in app[kind].assemble_argument_collection() for name in each.names}
    options = {name[2:].replace("-", "_") for name in names if name.startswith("--") and not name.startswith("--no-")}
    assert options - OF_THE_COMMAND - PARTS == set(model.model_fields)
