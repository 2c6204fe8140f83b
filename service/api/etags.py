"""Entity tags and the conditions a request makes on them (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this version already: the weak comparison of `If-None-Match`. `etag` comes with quotes."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a range of this version is what the client wants: the strong comparison of `If-Range`.

    A date never matches, for no `Last-Modified` was given out.
    """
    return if_range is None or if_range.strip() == etag
