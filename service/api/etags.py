"""Entity tags and conditional requests (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this version: the weak comparison of `If-None-Match`. `etag` includes its quotes."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether the range applies to this version: the strong comparison of `If-Range`.

    A date never matches, because no response has a `Last-Modified`.
    """
    return if_range is None or if_range.strip() == etag
