"""Is the process of this container well? For the container's health check, which runs beside the process it asks about.

    python -m service.healthcheck api|worker|webhooks

A process that is there may still do nothing. So each is asked for what it is for: the API whether it can take jobs, the
worker whether its consumer answers through the broker, the sender of webhooks by what has been due for too long. Exit
status 0 if all is well, else 1 and a line that says what is not.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from typing import Any

from service.settings import Settings, load_settings

PATIENCE = 4.0
"""Seconds for an answer, of which `docker-compose.yml` allows two."""

OVERDUE = 300.0
"""Seconds for which a webhook may be due before nobody seems to send any: a process looks four times a second."""


class Unwell(Exception):
    """What is not as it should be."""


def api(settings: Settings) -> None:
    """Jobs can be taken. That no worker is there yet is the worker's news: the jobs wait for it."""
    address = f"http://127.0.0.1:{settings.port}/readyz"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE):
            return
    except urllib.error.HTTPError as error:
        missing = set(json.loads(error.read()).get("missing", ("an answer",))) - {"worker"}
        if missing:
            raise Unwell(f"missing: {', '.join(sorted(missing))}") from error
    except OSError as error:
        raise Unwell(f"the API does not answer: {error}") from error


def worker(settings: Settings) -> None:
    """A worker of this machine is announced in Redis, and its consumer takes what the broker brings."""
    from celery import Celery
    from kombu.exceptions import OperationalError

    from service.jobs.connection import StoreUnavailable, connect
    from service.jobs.queue import celery_config
    from service.jobs.store import JobStore

    here = f"{socket.gethostname()}-"
    try:
        names = [name for name in JobStore(connect(settings)).workers() if name.startswith(here)]
    except StoreUnavailable as error:
        raise Unwell(f"Redis does not answer: {error}") from error
    if not names:
        raise Unwell("no worker of this machine is announced: it loads its models, or waits for a GPU")
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(celery_config(settings))
    try:
        # Celery puts its own name before that of the worker.
        nodes = [f"celery@{name}" for name in names]
        if not celery.control.ping(destination=nodes, timeout=PATIENCE, limit=len(nodes)):
            raise Unwell(f"the consumer of {', '.join(names)} does not answer")
    except (OperationalError, OSError) as error:
        raise Unwell(f"the broker does not answer: {error}") from error
    finally:
        celery.close()


def webhooks(settings: Settings) -> None:
    """No webhook has been due for long."""
    from service.jobs.connection import StoreUnavailable, connect, reachable
    from service.jobs.deliveries import DUE

    client = connect(settings)
    try:
        with reachable():
            due: Any = client.zrange(DUE, 0, 0, withscores=True)
            now: Any = client.time()
    except StoreUnavailable as error:
        raise Unwell(f"Redis does not answer: {error}") from error
    late = now[0] + now[1] / 1e6 - due[0][1] / 1000 if due else 0.0
    if late > OVERDUE:
        raise Unwell(f"a webhook has been due for {late:.0f} s")


CHECKS = {"api": api, "worker": worker, "webhooks": webhooks}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        raise SystemExit(f"usage: python -m service.healthcheck {'|'.join(CHECKS)}")
    try:
        CHECKS[sys.argv[1]](load_settings())
    except Unwell as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
