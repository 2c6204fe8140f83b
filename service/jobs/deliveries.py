"""The delivery log of a job's webhook: one entry per attempt, in a list beside the record.

    duet:webhooks               ids of the jobs whose webhook is to be sent, by the time at which it is due
    duet:webhooks:log:{id}      delivery attempts, oldest first

A job ends once, so it has one webhook to send, identified by the job's id. The log is separate from the record, because
`service.webhooks` writes it independently of the job.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

DUE = "duet:webhooks"
"""The outbox. The script that ends a job enters it here."""


@dataclass(frozen=True)
class Delivery:
    """One delivery attempt: its time, the reported status of the job, its number (from 1), and the HTTP status of the
    response or the error.

    `next_attempt_at` is None after the last attempt.
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
    def parsed(cls, text: str | bytes) -> Delivery | None:
        """None for an entry that this version cannot read."""
        try:
            values = json.loads(text)
            for name in ("at", "next_attempt_at"):
                values[name] = values[name] and datetime.fromisoformat(values[name])
            return cls(**values)
        except (ValueError, KeyError, TypeError):
            return None


def deliveries_key(job_id: str) -> str:
    """The log of a job's webhook."""
    return f"duet:webhooks:log:{job_id}"
