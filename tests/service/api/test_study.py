"""The page of a study over HTTP: the token is the authority, and grants one rater's clips and votes only."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.jobs.connection import connect
from service.settings import Settings
from service.study.record import Study, clip_key
from service.study.store import StudyStore
from tests.conftest import RunningApi
from tests.service.answers import problem
from tests.service.api.test_studio import linked
from tests.service.keys import client_of, with_keys
from tests.service.study.studies import CLIP, a_study, stored

VOTE = {"video": 4, "sound": 3, "match": 5, "real": True, "revision": 1}


@pytest.fixture
def study(settings: Settings, studies: StudyStore) -> Study:
    return stored(settings, studies, a_study())


def test_a_rater_rates_and_submits(client: httpx.Client, study: Study, studies: StudyStore) -> None:
    rater = study.raters[0]
    link = f"/study/{rater.token}"
    session = client.get(f"{link}/session").json()
    assert session == {"clips": [{"id": clip, "vote": None} for clip in rater.clips], "submitted": False}
    assert problem(client.post(f"{link}/submit"), 409, "votes_missing")["missing"] == 7
    for clip in rater.clips:
        for _ in range(2):
            answer = client.post(f"{link}/votes/{clip}", json=VOTE)
            assert (answer.status_code, answer.json()) == (200, VOTE)
    whole = client.post(f"{link}/votes/{rater.clips[1]}", json=VOTE | {"video": 4.0, "revision": 1.0})
    assert whole.json() == VOTE, "JSON does not tell 4.0 from 4"
    changed = VOTE | {"video": 1, "revision": 2}
    assert client.post(f"{link}/votes/{rater.clips[0]}", json=changed).json() == changed
    assert client.post(f"{link}/votes/{rater.clips[0]}", json=VOTE).json() == changed
    for _ in range(2):
        done = client.post(f"{link}/submit").json()
        assert done["submitted"]
        assert done["clips"][0]["vote"] == changed
    late = client.post(f"{link}/votes/{rater.clips[0]}", json=VOTE | {"revision": 3})
    problem(late, 409, "study_submitted")
    assert studies.ballots("first").submitted == {rater.id}


def test_a_clip_is_sent_whole_and_in_parts(client: httpx.Client, study: Study) -> None:
    rater = study.raters[0]
    url = f"/study/{rater.token}/clips/{rater.clips[0]}.mp4"
    whole = client.get(url)
    assert whole.content == CLIP + rater.clips[0].encode()
    assert whole.headers["content-type"] == "video/mp4"
    part = client.get(url, headers={"Range": "bytes=2-6"})
    assert (part.status_code, part.content) == (206, b"video")
    assert client.head(url).headers["content-length"] == str(len(whole.content))
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    problem(client.get(url, headers={"Range": "bytes=999-"}), 416, "range_not_satisfiable")


def test_nothing_that_a_rater_gets_tells_the_label(client: httpx.Client, study: Study) -> None:
    rater = study.raters[0]
    texts = [client.get(f"/study/{rater.token}").text, client.get(f"/study/{rater.token}/session").text]
    head = client.get(f"/study/{rater.token}/clips/{rater.clips[0]}.mp4").headers
    for text in (*texts[1:], str(head)):
        assert not [word for word in ("ours", "real-", "first", "check", rater.id) if word in text]
    assert not [clip.source for clip in study.clips if clip.source in texts[0]]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b"[" * 900, 400, "malformed"),
        (b"[]", 422, "invalid_parameter"),
        (json.dumps(VOTE | {"video": 0}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"match": 6}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"sound": 3.5}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"sound": "3"}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"real": 1}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"revision": 10**9}).encode(), 422, "invalid_parameter"),
        (json.dumps(VOTE | {"name": "me"}).encode(), 422, "invalid_parameter"),
        (json.dumps({"video": 1}).encode(), 422, "invalid_parameter"),
        (b" " * 2000, 413, "too_large"),
        (b'{"video": "\\ud800"}', 422, "invalid_parameter"),
        (b"\xff", 400, "malformed"),
    ],
)
def test_an_invalid_vote_is_refused(
    client: httpx.Client, study: Study, studies: StudyStore, body: bytes, status: int, code: str
) -> None:
    rater = study.raters[0]
    problem(client.post(f"/study/{rater.token}/votes/{rater.clips[0]}", content=body), status, code)
    assert not studies.ballots("first").votes


@pytest.mark.parametrize("clip", ["none", "..%2f..%2fjobs", "x" * 500, "%00", "*"])
def test_other_clips_are_unknown(client: httpx.Client, study: Study, clip: str) -> None:
    token = study.raters[0].token
    problem(client.post(f"/study/{token}/votes/{clip}", json=VOTE), 404, "not_found")
    problem(client.get(f"/study/{token}/clips/{clip}.mp4"), 404, "not_found")


def test_a_rater_gets_only_the_own_share(client: httpx.Client, settings: Settings, studies: StudyStore) -> None:
    study = stored(settings, studies, a_study("shared", clips=4, raters=4, repeats=1))
    mine, others = study.raters[0], study.raters[1]
    clip = next(each for each in others.clips if each not in mine.clips)
    problem(client.get(f"/study/{mine.token}/clips/{clip}.mp4"), 404, "not_found")
    problem(client.post(f"/study/{mine.token}/votes/{clip}", json=VOTE), 404, "not_found")


PATHS = ("session", "votes/{clip}", "submit", "clips/{clip}.mp4")


def requests(token: str, clip: str) -> list[tuple[str, str]]:
    """Every request that a token grants."""
    methods = {"session": "GET", "votes/{clip}": "POST", "submit": "POST", "clips/{clip}.mp4": "GET"}
    return [(methods[path], f"/study/{token}/{path.replace('{clip}', clip)}") for path in PATHS]


def test_the_token_is_the_authority_also_with_keys(
    run_api: Callable[[Settings], RunningApi], settings: Settings, study: Study
) -> None:
    rater, other = study.raters
    keyed = run_api(with_keys(settings))
    with client_of(keyed, None) as nobody, client_of(keyed, "alice") as alice:
        page = nobody.get(f"/study/{rater.token}")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for method, url in requests(rater.token, rater.clips[0]):
            answer = nobody.request(method, url, json=VOTE if method == "POST" else None)
            assert answer.status_code in (200, 409), url
            assert nobody.request(method, f"/v1{url}", json=VOTE).status_code in (200, 409)
        wrong = [rater.token[:-1], f"{rater.token}x", rater.id, "alice", other.token.swapcase(), study.name, "*", "%00"]
        for token in wrong:
            for method, url in requests(token, rater.clips[0]):
                for caller in (nobody, alice):  # a key adds nothing
                    problem(caller.request(method, url, json=VOTE), 404, "unknown_study")
        for headers in ({"Authorization": f"Bearer {rater.token}"}, {}):
            for path in ("/jobs", "/models", f"/jobs?token={rater.token}", f"/study/{rater.token}/../../jobs"):
                assert nobody.get(path, headers=headers).status_code == 401, path


def test_every_study_route_is_described_as_open_with_its_errors(settings: Settings) -> None:
    paths = create_app(with_keys(settings)).openapi()["paths"]
    mine = {path: operations for path, operations in paths.items() if path.startswith("/study/")}
    assert set(mine) == {f"/study/{{token}}/{path}" for path in PATHS}
    for operations in mine.values():
        for operation in operations.values():
            assert "security" not in operation
            assert {"404", "410", "429", "503"} <= set(operation["responses"])


def test_a_link_has_a_request_rate(run_api: Callable[[Settings], RunningApi], settings: Settings, study: Study) -> None:
    api = run_api(settings.model_copy(update={"max_requests_per_minute": 5}))
    rater, other = study.raters
    with client_of(api, None) as client:
        statuses = [client.get(f"/study/{rater.token}/session").status_code for _ in range(7)]
        assert statuses[:5] == [200] * 5
        limited = client.get(f"/study/{rater.token}/session")
        problem(limited, 429, "rate_limited")
        assert int(limited.headers["retry-after"]) > 0
        assert client.get(f"/study/{other.token}/session").status_code == 200


def test_other_sites_cannot_vote_without_keys(client: httpx.Client, study: Study) -> None:
    rater = study.raters[0]
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"}
    for path in (f"votes/{rater.clips[0]}", "submit"):
        problem(client.post(f"/study/{rater.token}/{path}", json=VOTE, headers=headers), 403, "cross_site")


def test_the_page_of_a_link_that_is_unknown_or_closed(client: httpx.Client, study: Study, studies: StudyStore) -> None:
    """Its words are tested in tests/browser/test_study.py."""
    rater = study.raters[0]
    good, unknown = client.get(f"/study/{rater.token}"), client.get(f"/study/{rater.token}x")
    studies.close("first")
    closed = client.get(f"/study/{rater.token}")
    assert [page.status_code for page in (good, unknown, closed)] == [200, 404, 410]
    for page in (unknown, closed):
        assert page.text == good.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
    for method, url in requests(rater.token, rater.clips[0]):
        problem(client.request(method, url, json=VOTE), 410, "study_closed")


def test_an_erased_clip_is_gone(client: httpx.Client, study: Study, settings: Settings) -> None:
    rater = study.raters[0]
    (settings.data / "storage" / clip_key(study.folder, rater.clips[0])).unlink()
    problem(client.get(f"/study/{rater.token}/clips/{rater.clips[0]}.mp4"), 410, "gone")


def test_the_page_loads_its_own_files_only(client: httpx.Client, study: Study) -> None:
    link = f"{client.base_url}/study/{study.raters[0].token}"
    page = client.get(link)
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "style=" not in page.text
    assert not re.search(r"<script[^>]*>[^<]", page.text)
    names = linked(page.text)
    assert len(names) > 4
    for name in names:
        assert client.get(httpx.URL(link).join(name)).status_code == 200, name
    for file in (files("service") / "study" / "page").iterdir():
        if file.name.endswith(".js"):
            url = httpx.URL(link).join(f"page/{file.name}")
            for imported in re.findall(r'from "(\.[^"]+)"', client.get(url).raise_for_status().text):
                assert client.head(url.join(imported)).status_code == 200, imported
    for hidden in ("study.html", "none.js", "..%2frecord.py", "%2e%2e/record.py"):
        assert client.get(f"/study/page/{hidden}").status_code == 404
    problem(client.get("/study/page/study.html"), 404, "not_found")


def test_no_token_and_no_address_of_a_rater_is_logged(
    client: httpx.Client, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rater = study.raters[0]
    for method, url in [("GET", f"/study/{rater.token}"), *requests(rater.token, rater.clips[0])]:
        client.request(method, url, json=VOTE)
    for mistyped in (f"/study//{rater.token}", f"/Study/{rater.token}", f"/{rater.token}.", f"/v1/x/{rater.token}/y"):
        assert client.get(mistyped).status_code == 404
    client.get("/study/page/main.js")
    records = [record.__dict__ for record in caplog.records if not record.name.startswith("http")]
    logged: list[dict[str, Any]] = [record["msg"] for record in records if isinstance(record["msg"], dict)]
    mine = [entry for entry in logged if entry.get("path", "").startswith("/study/…")]
    assert len(mine) == 5
    assert all(entry["client"] is None for entry in mine)
    assert rater.token not in str(records)


def test_no_personal_data_is_stored(client: httpx.Client, study: Study, settings: Settings) -> None:
    rater = study.raters[0]
    headers = {"User-Agent": "a-browser-of-its-own/7", "X-Forwarded-For": "203.0.113.9"}
    client.post(f"/study/{rater.token}/votes/{rater.clips[0]}", json=VOTE, headers=headers)
    redis = connect(settings)
    stored: Any = redis.hgetall("duet:study:first:votes")
    assert {key.decode(): json.loads(value) for key, value in stored.items()} == {f"{rater.id}:{rater.clips[0]}": VOTE}
    redis.close()


def test_without_redis_the_page_comes_and_tries_again(
    run_api: Callable[[Settings], RunningApi], settings: Settings, study: Study
) -> None:
    api = run_api(settings.model_copy(update={"redis_url": "unix:///nonexistent/redis.sock"}))
    link = f"{api.url}/study/{study.raters[0].token}"
    assert httpx.get(link, trust_env=False).status_code == 200
    problem(httpx.get(f"{link}/session", trust_env=False, timeout=30), 503, "queue_unavailable")
