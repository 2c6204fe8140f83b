"""The parameter `webhook`, and which targets are allowed."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr

from service.jobs.deliveries import DUE
from service.jobs.record import Job, Webhook
from service.jobs.store import JobStore
from service.settings import Settings, load_settings
from service.webhooks.dispatcher import secrets_of
from service.webhooks.ssrf import TargetRefused, check_target, is_own, is_public, permitted, plain_url
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.service.new_jobs import a_job, an_ended_job

HOOK = "https://93.184.215.14/hook?token=x"
"""A public address; nothing in these tests sends anything there."""


def due(settings: Settings) -> list[str]:
    """The jobs whose webhook is in the outbox."""
    with redis.Redis.from_url(settings.redis_url) as client:
        ids: Any = client.zrange(DUE, 0, -1)
    return [each.decode() for each in ids]


@pytest.mark.parametrize(
    ("public", "address"),
    [
        (True, "93.184.215.14"),
        (True, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
        (True, "::ffff:93.184.215.14"),
        (True, "64:ff9b::5db8:d70e"),
        (False, "127.0.0.1"),
        (False, "127.8.8.8"),
        (False, "0.0.0.0"),
        (False, "10.1.2.3"),
        (False, "172.16.0.1"),
        (False, "192.168.1.1"),
        (False, "169.254.169.254"),
        (False, "100.64.0.1"),
        (False, "192.0.2.1"),
        (False, "198.18.0.1"),
        (False, "224.0.0.1"),
        (False, "239.1.1.1"),
        (False, "240.0.0.1"),
        (False, "255.255.255.255"),
        (False, "::"),
        (False, "::1"),
        (False, "::127.0.0.1"),
        (False, "::ffff:127.0.0.1"),
        (False, "::ffff:10.0.0.1"),
        (False, "::ffff:169.254.169.254"),
        (False, "64:ff9b::7f00:1"),
        (False, "64:ff9b::a9fe:a9fe"),
        (False, "64:ff9b:1::1"),
        (False, "2002:7f00:1::"),
        (False, "2002:a00:1::"),
        (False, "2001:0:7f00:1::"),
        (False, "2001:db8::1"),
        (False, "fe80::1"),
        (False, "fe80::1%eth0"),
        (False, "fec0::1"),
        (False, "fc00::1"),
        (False, "fd12:3456::1"),
        (False, "ff02::1"),
    ],
)
def test_only_the_public_internet_is_public(public: bool, address: str) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("https://Example.COM/a?b=c", "https://example.com/a?b=c"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f.0.0.1/", "http://127.0.0.1/"),
        ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("https://münchen.example/", "https://xn--mnchen-3ya.example/"),
        ("https://example.com:443/", "https://example.com/"),
    ],
)
def test_addresses_are_normalised(given: str, plain: str) -> None:
    assert plain_url(given) == plain


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https://",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://:password@example.com/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://" + "a" * 2000,
        "https://exa mple.com/",
        "http://1.2.3.4.5/",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        plain_url(url)


def test_a_name_with_public_and_private_addresses_is_refused() -> None:
    assert permitted("x", ["93.184.215.14"], False) == ["93.184.215.14"]
    with pytest.raises(TargetRefused, match="not a public address"):
        permitted("x", ["93.184.215.14", "10.0.0.1"], False)
    with pytest.raises(TargetRefused, match="no address"):
        permitted("x", [], True)
    assert permitted("x", ["10.0.0.1"], True) == ["10.0.0.1"]


@pytest.mark.timed
def test_a_name_is_looked_up_at_submission() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    def later(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    def slow(host: str, port: int) -> list[str]:
        time.sleep(4)
        return ["127.0.0.1"]

    with pytest.raises(TargetRefused, match="there is no host nowhere"):
        check_target("https://nowhere.example/", False, nobody)
    with pytest.raises(TargetRefused, match="not a public address"):
        check_target("https://inside.example/", False, lambda host, port: ["10.0.0.1"])
    check_target("https://outside.example/", False, lambda host, port: ["93.184.215.14"])
    check_target("https://somewhere.example/", False, later)  # the look that counts comes before it is sent
    began = time.monotonic()
    check_target("https://somewhere.example/", False, slow)
    assert time.monotonic() - began < 3


def test_a_job_keeps_its_webhook(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate", json={"webhook": {"url": HOOK, "events": ["failed", "completed", "failed"]}}).json()
    assert job["webhook"] == {"url": HOOK, "events": ["completed", "failed"], "deliveries": []}
    assert client.get(job["urls"]["self"]).json()["webhook"] == job["webhook"]
    assert store.get(job["id"]).webhook == Webhook(HOOK, ("completed", "failed"))
    assert client.post("/generate").json()["webhook"] is None
    every = client.post("/generate", json={"webhook": {"url": HOOK}}).json()
    assert every["webhook"]["events"] == ["completed", "failed", "canceled"]
    assert client.post("/generate", json={"webhook": None}).json()["webhook"] is None


@pytest.mark.parametrize("form", ["params", "webhook"])
@pytest.mark.parametrize(("route", "file"), [("/v2a", media.video()), ("/a2v", media.sound())])
def test_a_form_has_the_webhook_as_json(client: httpx.Client, route: str, file: bytes, form: str) -> None:
    webhook: dict[str, Any] = {"url": HOOK, "events": ["completed"]}
    data = {"params": json.dumps({"seed": 7, "webhook": webhook})} if form == "params" else {}
    data = data or {"seed": "7", "webhook": json.dumps(webhook)}
    answer = client.post(route, files={"file": ("a", file)}, data=data)
    assert answer.status_code == 202, answer.text
    assert answer.json()["webhook"] == {**webhook, "deliveries": []}
    assert answer.json()["params"]["seed"] == 7
    bad = client.post(route, files={"file": ("a", file)}, data={"webhook": '{"url": "ftp://x"}'})
    assert problem(bad, 422, "invalid_parameter")["errors"][0]["field"] == "webhook.url"
    problem(client.post(route, files={"file": ("a", file)}, data={"webhook": "{"}), 400, "malformed")


@pytest.mark.parametrize(
    ("webhook", "field"),
    [
        ("https://example.com/", "webhook"),
        ([], "webhook"),
        ({"url": HOOK, "secret": "x"}, "webhook"),
        ({"events": ["completed"]}, "webhook.url"),
        ({"url": 7}, "webhook.url"),
        ({"url": "ftp://example.com/"}, "webhook.url"),
        ({"url": "https://user:password@93.184.215.14/"}, "webhook.url"),
        ({"url": HOOK, "events": []}, "webhook.events"),
        ({"url": HOOK, "events": ["started"]}, "webhook.events"),
        ({"url": HOOK, "events": "completed"}, "webhook.events"),
        ({"url": HOOK, "events": [7]}, "webhook.events"),
        ({"url": "http://127.0.0.1:6379/"}, "webhook.url"),
        ({"url": "http://localhost/"}, "webhook.url"),
        ({"url": "http://2130706433/"}, "webhook.url"),
        ({"url": "http://[::1]/"}, "webhook.url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "webhook.url"),
        ({"url": "http://169.254.169.254/latest/meta-data/"}, "webhook.url"),
        ({"url": "http://[64:ff9b::a9fe:a9fe]/"}, "webhook.url"),
        ({"url": "http://0.0.0.0/"}, "webhook.url"),
    ],
)
def test_an_invalid_webhook_is_refused(client: httpx.Client, store: JobStore, webhook: object, field: str) -> None:
    answer = client.post("/generate", json={"webhook": webhook})
    errors = problem(answer, 422, "invalid_parameter")["errors"]
    assert [error["field"] for error in errors] == [field]
    assert errors[0]["allowed"]
    assert store.page() == ([], None)


def test_private_addresses_are_allowed_if_all_users_are_trusted(
    settings: Settings, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(settings.model_copy(update={"webhook_allow_private": True}))
    answer = httpx.post(f"{api.url}/generate", json={"webhook": {"url": "http://127.0.0.1:1/"}}, trust_env=False)
    assert answer.status_code == 202


def test_a_retried_job_inherits_the_webhook(client: httpx.Client, store: JobStore) -> None:
    job = client.post("/generate", json={"webhook": {"url": HOOK}}).json()
    client.post(job["urls"]["cancel"])
    again = client.post(job["urls"]["retry"]).json()
    assert again["webhook"] == {**job["webhook"], "deliveries": []}


def ended(store: JobStore, how: str, *events: str) -> Job:
    """A job that has ended so, with a webhook for these ends."""
    return an_ended_job(store, how, webhook=Webhook(HOOK, events) if events else None)


@pytest.mark.parametrize("how", ["completed", "failed", "canceled"])
def test_the_end_of_a_job_enters_its_webhook(store: JobStore, settings: Settings, how: str) -> None:
    others = {"completed", "failed", "canceled"} - {how}
    wanted = ended(store, how, how)
    ended(store, how, *others)
    ended(store, how)
    waiting = a_job(webhook=Webhook(HOOK, ("completed", "failed", "canceled")))
    store.create(waiting)
    store.claim(waiting.id, "a worker")
    assert due(settings) == [wanted.id]


def test_an_erased_job_sends_no_webhook(store: JobStore, settings: Settings) -> None:
    job = ended(store, "completed", "completed")
    store.erase(job.id)
    with redis.Redis.from_url(settings.redis_url) as client:
        assert client.keys("duet:*") == []


def test_all_processes_sign_with_the_same_secret(settings: Settings) -> None:
    drawn = {asyncio.run(secrets_of(settings)) for _ in range(2)}
    ((secret,),) = drawn
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    chosen = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    own = settings.model_copy(update={"webhook_secret": SecretStr(f"{chosen}, {secret}")})
    assert asyncio.run(secrets_of(own)) == (chosen, secret)


def test_a_record_of_an_earlier_version_has_no_webhook(store: JobStore, settings: Settings) -> None:
    job = a_job()
    text = json.loads(job.to_json())
    del text["webhook"]
    assert Job.from_json(json.dumps(text)) == job
    assert Job.from_json(a_job(webhook=Webhook(HOOK, ("failed",))).to_json()).webhook == Webhook(HOOK, ("failed",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook_secret", "whsec_short"),
        ("webhook_secret", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"),
        ("webhook_secret", "whsec_" + "%" * 32),
        ("webhook_secret", "whsec_" + "A" * 32 + " whsec_"),
        ("webhook_retries", "5s soon"),
        ("webhook_timeout", "0"),
        ("public_url", "duet.example"),
        ("public_url", "https://duet.example/?a=b"),
    ],
)
def test_an_error_about_a_secret_does_not_show_it(name: str, value: str) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(**{name: value})
    assert f"DUET_{name.upper()}" in str(end.value)
    assert name != "webhook_secret" or value.split()[0] not in str(end.value)


@pytest.mark.parametrize("url", ["http://a..com/", f"http://{'a' * 64}.com/", "http://.com/"])
def test_an_impossible_host_name_is_refused(client: httpx.Client, url: str) -> None:
    answer = client.post("/generate", json={"webhook": {"url": url}})
    problem(answer, 422, "invalid_parameter")


@pytest.mark.parametrize("address", ["168.63.129.16", "192.88.99.1", "3fff::1", "3fff:fff::1"])
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def test_the_addresses_of_this_machine_are_its_own() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("93.184.215.14"))
