"""The studio page and /docs: public, complete and without files of other hosts."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files

import httpx
import pytest

from service.settings import Settings
from tests.conftest import RunningApi
from tests.error_codes import error_codes
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys


def linked(page: str) -> list[str]:
    """The files that a page loads: scripts, style sheets, pictures."""
    return re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', page)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_its_own_files_only(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "style=" not in page.text
    assert not re.search(r"<script[^>]*>[^<]", page.text), "the policy forbids inline scripts"
    assert len(linked(page.text)) > 3
    for name in linked(page.text):
        file = client.get(f"/{name}")
        assert file.status_code == 200, name
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rsplit(".", 1)[1]]
        assert file.headers["content-type"].startswith(kind), name
        assert file.headers["x-content-type-options"] == "nosniff"


def test_every_imported_module_is_served(client: httpx.Client) -> None:
    imported = set()
    for module in (files("service") / "studio" / "js").iterdir():
        text = client.get(f"/studio/js/{module.name}").raise_for_status().text
        imported |= set(re.findall(r'from "\./([\w-]+\.js)"', text))
    assert len(imported) > 15
    for name in imported:
        assert client.head(f"/studio/js/{name}").status_code == 200, name


@pytest.mark.parametrize("path", ["/", "/docs", "/studio/js/main.js", "/docs/swagger-ui-bundle.js"])
def test_an_unchanged_page_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    "path",
    [
        "/studio",
        "/studio/",
        "/studio/index.html",
        "/studio/docs.html",
        "/studio/../settings.py",
        "/studio/%2e%2e/settings.py",
        "/studio/js/..%2f..%2fapp.py",
        "/docs/redoc.standalone.js",
        "/docs/..%2f__init__.py",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    problem(client.get(path), 404, "not_found")


def test_the_pages_need_no_key_and_their_data_does(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    with client_of(run_api(with_keys(settings)), None) as nobody:
        for path in ("/", "/studio/js/main.js", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert nobody.get(path).status_code == 200, path
        for path in ("/models", "/jobs"):
            assert nobody.get(path).status_code == 401, path


def test_the_pages_are_not_in_the_description(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith(("/studio", "/docs"))]


def test_the_studio_has_advice_for_every_error() -> None:
    words = (files("service") / "studio" / "js" / "words.js").read_text(encoding="utf-8")
    advice = re.search(r"^const ADVICE = {(.*?)^};", words, re.MULTILINE | re.DOTALL)
    assert advice
    explained = set(re.findall(r"^  (\w+):", advice[1], re.MULTILINE))
    assert error_codes() <= explained
    assert explained - error_codes() == {"no_answer"}, "advice for an unknown code"
