"""An attack by connections, and the server that it is made on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`port` of the API; `seconds` for one attack; paths of a `large` file and of the `events` of a running job, of
    which `publish` publishes some more; `header_timeout` of the API in seconds; its `connections` per address."""

    port: int
    seconds: float
    large: str
    events: str
    publish: Callable[[], None]
    header_timeout: float
    connections: int


@dataclass(frozen=True)
class Attack:
    """`act` returns what is wrong with the API's answer in words, None if nothing is."""

    family: str
    name: str
    act: Callable[[Target], str | None]

    def __str__(self) -> str:
        return f"{self.family}/{self.name}"
