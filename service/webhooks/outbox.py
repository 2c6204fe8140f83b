"""The outbox of webhooks, from which any number of processes send.

A sender claims a due webhook for a limited time, then records the outcome and when it is due again. If the sender dies,
its claim expires and the webhook is resent, so delivery is at least once. The end of the claim is its token: an outcome
recorded after another sender has claimed the webhook is refused.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from service.jobs.connection import reachable
from service.jobs.deliveries import DUE, Delivery, deliveries_key
from service.jobs.keys import record_key
from service.jobs.record import Job
from service.jobs.scripts import NOW
from service.setting_types import WEBHOOK_SECRET_PREFIX
from service.settings import Settings

_SECRET = "duet:webhook-secret"

_CLAIM = f"""
{NOW}
local job = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if not job then return false end
redis.call('ZADD', KEYS[1], now + ARGV[1], job)
return {{job, string.format('%d', now + ARGV[1])}}
"""
_SETTLE = f"""
{NOW}
local job, claimed, entry, pause = unpack(ARGV, 1, 4)
if tonumber(redis.call('ZSCORE', KEYS[1], job) or '') ~= tonumber(claimed) then return 0 end
if entry ~= '' then redis.call('RPUSH', KEYS[2], entry) end
if pause == '' then redis.call('ZREM', KEYS[1], job) else redis.call('ZADD', KEYS[1], now + pause, job) end
return 1
"""


@dataclass(frozen=True)
class Claim:
    """A webhook claimed until `until`, in milliseconds since 1970 by Redis' clock, which is also its token."""

    job_id: str
    until: int


class Outbox:
    """The outbox in Redis. Every method raises StoreUnavailable."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._claim = client.register_script(_CLAIM)
        self._settle = client.register_script(_SETTLE)

    async def claim(self, seconds: float) -> Claim | None:
        """Claim the longest overdue webhook for `seconds`; None if none is due."""
        with reachable():
            found: Any = await self._claim(keys=[DUE], args=[int(seconds * 1000)])
        return Claim(found[0].decode(errors="replace"), int(found[1])) if found else None

    async def job(self, claim: Claim) -> Job | None:
        """The job to report; None if it was erased."""
        with reachable():
            text: Any = await self._redis.get(record_key(claim.job_id))
        return None if text is None else Job.from_json(text)

    async def sent(self, claim: Claim) -> int:
        """Number of recorded attempts."""
        with reachable():
            return int(await self._redis.llen(deliveries_key(claim.job_id)))

    async def settle(self, claim: Claim, delivery: Delivery, pause: float | None) -> bool:
        """Record the outcome, and schedule the next attempt after `pause` seconds; none if it is None.

        False, without effect, if another sender has claimed it since, or the job was erased.
        """
        return await self._settled(claim, delivery.to_json(), pause)

    async def postpone(self, claim: Claim, pause: float) -> None:
        """Make it due again after `pause` seconds."""
        await self._settled(claim, "", pause)

    async def drop(self, claim: Claim) -> None:
        """Nothing is to be sent for it."""
        await self._settled(claim, "", None)

    async def _settled(self, claim: Claim, entry: str, pause: float | None) -> bool:
        milliseconds = "" if pause is None else int(pause * 1000)
        with reachable():
            settled = await self._settle(
                keys=[DUE, deliveries_key(claim.job_id)], args=[claim.job_id, claim.until, entry, milliseconds]
            )
        return bool(settled)


async def signing_secrets(client: redis.asyncio.Redis, settings: Settings) -> tuple[str, ...]:
    """The signing secrets: those of the settings, otherwise one in Redis, generated on first use.

    Raises StoreUnavailable.
    """
    if settings.webhook_secrets:
        return settings.webhook_secrets
    with reachable():
        drawn = WEBHOOK_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        await client.set(_SECRET, drawn, nx=True)
        kept: Any = await client.get(_SECRET)
    return (kept.decode(),)
