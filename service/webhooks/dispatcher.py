"""The process that sends webhooks: takes what is due from the outbox, sends it, writes down what came of it.

It has no part in any job, and no torch: however slow or dead the receivers are, they keep each other waiting at most.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from service.jobs.connection import StoreUnavailable, connect_async
from service.jobs.deliveries import Delivery
from service.jobs.record import Job, UnreadableRecord
from service.log import configure_logging, log
from service.metrics.exporter import Exporter
from service.settings import Settings
from service.webhooks.metrics import WebhookMetrics
from service.webhooks.outbox import Claim, Outbox, signing_secrets
from service.webhooks.sender import Answer, Sender
from service.webhooks.signing import message, signed_headers

SIDE_BY_SIDE = 32
"""Webhooks that one process sends at a time."""

TO_ONE_HOST = 4
"""Of which so many to one host, so that a dead one with many jobs leaves room for the others."""

LONGEST_PAUSE = timedelta(days=1)
"""However long a receiver would have us wait."""

_LOOK_S = 0.25
"""Seconds between two looks into the outbox."""

_AGAIN_S = 0.5
_LAST_S = 5.0
"""Seconds that what is under way has to come to its end, when the process is asked to stop."""

_UNREADABLE_S = 3600.0
"""Seconds until the webhook of a job is tried again whose record this version cannot read."""

_MARGIN_S = 20.0
"""Seconds of a claim beyond the timeout of its sending, to write down what came of it."""


class Deliverer:
    """Sends until it is stopped."""

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        secrets: tuple[str, ...],
        settings: Settings,
        metrics: WebhookMetrics | None = None,
    ) -> None:
        self._metrics = metrics or WebhookMetrics()
        self._outbox = outbox
        self._sender = sender
        self._secrets = secrets
        self._settings = settings
        self._hosts: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send what is due, until `stop` is set."""
        answers = True
        while not stop.is_set():
            try:
                await self._take_all()
                answers = True
            except StoreUnavailable as error:
                if answers:
                    log.warning("webhooks wait for Redis", error=str(error))
                answers = False
            await _either(stop, _LOOK_S)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_LAST_S)
        for task in self._under_way:
            task.cancel()  # sent again when its claim has run out

    async def _take_all(self) -> None:
        while len(self._under_way) < SIDE_BY_SIDE:
            claim = await self._outbox.claim(self._settings.webhook_timeout + _MARGIN_S)
            if claim is None:
                return
            task = asyncio.create_task(self._deliver(claim))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a webhook could not be sent; it is tried again when its claim has run out", exc_info=error)

    async def _deliver(self, claim: Claim) -> None:
        try:
            job = await self._outbox.job(claim)
            if job is None or job.webhook is None:
                return  # erased since it was claimed, and its webhook with it
            host = urlsplit(job.webhook.url).netloc
            if self._hosts[host] >= TO_ONE_HOST:
                await self._outbox.postpone(claim, random.uniform(1, 2))
                return
            sent = await self._outbox.sent(claim)
        except UnreadableRecord as error:
            log.error("the job of a webhook cannot be read", job=claim.job_id, error=str(error))
            await self._outbox.postpone(claim, _UNREADABLE_S)
            return
        except StoreUnavailable as error:
            log.warning("a webhook waits for Redis", job=claim.job_id, error=str(error))
            return  # it comes back when its claim has run out
        self._hosts[host] += 1
        try:
            await self._send(claim, job, job.webhook.url, sent)
        finally:
            self._hosts[host] -= 1
            self._hosts += Counter()  # drops hosts that nothing is sent to

    async def _send(self, claim: Claim, job: Job, url: str, sent: int) -> None:
        now = datetime.now(UTC)
        body = message(job, self._settings.link_prefix)
        began = time.perf_counter()
        answer = await self._sender.post(url, signed_headers(job, body, self._secrets, now), body)
        pause = next_pause(answer, self._settings.webhook_pauses[sent:])
        self._metrics.sent(answer, time.perf_counter() - began, given_up=answer.error is not None and pause is None)
        again = None if pause is None else datetime.now(UTC) + timedelta(seconds=pause)
        delivery = Delivery(now, job.status, sent + 1, answer.status, answer.error, again)
        report = log.info if answer.error is None else log.warning
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.netloc}/…"  # path and query may hold the receiver's tokens
        facts = {"event_type": job.status, "attempt": sent + 1, "status": answer.status, "request_id": job.request_id}
        report("webhook sent", job=job.id, url=where, **facts)
        while True:
            try:
                if not await self._outbox.settle(claim, delivery, pause):
                    log.info("a webhook was taken by another, or its job erased, while it was sent", job=job.id)
                return
            except StoreUnavailable as error:
                if datetime.now(UTC).timestamp() * 1000 > claim.until:
                    log.warning("what came of a webhook could not be written: it is sent again", error=str(error))
                    return
                await asyncio.sleep(_AGAIN_S)


def next_pause(answer: Answer, pauses: tuple[float, ...]) -> float | None:
    """Seconds until the next try; None if it was received, is unwanted (410), or `pauses`, those left, are none.

    Up to a tenth longer by chance, so that what failed together does not come back together, and as much longer as the
    receiver asks, up to LONGEST_PAUSE.
    """
    if answer.error is None or answer.status == 410 or not pauses:
        return None
    pause = pauses[0] * random.uniform(1, 1.1)
    return min(max(pause, answer.retry_after or 0.0), max(pauses[0], LONGEST_PAUSE.total_seconds()))


def run(settings: Settings) -> int:
    """Send webhooks until SIGTERM or SIGINT; return the exit status."""
    configure_logging(settings)
    metrics = WebhookMetrics()
    exporter = Exporter(settings, metrics.registry)
    exporter.start()
    asyncio.run(_run(settings, metrics))
    exporter.stop()
    return 0


async def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The secrets that receivers check signatures with. Raises StoreUnavailable."""
    client = connect_async(settings)
    try:
        return await signing_secrets(client, settings)
    finally:
        await client.aclose()


async def _run(settings: Settings, metrics: WebhookMetrics) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = connect_async(settings)
    secrets = None
    while secrets is None and not stop.is_set():
        try:
            secrets = await signing_secrets(client, settings)
        except StoreUnavailable as error:
            log.warning("webhooks wait for Redis", error=str(error))
            await _either(stop, _AGAIN_S)
    if secrets is not None:
        sender = Sender(settings.webhook_timeout, settings.webhook_allow_private)
        log.info("webhooks are sent", secret="that of DUET_WEBHOOK_SECRET" if settings.webhook_secrets else "our own")
        await Deliverer(Outbox(client), sender, secrets, settings, metrics).run(stop)
    await client.aclose()


async def _either(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until asked to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
