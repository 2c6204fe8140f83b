"""The parameters of a mix: accepted in every form, recorded, repeated, and refused with the limit."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.jobs.store import JobStore
from service.jobs.view import output_files
from tests.service import media
from tests.service.answers import problem


@pytest.fixture(scope="module")
def film() -> bytes:
    return media.video(seconds=3.0, sound=True)


@pytest.mark.parametrize("mix", ["under", "over", {"own": -6, "new": 1.5}])
@pytest.mark.parametrize("form", ["fields", "params"])
def test_a_mix_is_recorded_and_retried(client: httpx.Client, store: JobStore, film: bytes, mix: Any, form: str) -> None:
    given = {"mix": mix, "loudness": -23, "true_peak": -2, "seed": 3}
    fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    data = fields if form == "fields" else {"params": json.dumps(given)}
    answer = client.post("/v2a", files={"file": ("a.mp4", film)}, data=data)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert {name: job["params"][name] for name in given} == given
    assert "audio-new.wav" in output_files(store.get(job["id"]))
    assert client.get(f"/jobs/{job['id']}/files/audio-new.wav").status_code == 409
    again = client.post(f"/jobs/{job['id']}/retry").json()
    assert again["params"] == job["params"]


def test_without_a_mix_nothing_is_different(client: httpx.Client, store: JobStore, film: bytes) -> None:
    job = client.post("/v2a", files={"file": ("a.mp4", film)}, data={"mix": "replace"}).json()
    assert not {"mix", "loudness", "true_peak"} & set(job["params"])
    assert "audio-new.wav" not in output_files(store.get(job["id"]))
    assert client.get(f"/jobs/{job['id']}/files/audio-new.wav").status_code == 404


def test_a_key_of_before_there_were_mixes_still_stands_for_its_request(client: httpx.Client, film: bytes) -> None:
    headers, files = {"Idempotency-Key": "a-key"}, {"file": ("a.mp4", film)}
    first = client.post("/v2a", files=files, data={"seed": "1"}, headers=headers).json()
    again = client.post("/v2a", files=files, data={"seed": "1", "mix": "replace"}, headers=headers)
    assert again.json()["id"] == first["id"]
    other = client.post("/v2a", files=files, data={"seed": "1", "mix": "under"}, headers=headers)
    assert problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("given", "field", "allowed"),
    [
        ({"mix": "louder"}, "mix", "one of replace, under, over"),
        ({"mix": 3}, "mix", "one of replace, under, over"),
        ({"mix": {"own": -6}}, "mix.new", "-60 … 20"),
        ({"mix": {"own": -61, "new": 0}}, "mix.own", "-60 … 20"),
        ({"mix": {"own": 0, "new": 0, "old": 0}}, "mix", "gains in dB"),
        ({"loudness": -4}, "loudness", "-60.0 … -5.0"),
        ({"true_peak": 1}, "true_peak", "-20.0 … 0.0"),
    ],
)
def test_a_mix_beyond_the_limits_is_refused(
    client: httpx.Client, film: bytes, given: dict[str, Any], field: str, allowed: str
) -> None:
    answer = client.post("/v2a", files={"file": ("a.mp4", film)}, data={"params": json.dumps(given)})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert error["field"] == field
    assert allowed in error["allowed"]


@pytest.mark.parametrize("mix", ["under", "over", '{"own": 0, "new": 0}'])
def test_a_file_without_sound_has_nothing_to_mix_with(client: httpx.Client, store: JobStore, mix: str) -> None:
    answer = client.post("/v2a", files={"file": ("a.mp4", media.video())}, data={"mix": mix})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert (error["field"], error["allowed"]) == ("mix", "mix must be replace for a file without sound")
    assert store.page() == ([], None)
