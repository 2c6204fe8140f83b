"""What became of a job's webhook: one entry for each time that it was sent, in a list beside the record.

    duet:webhooks               ids of the jobs whose webhook is to be sent, by the time at which it is due
    duet:webhooks:log:{id}      what was sent, oldest first

A job ends once, so it has one webhook to send, and its id names it. The log is apart from the record, because sending
is no business of whoever changes the job; `webhooks` is who sends.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

DUE = "duet:webhooks"
"""The outbox. The script that ends a job enters it here."""


@dataclass(frozen=True)
class Delivery:
    """One try: when, of which end, which try it was (from 1), the HTTP status that came back, or why none came.

    `next_attempt_at` is None where nothing is to follow: it was received, or it is given up.
    """

    at: datetime
    event: str
    attempt: int
    status: int | None
    error: str | None
    next_attempt_at: datetime | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=datetime.isoformat, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Delivery:
        values = json.loads(text)
        for name in ("at", "next_attempt_at"):
            values[name] = values[name] and datetime.fromisoformat(values[name])
        return cls(**values)


def deliveries_key(job_id: str) -> str:
    """The log of a job's webhook."""
    return f"duet:webhooks:log:{job_id}"
