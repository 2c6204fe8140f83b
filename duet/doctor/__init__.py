"""Checks of an installation. Each reports one line, and how to fix what it found.

Checks that may hang or crash are isolated: the libraries are loaded in a separate process, and checks that wait for
another program run in threads with a time limit. No check leaves anything behind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

from duet.doctor import machine, services
from duet.doctor.finding import Finding
from service.settings import PREFIX, Settings, load_settings

CHECK_SECONDS = 12.0
"""How long a check may wait for another program."""


def examine(url: str | None = None) -> list[Finding]:
    """All findings. `url` is a server that must respond; without it none need be running."""
    findings = [machine.python(), *machine.packages()]
    try:
        settings = load_settings()
    except SystemExit as error:
        sentences = str(error).partition("\n")[2].replace("\n", "; ")
        return [*findings, Finding("settings", False, sentences, "correct it, or unset it")]
    findings.append(_settings(settings))
    own_redis = f"{PREFIX}REDIS_URL" in os.environ
    checks: list[tuple[str, float, Callable[[], Iterable[Finding]]]] = [
        ("libraries", machine.LIBRARY_SECONDS, partial(machine.libraries, settings)),
        ("models", machine.LIBRARY_SECONDS, partial(services.models, settings)),
        ("redis", CHECK_SECONDS, partial(services.redis_server, settings, own_redis)),
        ("storage", CHECK_SECONDS * 2, partial(services.storage, settings)),
        ("server", CHECK_SECONDS, partial(services.server, settings, url)),
    ]
    # Concurrently, so that a check that hangs does not delay the others.
    running = [(name, seconds, _start(name, check)) for name, seconds, check in checks]
    findings += [machine.memory(), machine.disk(settings)]
    for name, seconds, (thread, found) in running:
        thread.join(seconds)
        timeout = Finding(name, False, f"no response within {seconds:g} s", "check whether it hangs")
        findings += [timeout] if thread.is_alive() else found
    return findings


def _start(name: str, check: Callable[[], Iterable[Finding]]) -> tuple[threading.Thread, list[Finding]]:
    """Start the check in a daemon thread; return the thread and the list that receives the findings."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except Exception as error:  # a check that fails is a finding too
            found.append(Finding(name, False, f"the check failed: {error!r}", "report this as a bug of duet doctor"))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, found


def _settings(settings: Settings) -> Finding:
    try:
        settings.check_published()
    except ValueError as error:
        return Finding("settings", False, str(error), "set API keys, or listen on 127.0.0.1")
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}URL", f"{PREFIX}KEY"}
    unknown = [name for name in given if name not in known]
    says = f"from the environment: {', '.join(given)}" if given else "all defaults"
    return Finding("settings", True, says, f"unknown, check the spelling: {', '.join(unknown)}" if unknown else None)
