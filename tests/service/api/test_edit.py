"""`POST /edit`: every kind of edit is accepted, recorded and repeated; every impossible one names field and limit."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from service.jobs.store import JobStore
from service.jobs.view import output_files
from tests.service import media
from tests.service.answers import problem


def mask(size: tuple[int, int] = (64, 48), colour: int = 255, format: str = "PNG") -> bytes:
    picture = Image.new("L", size, 0)
    picture.paste(colour, (0, 0, size[0] // 2, size[1] // 2))
    data = io.BytesIO()
    picture.save(data, format)
    return data.getvalue()


def behind_chunk(png: bytes) -> bytes:
    """The PNG with another chunk of 13 bytes before its header: at the header's place, small numbers."""
    body = b"teSt" + bytes([0, 0, 0, 8, 0, 0, 0, 8]) + bytes(5)
    return png[:8] + (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + png[8:]


@pytest.fixture(scope="module")
def film() -> bytes:
    """3 s of 64×48 with sound."""
    return media.video(seconds=3.0, sound=True)


RECTANGLE = {"x": 0.5, "y": 0.5, "width": 0.3, "height": 0.3}


@pytest.mark.parametrize("form", ["fields", "params"])
@pytest.mark.parametrize(
    ("edit", "added", "files"),
    [
        ({"retake": {"audio": [[1.2, 2.0]]}}, {}, {"audio-new.wav"}),
        ({"retake": {"audio": [[0.2, 0.5], [1, 1.5]], "video": [[0.0, 0.4]]}}, {}, {"audio-new.wav"}),
        ({"retake": {"video": [[0.0, 3.0]]}}, {}, set()),
        ({"extend": {"after": 2}}, {}, {"audio-new.wav"}),
        ({"extend": {"before": 0.25, "after": 1}}, {}, {"audio-new.wav"}),
        ({"region": {**RECTANGLE, "start": 0.5, "end": 1.5, "audio": "new"}}, {}, {"audio-new.wav"}),
        ({"region": RECTANGLE}, {"start": 0, "end": 3, "audio": "keep"}, set()),
    ],
)
def test_an_edit_is_recorded_and_retried(
    client: httpx.Client,
    store: JobStore,
    film: bytes,
    edit: dict[str, Any],
    added: dict[str, Any],
    files: set[str],
    form: str,
) -> None:
    """`added`: the defaults that its parameters show."""
    given = edit | {"seed": 3, "steps": 5}
    fields = {name: json.dumps(value) for name, value in given.items()}
    data = fields if form == "fields" else {"params": json.dumps(given)}
    answer = client.post("/edit", files={"file": ("a.mp4", film)}, data=data)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["kind"] == "edit"
    (name,) = edit
    assert job["params"][name] == edit[name] | added
    assert not {"start", "duration"} & set(job["params"])
    record = store.get(job["id"])
    assert set(output_files(record)) >= files
    assert ("audio-new.wav" in output_files(record)) == bool(files)
    again = client.post(f"/jobs/{job['id']}/retry").json()
    assert again["params"] == job["params"]
    assert store.get(again["id"]).edit == record.edit


def test_the_network_sees_the_span_and_a_window_on_each_side(client: httpx.Client, store: JobStore) -> None:
    """A span of half a second of ten: 16 frames at 10 a second before and after it."""
    long = media.video(seconds=10.0, sound=True)
    data = {"retake": json.dumps({"audio": [[5.0, 5.5]]})}
    job = client.post("/edit", files={"file": ("a.mp4", long)}, data=data).json()
    assert job["input"]["used"]["start"] == pytest.approx(3.4)
    assert job["input"]["used"]["duration"] == pytest.approx(3.7)
    record = store.get(job["id"])
    assert (record.params.duration, record.edit and record.edit.length) == (3.7, 10.0)


def test_a_section_of_the_greatest_length_is_repeated(client: httpx.Client, store: JobStore, film: bytes) -> None:
    """Film and addition are 59.95 s at 10 frames a second: 600 frames are allowed, and no more are made."""
    data = {"extend": json.dumps({"before": 28.45, "after": 28.5})}
    job = client.post("/edit", files={"file": ("a.mp4", film)}, data=data).json()
    assert store.get(job["id"]).params.duration == 60.0
    assert client.post(f"/jobs/{job['id']}/retry").status_code == 202
    data = {"extend": json.dumps({"before": 28.45, "after": 28.55})}  # 601 whole frames
    answer = client.post("/edit", files={"file": ("a.mp4", film)}, data=data)
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "extend"


def test_a_mask_is_kept_scaled_and_retried(client: httpx.Client, store: JobStore, film: bytes) -> None:
    picture = mask((32, 32))
    files = {"file": ("a.mp4", film), "mask": ("m.png", picture)}
    answer = client.post("/edit", files=files, data={"region": '{"start": 0.5, "end": 1}'})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["input"]["used"]["notice"] == "The mask of 32×32 pixels was scaled to 64×48."
    assert client.get(job["urls"]["mask"]).content == picture
    again = client.post(f"/jobs/{job['id']}/retry").json()
    client.delete(f"/jobs/{job['id']}")
    assert client.get(again["urls"]["mask"]).content == picture
    assert client.get(f"/jobs/{again['id']}/files/mask.png").headers["content-type"] == "image/png"


def test_an_idempotency_key_stands_for_the_edit_and_its_mask(client: httpx.Client, film: bytes) -> None:
    headers, data = {"Idempotency-Key": "an-edit"}, {"region": "{}", "seed": "1"}
    files = {"file": ("a.mp4", film), "mask": ("m.png", mask())}
    first = client.post("/edit", files=files, data=data, headers=headers).json()
    again = client.post("/edit", files=files, data=data, headers=headers)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first["id"], "true")
    other = files | {"mask": ("m.png", mask(colour=128))}
    problem(client.post("/edit", files=other, data=data, headers=headers), 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("given", "field", "allowed"),
    [
        ({}, "retake", "exactly one of retake, extend and region"),
        ({"retake": {"audio": [[0, 1]]}, "extend": {"after": 1}}, "extend", "exactly one"),
        ({"retake": {}}, "retake", "at least one span"),
        ({"retake": {"audio": []}}, "retake.audio", "1 … 32 spans"),
        ({"retake": {"audio": [[1, 1]]}}, "retake.audio.0", "at least 0.02 s apart"),
        ({"retake": {"audio": [[2, 1]]}}, "retake.audio.0", "[start, end]"),
        ({"retake": {"audio": [[0, 1], [-1, 2]]}}, "retake.audio.1", "[start, end]"),
        ({"retake": {"video": [[0, 1], [0.5, 2]]}}, "retake.video", "in order and apart"),
        ({"retake": {"video": [[0, 1], [2, 3.5]]}}, "retake.video.1", "must end at 3 at most"),
        ({"retake": {"audio": [[0, 3]], "video": [[0, 1.5], [1.5, 3]]}}, "retake", "generate"),
        ({"retake": {"sound": [[0, 1]]}}, "retake", "an object such as"),
        ({"retake": "later"}, "retake", "an object such as"),
        ({"extend": {"before": 0}}, "extend", "needs seconds"),
        ({"extend": {"after": 61}}, "extend.after", "at most 60 s"),
        ({"extend": {"after": -1}}, "extend.after", "0 … 600"),
        ({"extend": {"after": 0.01}}, "extend.after", "at least 0.02 s"),
        ({"extend": {"before": 0.001, "after": 1}}, "extend.before", "at least 0.02 s"),
        ({"extend": {"before": 59, "after": 59}}, "extend", "must lie within 60 s"),
        ({"extend": {"before": 29, "after": 29}}, "extend", "the 3 s of the film between the two ends count"),
        ({"region": {}}, "region.x", "is needed without a mask"),
        ({"region": {**RECTANGLE, "width": 0.6}}, "region.width", "at most 0.5"),
        ({"region": {**RECTANGLE, "height": 0}}, "region.height", "0.01 … 1"),
        ({"region": {**RECTANGLE, "x": 1.5}}, "region.x", "0 … 1"),
        ({"region": {**RECTANGLE, "start": 3.5}}, "region.start", "at most 2.98"),
        ({"region": {**RECTANGLE, "end": 4}}, "region.end", "at most 3"),
        ({"region": {**RECTANGLE, "start": 1, "end": 1}}, "region.end", "after region.start"),
        ({"region": {**RECTANGLE, "audio": "loud"}}, "region.audio", "keep, new"),
        ({"region": {"x": 0, "y": 0, "width": 1, "height": 1, "audio": "new"}}, "region", "generate"),
        ({"retake": {"video": [[0, 1]]}, "mix": "under"}, "mix", "makes no sound"),
        ({"extend": {"after": 1}, "loudness": -20}, "loudness", "beside the own one"),
        ({"retake": {"audio": [[0, 1]]}, "guidance": "gradient"}, "guidance", "pigdm"),
        ({"retake": {"audio": [[0, 1]]}, "duration": 1}, "duration", "only"),
        ({"retake": {"audio": [[0, 1]]}, "start": 1}, "start", "only"),
    ],
)
def test_an_impossible_edit_is_refused(
    client: httpx.Client, store: JobStore, film: bytes, given: dict[str, Any], field: str, allowed: str
) -> None:
    answer = client.post("/edit", files={"file": ("a.mp4", film)}, data={"params": json.dumps(given)})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert error["field"] == field
    assert allowed in error["allowed"]
    assert store.page() == ([], None)


@pytest.mark.parametrize(
    ("data", "code", "allowed"),
    [
        (mask(colour=0), "invalid_parameter", "white where it is new"),
        (mask(format="JPEG"), "undecodable", "a PNG picture"),
        (mask()[:60], "undecodable", "a PNG picture"),
        (b"", "undecodable", "a PNG picture"),
        (behind_chunk(mask((9000, 10))), "undecodable", "a PNG picture"),
        (mask((9000, 10)), "too_many_pixels", "8192×4320"),
    ],
)
def test_a_mask_that_is_none_is_refused(
    client: httpx.Client, store: JobStore, film: bytes, data: bytes, code: str, allowed: str
) -> None:
    files = {"file": ("a.mp4", film), "mask": ("m.png", data)}
    (error,) = problem(client.post("/edit", files=files, data={"region": "{}"}), 422, code)["errors"]
    assert error["field"] == "mask"
    assert allowed in error["allowed"]
    assert store.page() == ([], None)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"region": RECTANGLE}, "region.x"), ({"retake": {"audio": [[0, 1]]}}, "mask"), ({}, "retake")],
)
def test_a_mask_stands_for_a_rectangle(client: httpx.Client, film: bytes, given: dict[str, Any], field: str) -> None:
    files = {"file": ("a.mp4", film), "mask": ("m.png", mask())}
    answer = client.post("/edit", files=files, data={"params": json.dumps(given)})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert error["field"] == field


def test_only_an_edit_takes_a_mask(client: httpx.Client, film: bytes) -> None:
    answer = client.post("/v2a", files={"file": ("a.mp4", film), "mask": ("m.png", mask())})
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "mask"
