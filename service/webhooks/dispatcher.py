"""The process that sends webhooks: claims due ones from the outbox, sends them, records the outcomes.

It is separate from workers and API, so slow or dead receivers can only delay other webhooks.
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

CONCURRENCY = 32
"""Webhooks that one process sends at a time."""

CONCURRENCY_PER_HOST = 4
"""Of which to one host, so that a dead host with many jobs does not block the others."""

LONGEST_PAUSE = timedelta(days=1)
"""Bound on a receiver's `Retry-After`."""

_POLL_S = 0.25
"""Seconds between two queries of the outbox."""

_RETRY_S = 0.5
_SHUTDOWN_S = 5.0
"""Seconds for attempts in progress to finish, when the process is asked to stop."""

_UNREADABLE_S = 3600.0
"""Seconds until the webhook of a job with an unreadable record is tried again."""

_MARGIN_S = 20.0
"""Validity of a claim beyond the timeout of its attempt, for recording the outcome."""


class Deliverer:
    """Sends due webhooks until it is stopped."""

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
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send due webhooks until `stop` is set."""
        answers = True
        while not stop.is_set():
            try:
                await self._take_all()
                answers = True
            except Exception as error:  # one entry must not end the sending of all others
                self._metrics.background_failed("outbox")
                if answers:
                    known = isinstance(error, StoreUnavailable)
                    log.warning("webhooks wait for Redis", error=str(error), exc_info=not known)
                answers = False
            await _either(stop, _POLL_S)
        if self._running:
            await asyncio.wait(self._running, timeout=_SHUTDOWN_S)
        for task in self._running:
            task.cancel()  # resent when its claim has expired

    async def _take_all(self) -> None:
        while len(self._running) < CONCURRENCY:
            claim = await self._outbox.claim(self._settings.webhook_timeout + _MARGIN_S)
            if claim is None:
                return
            task = asyncio.create_task(self._deliver(claim))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("sending a webhook failed: it is retried when its claim has expired", exc_info=error)

    async def _deliver(self, claim: Claim) -> None:
        try:
            job = await self._outbox.job(claim)
            if job is None or job.webhook is None:
                await self._outbox.drop(claim)  # erased since it was claimed, or an id without a job
                return
            host = urlsplit(job.webhook.url).netloc
            if self._hosts[host] >= CONCURRENCY_PER_HOST:
                await self._outbox.postpone(claim, random.uniform(1, 2))
                return
            sent = await self._outbox.sent(claim)
        except UnreadableRecord as error:
            log.error("a webhook's job cannot be read", job=claim.job_id, error=str(error))
            await self._outbox.postpone(claim, _UNREADABLE_S)
            return
        except StoreUnavailable as error:
            log.warning("a webhook waits for Redis", job=claim.job_id, error=str(error))
            return  # it is due again when its claim has expired
        self._hosts[host] += 1
        try:
            await self._send(claim, job, job.webhook.url, sent)
        finally:
            self._hosts[host] -= 1
            self._hosts += Counter()  # removes zero counts

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
                    log.info("outcome not recorded: the claim expired, or the job was erased", job=job.id)
                return
            except StoreUnavailable as error:
                if datetime.now(UTC).timestamp() * 1000 > claim.until:
                    log.warning("outcome not recorded: the webhook is resent", error=str(error))
                    return
                await asyncio.sleep(_RETRY_S)


def next_pause(answer: Answer, pauses: tuple[float, ...]) -> float | None:
    """Seconds until the next attempt; None if it was received, is unwanted (410), or no `pauses` are left.

    Up to a tenth longer at random, so that simultaneous failures are not retried simultaneously, and as long as the
    receiver's `Retry-After` asks, up to LONGEST_PAUSE.
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
    """The secrets that receivers verify signatures with. Raises StoreUnavailable."""
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
            await _either(stop, _RETRY_S)
    if secrets is not None:
        sender = Sender(settings.webhook_timeout, settings.webhook_allow_private)
        log.info("webhooks are sent", secret="DUET_WEBHOOK_SECRET" if settings.webhook_secrets else "generated")
        await Deliverer(Outbox(client), sender, secrets, settings, metrics).run(stop)
    await client.aclose()


async def _either(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or until `stop` is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
