"""The OpenAPI description is complete: limits, defaults, descriptions and examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.health import Health
from service.api.models import ModelList, ReloadView
from service.api.openai_errors import VideosError
from service.api.parameters import GenerateParameters
from service.api.problems import ProblemBody
from service.api.study import StudySession, StudyVote
from service.api.verify import VerifyReport
from service.api.videos.view import Video, VideoDeleted, VideoList
from service.app import create_app
from service.jobs.view import OUTPUT_FILES, JobList, JobView
from service.settings import Settings

ANSWERS: dict[str, type[BaseModel]] = {
    "JobView": JobView,
    "JobList": JobList,
    "ModelList": ModelList,
    "ReloadView": ReloadView,
    "Health": Health,
    "VerifyReport": VerifyReport,
    "Video": Video,
    "VideoList": VideoList,
    "VideoDeleted": VideoDeleted,
    "VideosError": VideosError,
    "Problem": ProblemBody,
    "StudySession": StudySession,
    "StudyVote": StudyVote,
}
"""By name of the schema."""

KEY = f"someone:{hashlib.sha256(b'a key').hexdigest()}"


@pytest.fixture(scope="module", params=["", KEY], ids=["without keys", "with keys"])
def description(request: pytest.FixtureRequest) -> dict[str, Any]:
    return create_app(Settings(api_keys=request.param)).openapi()


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation: method and path, and its description."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def resolved(description: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema behind a reference; keys beside the reference take precedence."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = description
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def properties(description: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema and of nested schemas: its path and its description."""
    schema = resolved(description, schema)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from properties(description, choice, at)
    if isinstance(schema.get("items"), dict):
        yield from properties(description, schema["items"], f"{at}[]")
    for name, field in schema.get("properties", {}).items():
        yield f"{at}.{name}", field
        yield from properties(description, field, f"{at}.{name}")


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of a request or a response, by name."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {media_type}", content
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            yield f"{status} {media_type}", content


def choices(field: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field, without null."""
    return [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]


def test_every_operation_has_a_summary_and_a_tag(description: dict[str, Any]) -> None:
    groups = {tag["name"] for tag in description["tags"] if tag["description"]}
    for name, operation in operations(description):
        assert operation["summary"], name
        assert operation["description"].endswith("."), name
        assert set(operation["tags"]) <= groups, name
        assert operation["tags"], name
        for status, answer in operation["responses"].items():
            assert answer["description"], f"{name} → {status}"
            for header, told in answer.get("headers", {}).items():
                assert told["description"], f"{name} → {status} {header}"


def test_every_parameter_has_a_description_and_limits(description: dict[str, Any]) -> None:
    for name, operation in operations(description):
        for parameter in operation.get("parameters", ()):
            where = f"{name} {parameter['in']} {parameter['name']}"
            assert parameter.get("description"), where
            for schema in choices(resolved(description, parameter["schema"])):
                schema = resolved(description, schema)
                limited = {"enum", "pattern", "maxLength", "maximum", "format"} & schema.keys()
                assert limited or "examples" in parameter["schema"], f"{where} takes anything"
                assert {"default", "enum"} & schema.keys() or "examples" in parameter["schema"], (
                    f"{where}: such as what?"
                )


def test_every_field_of_every_body_is_described(description: dict[str, Any]) -> None:
    seen = 0
    for name, operation in operations(description):
        for body, content in contents(operation):
            for at, field in properties(description, content["schema"], f"{name} {body} "):
                assert resolved(description, field).get("description"), f"{at} has no description"
                seen += 1
    assert seen > 300


def test_request_numbers_have_limits_and_request_fields_have_defaults_or_examples(
    description: dict[str, Any],
) -> None:
    for name, operation in operations(description):
        for _, content in operation.get("requestBody", {}).get("content", {}).items():
            for at, field in properties(description, content["schema"], name):
                for choice in choices(field):
                    if choice.get("type") in ("integer", "number"):
                        assert "minimum" in choice, at
                        assert "maximum" in choice or at.endswith(".start"), at
                    if choice.get("type") in ("array", "object"):
                        assert {"maxProperties", "maxItems", "minItems", "required"} & choice.keys(), at
                started = {"default", "examples", "enum"} & field.keys() or field.get("format") == "binary"
                # A form field is present or absent, so null cannot be its default.
                assert started or "if absent" in field["description"] or at.endswith(".params"), at


def test_every_response_has_a_valid_and_complete_example(description: dict[str, Any]) -> None:
    shown = set()
    for name, operation in operations(description):
        for body, content in contents(operation):
            if body.startswith("request ") or not body.endswith("json") or "/files/" in name:
                continue
            schema = resolved(description, content["schema"])
            assert schema.get("examples"), f"{name} {body} has no example"
            for example in schema["examples"]:
                model = ANSWERS[schema["title"]]
                assert model.model_validate(example).model_dump(mode="json") == example, schema["title"]
            shown.add(schema["title"])
    assert shown == ANSWERS.keys()


def test_every_example_of_a_request_is_valid(description: dict[str, Any]) -> None:
    examples = description["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["examples"]

    assert len(examples) >= 3
    for name, example in examples.items():
        assert example["summary"], name
        GenerateParameters.model_validate(example["value"])


def test_the_example_of_a_job_has_the_files_that_jobs_have(description: dict[str, Any]) -> None:
    (example,) = description["components"]["schemas"]["JobView"]["examples"]

    assert set(example["outputs"][0]["files"]) == set(OUTPUT_FILES)


def test_the_description_omits_responses_that_are_never_sent(description: dict[str, Any]) -> None:
    """FastAPI describes its own validation errors by default; this API sends problem+json."""
    text = str(description["paths"])

    assert not {"HTTPValidationError", "ValidationError"} & description["components"]["schemas"].keys()
    assert "HTTPValidationError" not in text
