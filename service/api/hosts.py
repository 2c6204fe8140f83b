"""The host that a request names, and whether it is this service."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from service.settings import Settings, is_loopback

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)


def is_host(text: str) -> bool:
    """Whether `text` is a name or an address, with or without a port."""
    return _HOST.fullmatch(text) is not None


def known_host(host: str, settings: Settings) -> bool:
    """Whether a request with this `Host` is meant for this service.

    Without API keys a page of another site could reach the service through a name of its own that resolves to
    127.0.0.1 (DNS rebinding), so only loopback names and the configured addresses are known. With keys every host is.
    """
    if settings.key_hashes:
        return True
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1].strip("[]")
    configured = {settings.host, settings.published_on, urlsplit(settings.public_url).hostname}
    return is_loopback(name) or name.endswith(".localhost") or name in configured
