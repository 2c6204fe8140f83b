"""The range: an API under whose settings nothing but the file decides, and what must not stay behind."""

from __future__ import annotations

from pathlib import Path

from service.settings import Settings
from tests.files import files_in


def generous(data: Path, redis_url: str) -> Settings:
    """The defaults, except that a client may send as much as it likes."""
    return Settings(
        data=data, redis_url=redis_url, max_requests_per_minute=10**6, max_queued=10**5, max_queued_per_key=10**5
    )


def leftovers(settings: Settings, *folders: Path) -> list[str]:
    """Files in the service's data and in `folders`."""
    return [str(path) for path in files_in(settings.data, *folders)]
