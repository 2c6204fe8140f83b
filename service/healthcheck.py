"""Health checks of containers, run beside the process that they check.

    python -m service.healthcheck api|worker|webhooks

A running process may still do no work, so each check tests its purpose: the API can accept jobs, the worker's consumer
answers through the broker, and no webhook has been due for long. Exit status 0 if healthy, otherwise 1 and a line with
the reason.
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
"""Time limit of a request in seconds; `docker-compose.yml` allows for two requests."""

OVERDUE = 300.0
"""Seconds after which an overdue webhook means that no process sends: a sender polls four times a second."""


class Unhealthy(Exception):
    """The message says what is wrong."""


def api(settings: Settings) -> None:
    """The API can accept jobs. A missing worker does not count: jobs wait for it, and it has its own check."""
    address = f"http://127.0.0.1:{settings.port}/readyz"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE):
            return
    except urllib.error.HTTPError as error:
        missing = set(json.loads(error.read()).get("missing", ("an answer",))) - {"worker"}
        if missing:
            raise Unhealthy(f"missing: {', '.join(sorted(missing))}") from error
    except OSError as error:
        raise Unhealthy(f"the API does not answer: {error}") from error


def worker(settings: Settings) -> None:
    """A worker of this machine has a heartbeat in Redis, and its consumer answers through the broker."""
    from celery import Celery
    from kombu.exceptions import OperationalError

    from service.jobs.connection import StoreUnavailable, connect
    from service.jobs.queue import celery_config
    from service.jobs.store import JobStore

    here = f"{socket.gethostname()}-"
    try:
        names = [name for name in JobStore(connect(settings)).workers() if name.startswith(here)]
    except StoreUnavailable as error:
        raise Unhealthy(f"Redis does not answer: {error}") from error
    if not names:
        raise Unhealthy("no worker of this machine has a heartbeat: it is loading models, or waiting for a GPU")
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(celery_config(settings))
    try:
        # Celery prefixes the worker's name.
        nodes = [f"celery@{name}" for name in names]
        if not celery.control.ping(destination=nodes, timeout=PATIENCE, limit=len(nodes)):
            raise Unhealthy(f"the consumer of {', '.join(names)} does not answer")
    except (OperationalError, OSError) as error:
        raise Unhealthy(f"the broker does not answer: {error}") from error
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
        raise Unhealthy(f"Redis does not answer: {error}") from error
    late = now[0] + now[1] / 1e6 - due[0][1] / 1000 if due else 0.0
    if late > OVERDUE:
        raise Unhealthy(f"a webhook has been due for {late:.0f} s")


CHECKS = {"api": api, "worker": worker, "webhooks": webhooks}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        raise SystemExit(f"usage: python -m service.healthcheck {'|'.join(CHECKS)}")
    try:
        CHECKS[sys.argv[1]](load_settings())
    except Unhealthy as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
