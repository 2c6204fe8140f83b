"""`GET /` and `GET /docs`: the studio page and the API documentation. They load nothing from other hosts.

The files of the pages need no key; the requests that the pages send do. Files are read once, so a process serves one
version as long as it runs. Browsers revalidate them by ETag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response

from service.api.etags import is_unchanged
from service.api.problems import Problem

router = APIRouter(include_in_schema=False)

_METHODS = ["GET", "HEAD"]

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


@router.api_route("/", methods=_METHODS)
def studio(request: Request) -> Response:
    """The studio page."""
    return _answer(request, _studio_files()["index.html"])


@router.api_route("/docs", methods=_METHODS)
def docs(request: Request) -> Response:
    """The API documentation (Swagger UI)."""
    return _answer(request, _studio_files()["docs.html"])


@router.api_route("/studio/{path:path}", methods=_METHODS)
def studio_file(path: str, request: Request) -> Response:
    """A script, style sheet or picture of the pages. Raises Problem 404."""
    return _answer(request, _find(_studio_files(), path, request))


@router.api_route("/docs/{name}", methods=_METHODS)
def docs_file(name: str, request: Request) -> Response:
    """A file of Swagger UI, from the package `fastapi-offline`. Raises Problem 404."""
    return _answer(request, _find(_swagger_files(), name, request))


def _find(assets: dict[str, Asset], path: str, request: Request) -> Asset:
    if path not in assets or path.endswith(".html"):  # the pages have paths of their own
        raise Problem(404, "not_found", f"{request.url.path} does not exist.")
    return assets[path]


def _answer(request: Request, asset: Asset) -> Response:
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if asset.content_type.startswith("text/html"):
        headers["Content-Security-Policy"] = PAGE_POLICY
    if is_unchanged(request.headers.get("if-none-match"), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.content_type)


@cache
def _studio_files() -> dict[str, Asset]:
    """The files of `service/studio`, by path."""
    return {path: _asset(path, file) for path, file in _walk(files("service") / "studio", PurePosixPath())}


@cache
def _swagger_files() -> dict[str, Asset]:
    """The files of the package that the page uses, by name."""
    folder = files("fastapi_offline") / "static"
    return {name: _asset(name, folder / name) for name in ("swagger-ui-bundle.js", "swagger-ui.css")}


def _walk(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, path / entry.name)
        elif PurePosixPath(entry.name).suffix in _TYPES:
            yield str(path / entry.name), entry


def _asset(path: str, file: Traversable) -> Asset:
    body = file.read_bytes()
    return Asset(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', _TYPES[PurePosixPath(path).suffix])
