"""Delivery of webhooks: from a job's end to a real receiver, by the process that users run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import redis
import redis.asyncio
from standardwebhooks import Webhook as Standard
from standardwebhooks.webhooks import WebhookVerificationError

from service.jobs.connection import connect, connect_async
from service.jobs.deliveries import DUE, Delivery
from service.jobs.record import Job, Webhook
from service.jobs.store import JobStore
from service.settings import Settings
from service.webhooks.dispatcher import LONGEST_PAUSE, next_pause
from service.webhooks.outbox import Outbox
from service.webhooks.sender import Answer, Sender
from tests.conftest import RedisServer, RunningApi
from tests.processes import ModuleProcess
from tests.service.certificates import self_signed
from tests.service.new_jobs import an_ended_job
from tests.service.webhooks.receiver import Received, Receiver, Reply
from tests.waiting import until

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
ENDS = ("completed", "failed", "canceled")
FAST = {"webhook_allow_private": True, "webhook_secret": SECRET, "webhook_retries": "0.2s 0.2s", "webhook_timeout": 2}


class DelivererProcess(ModuleProcess):
    """`duet webhooks`, as a user starts it."""

    def __init__(self, redis_url: str, log: Path, **settings: object) -> None:
        values = {"redis_url": redis_url, **FAST, **settings}
        environment = {f"DUET_{name.upper()}": str(value) for name, value in values.items()}
        super().__init__(["duet", "webhooks"], environment, log)
        until(self._runs, "webhooks are sent", 30)

    def _runs(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "webhooks are sent" in self.log.read_text()


Start = Callable[..., DelivererProcess]


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts deliverers; those that still run after the test are stopped."""
    with ExitStack() as running:

        def start(**settings: object) -> DelivererProcess:
            process = DelivererProcess(str(settings.pop("redis_url", redis_url)), tmp_path / "webhooks.log", **settings)
            running.callback(process.stop, signal.SIGKILL)
            return process

        yield start


def ended(store: JobStore, url: str, how: str = "completed", events: tuple[str, ...] = ENDS) -> Job:
    """A job that has just ended, whose owner wants to hear of it."""
    return an_ended_job(store, how, webhook=Webhook(url, events))


def tried(store: JobStore, job: Job, times: int) -> list[Delivery]:
    """The log of the job's webhook once it has so many entries."""
    until(lambda: len(list(store.look(job.id).deliveries)) >= times, f"the webhook was tried {times} times")
    return list(store.look(job.id).deliveries)


def outbox_is_empty(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.zcard(DUE) == 0


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_job_arrives_signed(
    client: httpx.Client, store: JobStore, start: Start, redis_url: str, how: str
) -> None:
    start()
    with Receiver() as receiver:
        job = ended(store, f"{receiver.url}?token=s3cret", how)
        (delivery,) = tried(store, job, 1)
        (received,) = receiver.received
    assert received.path == "/hook?token=s3cret"
    body = Standard(SECRET).verify(received.body, received.headers)
    assert (received.headers["content-type"], received.headers["host"]) == (
        "application/json",
        f"127.0.0.1:{receiver.port}",
    )
    assert received.headers["webhook-id"] == f"msg_{job.id.removeprefix('job_')}"
    assert (body["type"], body["timestamp"]) == (f"job.{how}", body["data"]["completed_at"])
    shown = client.get(f"/jobs/{job.id}").json()
    log = shown["webhook"].pop("deliveries")
    assert body["data"]["webhook"].pop("deliveries") == []
    assert body["data"] == shown, "the job as GET gives it"
    assert [
        (each["event"], each["attempt"], each["status"], each["error"], each["next_attempt_at"]) for each in log
    ] == [(how, 1, 200, None, None)]
    assert abs(delivery.at - datetime.now(UTC)) < timedelta(seconds=20)
    until(lambda: outbox_is_empty(redis_url), "the outbox is empty")
    with pytest.raises(WebhookVerificationError):
        Standard(SECRET).verify(received.body.replace(b"demo", b"omed"), received.headers)


def test_links_are_absolute_with_a_public_url(store: JobStore, start: Start) -> None:
    start(public_url="https://duet.example/")
    with Receiver() as receiver:
        job = ended(store, receiver.url)
        tried(store, job, 1)
        data = json.loads(receiver.received[0].body)["data"]
    assert data["urls"]["self"] == f"https://duet.example/jobs/{job.id}"
    assert data["outputs"][0]["files"]["video.mp4"] == f"https://duet.example/jobs/{job.id}/files/video.mp4"


def test_two_secrets_are_valid_during_a_rotation(store: JobStore, start: Start) -> None:
    old = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    start(webhook_secret=f"{SECRET} {old}")
    with Receiver() as receiver:
        tried(store, ended(store, receiver.url), 1)
        (received,) = receiver.received
    for secret in (SECRET, old):
        Standard(secret).verify(received.body, received.headers)


def test_a_failed_delivery_is_retried_with_the_same_message(store: JobStore, start: Start, redis_url: str) -> None:
    start()
    with Receiver(Reply(500), Reply(503), Reply(204, body=b"")) as receiver:
        job = ended(store, receiver.url)
        first, second, third = tried(store, job, 3)
    assert [(each.attempt, each.status) for each in (first, second, third)] == [(1, 500), (2, 503), (3, 204)]
    assert first.error == "the receiver answered 500"
    assert first.at < first.next_attempt_at <= second.at + timedelta(milliseconds=50)
    assert (third.error, third.next_attempt_at) == (None, None)
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert len({received.body for received in receiver.received}) == 1
    assert receiver.received[1].at - receiver.received[0].at >= 0.2
    until(lambda: outbox_is_empty(redis_url), "the outbox is empty")


def test_a_webhook_is_given_up_after_the_last_pause_or_a_410(store: JobStore, start: Start, redis_url: str) -> None:
    start()
    with Receiver(Reply(400)) as failing, Receiver(Reply(410)) as gone:
        hopeless, unwanted = ended(store, failing.url), ended(store, gone.url)
        assert [each.next_attempt_at is None for each in tried(store, hopeless, 3)] == [False, False, True]
        (only,) = tried(store, unwanted, 1)
        until(lambda: outbox_is_empty(redis_url), "the outbox is empty")
        time.sleep(0.6)
        assert (len(failing.received), len(gone.received)) == (3, 1)
    assert (only.status, only.next_attempt_at) == (410, None)


def test_a_receiver_can_ask_for_a_longer_pause(store: JobStore, start: Start) -> None:
    start()
    with Receiver(Reply(429, {"Retry-After": "2"}), Reply()) as receiver:
        first, _ = tried(store, ended(store, receiver.url), 2)
        assert 1.9 < receiver.received[1].at - receiver.received[0].at < 6
    assert first.status == 429


def test_pauses_have_bounds() -> None:
    assert next_pause(Answer(200), (5.0,)) is None
    assert next_pause(Answer(410, "gone"), (5.0,)) is None
    assert next_pause(Answer(500, "broken"), ()) is None
    assert all(5 <= (next_pause(Answer(500, "broken"), (5.0, 300.0)) or 0) <= 5.5 for _ in range(50))
    assert next_pause(Answer(503, "busy", 60.0), (5.0,)) == 60
    assert next_pause(Answer(503, "busy", 1.0), (5.0,)) >= 5  # type: ignore[operator]
    assert next_pause(Answer(503, "busy", -1e9), (5.0,)) >= 5  # type: ignore[operator]
    assert next_pause(Answer(503, "busy", 1e9), (5.0,)) == LONGEST_PAUSE.total_seconds()


def test_redirects_are_not_followed(store: JobStore, start: Start) -> None:
    start(webhook_retries="")
    with Receiver() as inside, Receiver(Reply(307, {"Location": inside.url})) as receiver:
        (only,) = tried(store, ended(store, receiver.url), 1)
        assert (only.status, only.error) == (307, "redirects are not followed")
        assert inside.received == []


@pytest.mark.timed
def test_a_dead_target_does_not_delay_others(store: JobStore, start: Start, client: httpx.Client) -> None:
    """Neither the job, which has ended all the same, nor the webhooks of others."""
    start(webhook_timeout=5)
    with socket.create_server(("127.0.0.1", 0)) as silent, Receiver() as receiver:
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}/"  # takes connections and says nothing
        stuck = [ended(store, nowhere) for _ in range(40)]
        assert client.get(f"/jobs/{stuck[0].id}").json()["status"] == "completed"
        began = time.monotonic()
        tried(store, ended(store, receiver.url), 1)
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("what", ["nobody listens", "no HTTP", "silence", "endless"])
def test_failures_are_described_in_words(store: JobStore, start: Start, what: str) -> None:
    words = {"nobody listens": "ConnectError", "no HTTP": "RemoteProtocolError", "silence": "no answer within 1 s"}
    start(webhook_retries="", webhook_timeout=1)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        if what == "nobody listens":
            server.close()
        job = ended(store, url)
        if what in ("no HTTP", "endless"):
            connection = stack.enter_context(server.accept()[0])
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-x\r\n\r\n" if what == "no HTTP" else b"HTTP/1.1 200 OK\r\n\r\nthanks ")
        (only,) = tried(store, job, 1)
    if what == "endless":  # it said that it has it, and what it says then is of no interest
        assert (only.status, only.error) == (200, None)
    else:
        assert only.status is None
        assert only.error.startswith(words[what])


def test_a_response_is_read_up_to_a_limit(store: JobStore, start: Start) -> None:
    process = start()
    with Receiver(Reply(200, body=b"x" * 50_000_000)) as receiver:
        before = _memory(process.process.pid)
        for _ in range(3):
            assert tried(store, ended(store, receiver.url), 1)[0].status == 200
        assert _memory(process.process.pid) - before < 10_000_000


def _memory(pid: int) -> int:
    """Bytes that are resident."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_sender_that_dies_loses_nothing(store: JobStore, start: Start, redis_url: str) -> None:
    """kill -9 between the receiver's answer and the word of it: it comes twice, and not never."""
    killed: list[float] = []
    first = start(webhook_timeout=1)

    def answer(received: Received) -> Reply:
        if not killed:
            first.process.kill()
            killed.append(time.monotonic())
        return Reply()

    with Receiver(answer=answer) as receiver:
        job = ended(store, receiver.url)
        until(lambda: killed, "the webhook is being sent")
        first.process.wait(10)
        assert list(store.look(job.id).deliveries) == []
        start(webhook_timeout=1)
        with redis.Redis.from_url(redis_url) as client:  # as if the time of the claim were over
            client.zadd(DUE, {job.id: int(time.time() * 1000)}, xx=True)
        (delivery,) = tried(store, job, 1)
        assert (delivery.status, delivery.attempt) == (200, 1)
        assert len(receiver.received) == 2
        assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


def test_several_senders_send_each_webhook_once(store: JobStore, start: Start, redis_url: str) -> None:
    for _ in range(3):
        start()
    with Receiver() as receiver:
        jobs = [ended(store, receiver.url) for _ in range(60)]
        for job in jobs:
            tried(store, job, 1)
        assert len(receiver.received) == 60
        assert {received.headers["webhook-id"] for received in receiver.received} == {
            f"msg_{job.id.removeprefix('job_')}" for job in jobs
        }
    assert outbox_is_empty(redis_url)


def test_a_late_outcome_is_not_recorded(store: JobStore, settings: Settings) -> None:
    job = ended(store, "https://93.184.215.14/")

    async def race() -> tuple[bool, bool]:
        client = connect_async(settings)
        outbox = Outbox(client)
        slow = await outbox.claim(0.05)
        assert slow is not None
        assert await outbox.claim(5) is None, "it is claimed"
        await asyncio.sleep(0.1)
        quick = await outbox.claim(5)
        assert quick is not None
        delivery = Delivery(datetime.now(UTC), "completed", 1, 500, "the receiver answered 500", None)
        try:
            return await outbox.settle(slow, delivery, None), await outbox.settle(quick, delivery, 3600)
        finally:
            await client.aclose()

    assert asyncio.run(race()) == (False, True)
    assert len(list(store.look(job.id).deliveries)) == 1


def test_a_job_erased_during_delivery_leaves_nothing(store: JobStore, start: Start, redis_url: str) -> None:
    process = start()
    with Receiver(Reply(500, pause=0.5)) as receiver:
        job = ended(store, receiver.url)
        until(lambda: receiver.received, "it is being sent")
        store.erase(job.id)
        until(lambda: "erased" in process.log.read_text(), "the deliverer has seen that")
    with redis.Redis.from_url(redis_url) as client:
        assert [key for key in client.keys("duet:*") if b"secret" not in key] == []


def test_the_sender_survives_an_outage_of_redis(own_redis: RedisServer, start: Start) -> None:
    process = start(redis_url=own_redis.url)
    own_redis.kill()
    until(lambda: "wait for Redis" in process.log.read_text(), "it has noticed")
    own_redis.start()
    with Receiver() as receiver:
        store = JobStore(connect(Settings(redis_url=own_redis.url)))
        assert tried(store, ended(store, receiver.url), 1)[0].status == 200
    assert process.stop() == 0


@pytest.mark.parametrize("member", ["job_that_never_was", b"\xff\xfe"])
def test_an_entry_without_a_job_stops_nothing(store: JobStore, start: Start, redis_url: str, member: str) -> None:
    with redis.Redis.from_url(redis_url) as client, Receiver() as receiver:
        client.zadd(DUE, {member: 1})
        process = start()
        ended(store, receiver.url)
        until(lambda: receiver.received, "the webhook arrives")
        assert process.process.poll() is None
        if isinstance(member, str):
            until(lambda: outbox_is_empty(redis_url), "the entry is dropped")


def test_the_sender_finishes_attempts_before_it_ends(store: JobStore, start: Start) -> None:
    process = start()
    with Receiver(Reply(200, pause=1)) as receiver:
        job = ended(store, receiver.url)
        until(lambda: receiver.received, "it is being sent")
        assert process.stop() == 0
    assert [each.status for each in list(store.look(job.id).deliveries)] == [200]


def test_the_log_has_neither_the_secret_nor_path_and_query(store: JobStore, start: Start) -> None:
    process = start()
    with Receiver() as receiver:
        job = ended(store, f"{receiver.url}?token=s3cret")
        tried(store, job, 1)
        until(lambda: job.id in process.log.read_text(), "it is in the log")
    text = process.log.read_text()
    assert receiver.url.removesuffix("/hook") in text
    assert "/hook" not in text
    assert "s3cret" not in text
    assert SECRET.removeprefix("whsec_") not in text


def test_the_secret_is_shown_to_the_operator(redis_url: str) -> None:
    command = [sys.executable, "-m", "duet", "webhooks", "--secret"]
    environment = {**os.environ, "DUET_REDIS_URL": redis_url}
    first, second = (subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert len(base64.b64decode(first.stdout.strip().removeprefix("whsec_"))) == 32
    away = subprocess.run(
        command, env={**environment, "DUET_REDIS_URL": "redis://127.0.0.1:1"}, capture_output=True, text=True
    )
    assert away.returncode == 1
    assert "does not answer" in away.stderr


def test_the_sender_needs_no_torch() -> None:
    loaded = "[name for name in ('torch', 'av', 'numpy') if name in sys.modules]"
    code = f"import service.webhooks.dispatcher, sys; print({loaded})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_private_target_is_also_refused_at_delivery(store: JobStore, start: Start) -> None:
    """The record may say what submission would refuse: another setting was in force, or the name leads elsewhere."""
    start(webhook_allow_private=False, webhook_retries="")
    with Receiver() as receiver:
        for url in (receiver.url, f"http://localhost:{receiver.port}/", f"http://[::ffff:127.0.0.1]:{receiver.port}/"):
            (only,) = tried(store, ended(store, url), 1)
            assert only.status is None
            assert only.error.startswith("not sent: ")
            assert "not a public address" in only.error
        assert receiver.received == []


def post(sender: Sender, url: str) -> Answer:
    return asyncio.run(sender.post(url, {"webhook-id": "msg_x"}, b"{}"))


def test_dns_rebinding_has_no_effect() -> None:
    """DNS rebinding: public when it is judged, this machine when it is connected to. It is looked up once only."""
    with Receiver() as receiver:
        looks: list[str] = []

        def rebinding(host: str, port: int) -> list[str]:
            looks.append(host)
            return ["192.0.2.1" if len(looks) == 1 else "127.0.0.1"]

        trusting = Sender(1, True, rebinding)
        assert post(trusting, f"http://inside.example:{receiver.port}/").status is None
        assert looks == ["inside.example"], "what was looked up first is what is connected to"
        assert receiver.received == []
        assert post(trusting, f"http://inside.example:{receiver.port}/").status == 200
        assert receiver.received[0].headers["host"] == f"inside.example:{receiver.port}"

        guarded = Sender(1, False, lambda host, port: ["127.0.0.1"])
        answer = post(guarded, f"http://inside.example:{receiver.port}/")
        assert answer.error == "not sent: inside.example is not a public address"
        both = Sender(1, False, lambda host, port: ["93.184.215.14", "127.0.0.1"])
        assert (post(both, f"http://inside.example:{receiver.port}/").error or "").startswith("not sent")
        assert len(receiver.received) == 1


def test_of_several_addresses_the_one_that_answers_is_taken() -> None:
    with Receiver() as receiver:
        sender = Sender(5, True, lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"])
        assert post(sender, f"http://inside.example:{receiver.port}/").status == 200


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert post(Sender(5, True), receiver.url).status == 200
        assert (len(receiver.received), len(proxy.received)) == (1, 0)


def test_tls_checks_the_name_and_not_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(self_signed("hooks.example"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, _: names.append(name)
    with Receiver() as receiver:
        receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
        sender = Sender(5, True, lambda host, port: ["127.0.0.1"])
        assert "CERTIFICATE_VERIFY_FAILED" in (post(sender, f"https://hooks.example:{receiver.port}/").error or "")
        sender._tls.load_verify_locations(certificate)
        assert post(sender, f"https://hooks.example:{receiver.port}/").status == 200
        assert names[-1] == "hooks.example"
        assert "mismatch" in (post(sender, f"https://other.example:{receiver.port}/").error or "").lower()


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for given, seconds in {"120": 120.0, soon: 100.0, "soon": None, "-5": None}.items():
        with Receiver(Reply(503, {"Retry-After": given})) as receiver:
            answer = post(Sender(5, True), receiver.url)
        assert answer.status == 503
        assert answer.retry_after == (pytest.approx(seconds, abs=3) if seconds else None)


def test_from_a_request_to_its_webhook(
    settings: Settings, store: JobStore, start: Start, run_api: Callable[[Settings], RunningApi]
) -> None:
    start()
    api = run_api(settings.model_copy(update={"webhook_allow_private": True}))
    with Receiver() as receiver, httpx.Client(base_url=api.url, trust_env=False) as client:
        webhook = {"url": receiver.url, "events": ["canceled"]}
        job = client.post("/generate", json={"webhook": webhook}).json()
        client.post(job["urls"]["cancel"])
        tried(store, store.get(job["id"]), 1)
        assert json.loads(receiver.received[0].body)["data"]["id"] == job["id"]
        (logged,) = client.get(job["urls"]["self"]).json()["webhook"]["deliveries"]
        assert (logged["event"], logged["status"]) == ("canceled", 200)
