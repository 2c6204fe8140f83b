"""Static files of the service's own pages: read once, revalidated by ETag, with one content security policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import Request, Response

from service.api.etags import is_unchanged
from service.api.problems import Problem

METHODS = ["GET", "HEAD"]

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
"""`data:` pictures are previews, `blob:` media are files before they are uploaded."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file of a page. `etag` includes its quotes."""

    body: bytes
    etag: str
    content_type: str


def read_assets(folder: Traversable) -> dict[str, Asset]:
    """The files of a page by their paths below `folder`. Files of other types are left out."""
    return {path: read_asset(path, file) for path, file in _walk(folder, PurePosixPath())}


def read_asset(path: str, file: Traversable) -> Asset:
    body = file.read_bytes()
    return Asset(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', _TYPES[PurePosixPath(path).suffix])


def find_asset(assets: dict[str, Asset], path: str, request: Request) -> Asset:
    """The file at `path`. Raises Problem 404, also for HTML files: pages have paths of their own."""
    if path not in assets or path.endswith(".html"):
        raise Problem(404, "not_found", f"{request.url.path} does not exist.")
    return assets[path]


def asset_response(request: Request, asset: Asset, status: int = 200) -> Response:
    """The file, or 304 if the browser has this version."""
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if asset.content_type.startswith("text/html"):
        headers["Content-Security-Policy"] = PAGE_POLICY
    if status == 200 and is_unchanged(request.headers.get("if-none-match"), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, status, headers, asset.content_type)


def _walk(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, path / entry.name)
        elif PurePosixPath(entry.name).suffix in _TYPES:
            yield str(path / entry.name), entry
