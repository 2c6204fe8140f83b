from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS
from model.request import QUALITIES
from service.api.parameters import GenerateParameters
from service.jobs.record import Job
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service.answers import problem
from tests.service.jobs.test_queue import reading


def test_a_job_is_accepted_and_can_be_followed(client: httpx.Client, store: JobStore) -> None:
    answer = client.post("/generate", json={"seed": 42, "metadata": {"scene": "beach"}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "2"
    assert (job["kind"], job["status"], job["queue_position"], job["progress"]) == ("generate", "queued", 0, 0)
    assert job["metadata"] == {"scene": "beach"}
    assert client.get(answer.headers["location"]).json() == job
    assert store.get(job["id"]).params.seed == 42


def test_every_parameter_is_echoed_as_used(client: httpx.Client) -> None:
    job = client.post("/generate", json={"seed": 1}).json()
    assert job["model"] == "demo"
    assert job["params"] == {
        "seed": 1,
        "num_outputs": 1,
        "sampler": "dpmpp_2m",
        "steps": 20,
        "spacing": "log_snr",
        "super_resolution": True,
        "sr_sampler": "dpmpp_2m",
        "sr_steps": 8,
        "priority": "normal",
    }


def test_models_says_how_near_tuned_clips_are_to_those_of_many_steps(client: httpx.Client) -> None:
    (demo,) = client.get("/models").json()["data"]
    assert set(demo["distances"]) == set(demo["tuned"])
    for job, found in demo["distances"].items():
        assert {f"tuned {steps}" for steps in demo["tuned"][job]} <= set(found)
        for sampler, by_modality in found.items():
            assert set(by_modality) in ({"video", "audio"}, {"video"}, {"audio"}), sampler
            assert all(value > 0 for value in by_modality.values())
        for steps in demo["tuned"][job]:
            assert set(found[f"tuned {steps}"]) == set(found[f"dpmpp_2m {steps}"])


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_quality_sets_the_steps_that_models_lists(client: httpx.Client, quality: str) -> None:
    (demo,) = client.get("/models").json()["data"]
    steps = demo["qualities"][quality]
    used = client.post("/generate", json={"quality": quality}).json()["params"]
    assert (used["quality"], {name: used[name] for name in ("steps", "sr_steps")}) == (quality, steps)
    has = quality != "best" and steps["steps"] in demo["tuned"].get("generate", [])
    assert used["sampler"] == ("tuned" if has else "dpmpp_2m")
    own = {"steps": 3, "sampler": "ddim", "sr_steps": 1}
    used = client.post("/generate", json={"quality": quality, **own}).json()["params"]
    assert {name: used[name] for name in own} == own


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"quality": "fastest"}, "quality"),
        ({"quality": 1}, "quality"),
        ({"sampler": "tuned", "steps": 999}, ("sampler", "steps")),
        ({"sr_sampler": "tuned", "sr_steps": 99}, ("sr_sampler", "sr_steps")),
        ({"sampler": "tuned", "guidance": "decoupling"}, "sampler"),
    ],
)
def test_a_quality_that_there_is_not_is_refused_by_its_field(
    client: httpx.Client, given: dict[str, Any], field: str | tuple[str, ...]
) -> None:
    answer = client.post("/generate", json=given)
    (wrong,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert wrong["field"] in field


def test_a_key_stands_for_the_same_request_as_before_there_was_a_quality() -> None:
    given = {"seed": 7, "steps": 20, "sampler": "dpmpp_2m"}
    assert GenerateParameters(seed=7).asked() == GenerateParameters.model_validate(given).asked()
    assert "quality" not in GenerateParameters(seed=7).asked()
    assert GenerateParameters(seed=7, quality="fast").asked() != GenerateParameters(seed=7).asked()


def test_echoed_parameters_can_be_sent_again(client: httpx.Client) -> None:
    first = client.post("/generate", json={"sampler": "ddim", "num_outputs": 3}).json()
    again = client.post("/generate", json={"model": first["model"], **first["params"]}).json()
    assert again["params"] == first["params"]


def test_the_server_draws_a_seed_that_json_represents_exactly(client: httpx.Client) -> None:
    seeds = {client.post("/generate").json()["params"]["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_an_empty_body_means_the_defaults(client: httpx.Client) -> None:
    assert client.post("/generate").status_code == 202
    assert client.post("/generate", json={}).status_code == 202


def test_a_job_is_queued_with_its_priority(client: httpx.Client, settings: Settings) -> None:
    low = client.post("/generate", json={"priority": "low"}).json()
    high = client.post("/generate", json={"priority": "high"}).json()
    assert (low["queue_position"], high["queue_position"]) == (0, 0)
    assert client.get(low["urls"]["self"]).json()["queue_position"] == 1
    with reading(settings) as messages:
        assert [messages.get(timeout=5).payload[0][0] for _ in range(2)] == [high["id"], low["id"]]


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({"seed": -1}, "seed", "an integer 0 … 9007199254740991"),
        ({"seed": 2**53}, "seed", "an integer 0 … 9007199254740991"),
        ({"seed": "42"}, "seed", "an integer 0 … 9007199254740991"),
        ({"seed": True}, "seed", "an integer 0 … 9007199254740991"),
        ({"seed": 1.5}, "seed", "an integer 0 … 9007199254740991"),
        ({"num_outputs": 9}, "num_outputs", "an integer 1 … 8"),
        ({"steps": 0}, "steps", "an integer 1 … 1000"),
        ({"sampler": "euler"}, "sampler", "one of dpmpp_2m, dpmpp_3m, dpm_solver, unipc, ddim, ddpm, tuned"),
        ({"spacing": None}, "spacing", "one of log_snr, uniform, quadratic"),
        ({"sr_steps": 251}, "sr_steps", "an integer 1 … 250"),
        ({"sr_start": 0}, "sr_start", "an integer 1 … 99999"),
        ({"sr_start": 450.5}, "sr_start", "an integer 1 … 99999"),
        ({"sr_start": 1000}, "sr_start", "sr_start must be 1 … 999 for the model demo; got 1000"),
        ({"sr_start": 500, "sr_sampler": "tuned", "sr_steps": 4}, "sr_start", None),
        ({"super_resolution": "yes"}, "super_resolution", "true or false"),
        ({"priority": "urgent"}, "priority", "one of low, normal, high"),
        ({"metadata": {"a": 1}}, "metadata", None),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", None),
        ({"metadata": {"a": "b" * 513}}, "metadata", None),
        ({"model": "none such"}, "model", "one of demo"),
        ({"eta": 0.5}, "eta", None),
        ({"guidance": "clean"}, "guidance", None),
        ({"start": 1}, "start", None),
        ({"webhook": {}}, "webhook.url", None),
    ],
)
def test_an_invalid_field_is_named_with_the_allowed_values(
    client: httpx.Client, store: JobStore, body: dict[str, Any], field: str, allowed: str | None
) -> None:
    answer = client.post("/generate", json=body)
    code = "unknown_model" if field == "model" else "invalid_parameter"
    errors = problem(answer, 422, code)["errors"]
    assert [error["field"] for error in errors] == [field]
    assert allowed is None or errors[0]["allowed"] == allowed
    assert store.page() == ([], None)


def test_all_invalid_fields_are_named_at_once(client: httpx.Client) -> None:
    errors = problem(client.post("/generate", json={"seed": -1, "steps": 0, "x": 1}), 422, "invalid_parameter")[
        "errors"
    ]
    assert {error["field"]: error["got"] for error in errors} == {"seed": -1, "steps": 0, "x": 1}


def test_the_start_of_super_resolution_stays_with_the_job(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate", json={"quality": "fast", "sr_start": 500}).json()
    used = {"sr_sampler": "dpmpp_2m", "sr_steps": QUALITIES["fast"].sr_steps, "sr_start": 500}
    assert used.items() <= job["params"].items()
    assert store.get(job["id"]).params.sr_start == 500
    assert client.post(f"/jobs/{job['id']}/retry").json()["params"] == job["params"]


def test_jobs_of_before_there_was_a_start_of_super_resolution_are_the_same(
    client: httpx.Client, store: JobStore
) -> None:
    """Their records, and what their Idempotency-Keys stand for."""
    text = store.get(client.post("/generate", json={"seed": 1}).json()["id"]).to_json()
    old = text.replace('"sr_start":null,', "")
    assert len(old) < len(text)
    assert Job.from_json(old) == Job.from_json(text)
    assert "sr_start" not in GenerateParameters(seed=1).asked()
    assert GenerateParameters(seed=1, sr_start=500).asked()["sr_start"] == 500


def test_a_parameter_that_the_model_cannot_serve_is_refused(
    run_api: Callable[[Settings], RunningApi], settings: Settings, tmp_path: Path
) -> None:
    config = replace(PRESETS["tiny"], sr=None)
    folder = tmp_path / "models" / "plain"
    folder.mkdir(parents=True)
    manifest = Manifest("plain", config, trained=False, description="for a test", licence="MIT")
    (folder / "model.json").write_text(manifest.to_json())
    api = run_api(settings.model_copy(update={"models": tmp_path / "models", "default_model": "plain"}))
    answer = httpx.post(f"{api.url}/generate", json={"super_resolution": True}, trust_env=False)
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "super_resolution"
    job = httpx.post(f"{api.url}/generate", trust_env=False).json()
    assert (job["model"], job["params"]["super_resolution"]) == ("plain", False)
    listed = httpx.get(f"{api.url}/models", trust_env=False).json()["data"]
    assert [(model["name"], model["default"]) for model in listed] == [("plain", True), ("demo", False)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(max_examples=150, deadline=None)
@given(body=st.dictionaries(st.sampled_from([*GenerateParameters.model_fields, "file", "", "ü"]), VALUES, max_size=3))
def test_no_body_causes_an_internal_error(shared_client: httpx.Client, body: dict[str, Any]) -> None:
    answer = shared_client.post("/generate", content=json.dumps(body), headers=JSON)
    if answer.status_code != 202:
        problem(answer, 422, answer.json()["code"])
    assert answer.headers["x-request-id"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body", [b"{", b"{'seed': 1}", b"\xff\xfe", b'{"seed": 1}x', b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_not_json_is_malformed(client: httpx.Client, body: bytes) -> None:
    problem(client.post("/generate", content=body, headers=JSON), 400, "malformed")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"3"])
def test_json_other_than_an_object_is_refused(client: httpx.Client, body: bytes) -> None:
    problem(client.post("/generate", content=body, headers=JSON), 422, "invalid_parameter")


@pytest.mark.parametrize("body", [b'{"eta": NaN}', b'{"eta": 1e999}', b'{"sampler": "\\ud800"}', b'{"\\ud800": 1}'])
def test_values_that_json_cannot_represent_are_refused_with_422(client: httpx.Client, body: bytes) -> None:
    problem(client.post("/generate", content=body, headers=JSON), 422, "invalid_parameter")


def test_another_media_type_is_refused(client: httpx.Client) -> None:
    problem(client.post("/generate", data={"seed": "1"}), 415, "unsupported_media_type")


def test_a_huge_body_is_refused_before_it_is_read(client: httpx.Client) -> None:
    problem(client.post("/generate", content=b" " * 2**21, headers=JSON), 413, "too_large")

    def endless() -> Any:
        for _ in range(64):
            yield b" " * 2**16

    problem(client.post("/generate", content=endless(), headers=JSON), 413, "too_large")


@pytest.mark.timed
def test_without_redis_no_job_is_accepted(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    api = run_api(Settings(redis_url=own_redis.url, data=tmp_path / "data"))
    own_redis.stop()
    began = time.monotonic()
    answer = httpx.post(f"{api.url}/generate", trust_env=False)
    assert time.monotonic() - began < 3
    problem(answer, 503, "queue_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    own_redis.start()
    job = httpx.post(f"{api.url}/generate", trust_env=False)
    assert job.status_code == 202
    assert httpx.get(f"{api.url}{job.headers['location']}", trust_env=False).json()["queue_position"] == 0


@pytest.mark.timed
def test_a_silent_redis_delays_a_request_by_seconds_only(
    run_api: Callable[[Settings], RunningApi], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and does not respond, like a hung host
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        api = run_api(Settings(redis_url=url, data=tmp_path / "data"))
        for method, path in (("POST", "/generate"), ("GET", "/jobs")):
            began = time.monotonic()
            answer = httpx.request(method, f"{api.url}{path}", trust_env=False, timeout=60)
            assert time.monotonic() - began < 6
            problem(answer, 503, "store_timeout")


def test_an_api_that_started_without_redis_finds_it_later(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.stop()
    api = run_api(Settings(redis_url=own_redis.url, data=tmp_path / "data"))
    problem(httpx.post(f"{api.url}/generate", trust_env=False), 503, "queue_unavailable")
    own_redis.start()
    assert httpx.post(f"{api.url}/generate", trust_env=False).status_code == 202
