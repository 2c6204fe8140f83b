"""Prompts: limits, which models take them, how the job shows them, and that no log or trace has them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.networks.config import PRESETS
from model.request import MAX_EVALUATIONS, MAX_PROMPT, clip_of, most_windows
from service.api.parameters import GenerateParameters
from service.app import create_app
from service.jobs.intake import repeat_job
from service.jobs.record import Job
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.tiny_model import TEXT, add_words_model

RAIN = {"prompt": "heavy rain", "negative_prompt": "wind", "prompt_scale": 4.0}


@pytest.fixture(scope="module")
def worded_client(
    shared_redis: RedisServer, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of an API whose default model knows words, and whose model tiny knows none."""
    models = add_words_model(tmp_path_factory.mktemp("models"))
    worded = Settings(redis_url=shared_redis.url, data=shared_data, models=models, default_model="words")
    api = RunningApi(create_app(worded))
    api.start()
    with httpx.Client(base_url=api.url, timeout=30, trust_env=False) as client:
        yield client
    api.stop()


@pytest.fixture
def words(worded_client: httpx.Client, settings: Settings) -> httpx.Client:
    """The same with no jobs and no files yet."""
    return worded_client


def submit(client: httpx.Client, kind: str, params: dict[str, Any], **headers: str) -> httpx.Response:
    """Send a job of this kind, with an upload where it needs one."""
    if kind == "generate":
        return client.post("/generate", json=params, headers=headers)
    if kind == "edit":
        params = {"extend": {"after": 0.5}, **params}
    file = ("film.mp4", media.video(seconds=2.0, sound=True))
    return client.post(f"/{kind}", files={"file": file}, data={"params": json.dumps(params)}, headers=headers)


@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v", "edit"])
def test_a_prompt_is_recorded_shown_and_repeated(words: httpx.Client, store: JobStore, kind: str) -> None:
    answer = submit(words, kind, RAIN | {"prompt": " heavy rain\n"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert {name: job["params"][name] for name in RAIN} == RAIN
    params = store.get(job["id"]).params
    assert (params.prompt, params.negative_prompt, params.prompt_scale) == ("heavy rain", "wind", 4.0)
    assert words.get("/jobs").json()["data"][0]["params"] == job["params"]
    again = words.post(job["urls"]["retry"]).json()
    assert {name: again["params"][name] for name in RAIN} == RAIN


def test_the_scale_is_the_models_where_none_is_given(words: httpx.Client) -> None:
    assert submit(words, "generate", {"prompt": "rain"}).json()["params"]["prompt_scale"] == TEXT.scale


@pytest.mark.parametrize("empty", ["", "  ", " \n", None])
def test_an_empty_prompt_is_absent(words: httpx.Client, empty: str | None) -> None:
    job = submit(words, "generate", {"model": "tiny", "prompt": empty, "negative_prompt": empty}).json()
    assert not RAIN.keys() & job["params"].keys()


def test_form_fields_hold_words_as_they_are(words: httpx.Client) -> None:
    said = 'thunder, "near by" & {loud} – Gewitter 雷'
    data = {"prompt": said, "prompt_scale": "2"}
    job = words.post("/v2a", files={"file": ("film.mp4", media.video())}, data=data).json()
    assert (job["params"]["prompt"], job["params"]["prompt_scale"]) == (said, 2.0)


@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v", "edit"])
def test_a_model_without_text_refuses_prompts_before_anything_is_stored(
    words: httpx.Client, settings: Settings, kind: str
) -> None:
    answer = submit(words, kind, {"model": "tiny", "prompt": "heavy rain"})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert (error["field"], error["got"]) == ("prompt", "heavy rain")
    assert error["allowed"] == "the model tiny knows no words"
    assert words.get("/jobs").json()["data"] == []
    assert not [path for path in settings.data.rglob("*") if path.is_file() and "jobs" in path.parts]


@pytest.mark.parametrize(
    ("params", "field", "allowed"),
    [
        ({"negative_prompt": "wind"}, "negative_prompt", "negative_prompt applies only with prompt"),
        ({"prompt": " ", "prompt_scale": 2}, "prompt_scale", "prompt_scale applies only with prompt"),
        ({"prompt": "x" * 301}, "prompt", "one line of at most 300 characters, without control characters"),
        ({"prompt": "rain", "negative_prompt": "x" * 301}, "negative_prompt", "at most 300 characters"),
        ({"prompt": "rain\nsnow"}, "prompt", "without control characters"),
        ({"prompt": "\x1b[2J"}, "prompt", "without control characters"),
        ({"prompt": "rain\x00"}, "prompt", "without control characters"),
        ({"prompt": "\u202egnp.niar"}, "prompt", "without control characters"),
        ({"prompt": ["rain"]}, "prompt", "one line"),
        ({"prompt": 7}, "prompt", "one line"),
        ({"prompt": "rain", "prompt_scale": 20.5}, "prompt_scale", "a number 0 … 20.0"),
        ({"prompt": "rain", "prompt_scale": -1}, "prompt_scale", "a number 0 … 20.0"),
        ({"prompt": "rain", "sampler": "tuned"}, "sampler", "a prompt unless prompt_scale is 1"),
        ({"prompt": "rain", "prompt_scale": "4"}, "prompt_scale", "a number 0 … 20.0"),
    ],
)
def test_impossible_words_are_refused_by_name(
    words: httpx.Client, params: dict[str, Any], field: str, allowed: str
) -> None:
    (error,) = problem(submit(words, "generate", params), 422, "invalid_parameter")["errors"]
    assert error["field"] == field
    assert allowed in error["allowed"]


def test_half_a_character_is_refused(words: httpx.Client) -> None:
    """JSON can hold half of a surrogate pair, UTF-8 cannot."""
    answer = words.post("/generate", content=rb'{"prompt": "\ud83c"}', headers={"Content-Type": "application/json"})
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "prompt"


@hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(text=st.text(max_size=320))
def test_any_text_is_taken_or_refused_by_name(worded_client: httpx.Client, text: str) -> None:
    answer = worded_client.post("/generate", json={"prompt": text})
    if answer.status_code == 202:
        assert answer.json()["params"].get("prompt", "") == text.strip()
    else:
        assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "prompt"


def test_a_key_stands_for_the_words_that_it_came_with(words: httpx.Client) -> None:
    key = {"Idempotency-Key": "words"}
    first = submit(words, "generate", {"seed": 1, "prompt": "rain"}, **key)
    again = submit(words, "generate", {"seed": 1, "prompt": " rain "}, **key)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    for other in ({"seed": 1, "prompt": "snow"}, {"seed": 1}):
        problem(submit(words, "generate", other, **key), 422, "idempotency_key_reused")


def test_a_request_without_words_is_what_it_was_before_there_were_any() -> None:
    """An Idempotency-Key of an older version stands for the same request."""
    assert GenerateParameters(prompt="", negative_prompt=" ").asked() == GenerateParameters().asked()
    assert not RAIN.keys() & GenerateParameters().asked().keys()


def test_records_without_words_stay_readable(words: httpx.Client, store: JobStore, settings: Settings) -> None:
    job = store.get(submit(words, "generate", {}).json()["id"])
    text = job.to_json()
    old = text.replace(',"prompt":null,"negative_prompt":null,"prompt_scale":null', "")
    assert len(old) < len(text)
    assert Job.from_json(old) == job
    worded = replace(job, params=replace(job.params, **RAIN))
    assert repeat_job(Job.from_json(worded.to_json()), settings).params == worded.params


def test_models_say_which_words_they_know(words: httpx.Client) -> None:
    models = {model["name"]: model for model in words.get("/models").json()["data"]}
    assert models["words"]["text"] == {
        "encoder": TEXT.encoder,
        "languages": ["en"],
        "examples": list(TEXT.examples),
        "prompt_scale": TEXT.scale,
        "guided_share": TEXT.guided_share,
    }
    assert models["tiny"]["text"] is None


def test_a_prompt_counts_twice_in_the_work_of_a_job(words: httpx.Client) -> None:
    clip = PRESETS["tiny"].clip
    windows = most_windows(clip_of(10.0, clip).frames, clip.frames)
    most = MAX_EVALUATIONS // (8 * windows)
    long = {"duration": 10, "num_outputs": 8, "steps": most}
    assert submit(words, "generate", long).status_code == 202
    assert submit(words, "generate", long | {"prompt": "rain", "prompt_scale": 1}).status_code == 202
    refused = problem(submit(words, "generate", long | {"prompt": "rain"}), 422, "invalid_parameter")
    said = f"at most {most // 2} for 8 outputs of {windows} windows, whose guidance counts 2 times; got {most}."
    assert refused["detail"].endswith(said)


def test_the_limit_is_in_the_description(words: httpx.Client) -> None:
    paths = words.get("/openapi.json").json()["paths"]
    for kind in ("generate", "v2a", "a2v", "edit"):
        (body,) = paths[f"/{kind}"]["post"]["requestBody"]["content"].values()
        for name in ("prompt", "negative_prompt"):
            field = body["schema"]["properties"][name]
            (choice,) = [each for each in field.get("anyOf", [field]) if each["type"] != "null"]
            assert choice["maxLength"] == MAX_PROMPT, kind


def test_no_log_line_has_the_words(words: httpx.Client, settings: Settings) -> None:
    """Accepted or refused: prompts are users' words."""
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        for kind in ("generate", "v2a"):
            assert submit(words, kind, {"prompt": "unmistakable rain"}).status_code == 202
            assert submit(words, kind, {"prompt": "unmistakable rain\x07"}).status_code == 422
            assert submit(words, kind, {"model": "tiny", "prompt": "unmistakable rain"}).status_code == 422
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "job accepted" in seen.getvalue()
    assert "unmistakable" not in seen.getvalue()
