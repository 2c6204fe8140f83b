"""The body of a webhook and its signed headers, as Standard Webhooks defines them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from standardwebhooks import Webhook

from service.jobs.record import Job
from service.jobs.view import job_view


def message(job: Job, prefix: str) -> bytes:
    """The body, identical for each attempt: the job as `GET` returns it, with its paths behind `prefix`.

    It leaves out the log of the job's webhook, which changes with each attempt.
    """
    data = job_view(job, None, None, prefix, lambda path: path).model_dump(mode="json")
    body = {"type": f"job.{job.status}", "timestamp": data["completed_at"], "data": data}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def signed_headers(job: Job, body: bytes, secrets: Iterable[str], now: datetime) -> dict[str, str]:
    """The message id, the time of sending, and one signature per secret."""
    name = f"msg_{job.id.removeprefix('job_')}"
    signatures = (Webhook(secret).sign(name, now, body.decode()) for secret in secrets)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
