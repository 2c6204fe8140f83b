"""`GET /` and `GET /docs`: the studio page and the API documentation. They load nothing from other hosts.

The files of the pages need no key; the requests that the pages send do.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from service.api.pages import METHODS, Asset, asset_response, find_asset, read_asset, read_assets

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=METHODS)
def studio(request: Request) -> Response:
    """The studio page."""
    return asset_response(request, _studio_files()["index.html"])


@router.api_route("/docs", methods=METHODS)
def docs(request: Request) -> Response:
    """The API documentation (Swagger UI)."""
    return asset_response(request, _studio_files()["docs.html"])


@router.api_route("/studio/{path:path}", methods=METHODS)
def studio_file(path: str, request: Request) -> Response:
    """A script, style sheet or picture of the pages. Raises Problem 404."""
    return asset_response(request, find_asset(_studio_files(), path, request))


@router.api_route("/docs/{name}", methods=METHODS)
def docs_file(name: str, request: Request) -> Response:
    """A file of Swagger UI, from the package `fastapi-offline`. Raises Problem 404."""
    return asset_response(request, find_asset(_swagger_files(), name, request))


@cache
def _studio_files() -> dict[str, Asset]:
    """The files of `service/studio`, by path."""
    return read_assets(files("service") / "studio")


@cache
def _swagger_files() -> dict[str, Asset]:
    """The files of the package that the page uses, by name."""
    folder = files("fastapi_offline") / "static"
    return {name: read_asset(name, folder / name) for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
