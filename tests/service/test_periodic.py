from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from service import periodic
from service.periodic import Periodic
from tests.waiting import until


class Calls:
    """Counts calls; raises `error` while it is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times: list[float] = []
        self.error = error

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        if self.error is not None:
            raise self.error

    def more(self, count: int) -> Callable[[], bool]:
        wanted = len(self.times) + count
        return lambda: len(self.times) >= wanted


def test_the_action_is_repeated_until_stopped() -> None:
    calls = Calls()
    with Periodic("test", calls, 0.01):
        until(calls.more(3), "three calls")
    count = len(calls.times)
    time.sleep(0.05)
    assert len(calls.times) == count


def test_the_first_call_waits_for_an_interval_unless_asked_for_at_once() -> None:
    calls, immediate = Calls(), Calls()
    with Periodic("late", calls, 60), Periodic("early", immediate, 60, at_once=True):
        until(lambda: immediate.times, "a call at once")
        assert calls.times == []


def test_it_can_be_woken() -> None:
    calls = Calls()
    with Periodic("test", calls, 60) as task:
        task.wake()
        until(lambda: calls.times, "a call")


def test_an_unknown_error_is_survived_and_counted() -> None:
    calls, failures = Calls(KeyError("never thought of")), list[str]()
    with Periodic("test", calls, 0.01, failed=failures.append):
        until(calls.more(3), "calls after the first error")
        calls.error = None
        until(calls.more(3), "calls after the last error")
    assert set(failures) == {"test"}
    assert len(failures) >= 3


def test_failures_are_repeated_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "LONGEST_PAUSE", 0.2)
    calls = Calls(OSError("away"))
    with Periodic("test", calls, 0.01):
        until(calls.more(8), "eight calls")
    pauses = [later - earlier for earlier, later in zip(calls.times, calls.times[1:], strict=False)]
    assert pauses[4] >= 0.15  # 0.01 · 2⁴
    assert all(pause < 2 for pause in pauses)


def test_a_failure_may_be_retried_sooner_than_the_interval() -> None:
    calls = Calls(OSError("away"))
    with Periodic("test", calls, 60, retry=0.01, at_once=True):
        until(lambda: len(calls.times) >= 3, "retries")


def test_it_may_be_stopped_before_it_is_started_and_twice() -> None:
    task = Periodic("test", Calls(), 1)
    task.stop()
    task = Periodic("test", Calls(), 1)
    task.start()
    task.stop()
    task.stop()


def test_the_action_may_stop_it() -> None:
    stopped = threading.Event()

    def action() -> None:
        task.stop()
        stopped.set()

    task = Periodic("test", action, 0.01)
    task.start()
    assert stopped.wait(5)
