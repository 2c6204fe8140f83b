"""The studio page in the system's Chromium, before a stack as `duet serve` starts it.

`make test-browser` runs these; `make test` does not. Every state that a test comes by is looked at twice, in light and
in dark: axe-core must find nothing serious, and a picture of it is left in build/screenshots.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright

from service.app import create_app
from service.settings import Settings
from tests.conftest import RunningApi
from tests.e2e.conftest import Serve
from tests.service.keys import KEYS, with_keys

SCREENSHOTS = Path("build/screenshots")
WAIT = 30_000
"""Milliseconds: a job of some steps on a machine that does other things as well."""

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium_program() -> str:
    """Where Chromium is. Fails, saying what to install, where there is none."""
    names = (os.environ.get("DUET_CHROMIUM"), "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.exit(
            "The browser tests need Chromium: `apt-get install chromium`, or DUET_CHROMIUM=/path/to/chromium.",
            returncode=1,
        )
    return found


@dataclass
class Studio:
    """A browser's window on one service. What it complained of, and whom it asked, is kept."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def visit(self, path: str = "/") -> Page:
        """Go there, and wait for the page to be made."""
        self.page.goto(self.url + path)
        expect(self.page.locator("body.ready")).to_be_attached()
        return self.page

    def job_id(self) -> str:
        """The open job, as the address has it."""
        return dict(part.split("=") for part in urlsplit(self.page.url).query.split("&"))["job"]

    def look(self, name: str) -> None:
        """Take a picture and let axe-core look, in light and in dark. Fails for what is serious."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True, animations="disabled")
            found = Axe().run(self.page).response["violations"]
            grave = [each for each in found if each["impact"] in ("serious", "critical")]
            assert not grave, f"{name}, {scheme}: {_told(grave)}"
        self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")

    def fits(self) -> None:
        """Fails if one would have to scroll sideways."""
        wide, room = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, f"{wide} pixels of content on {room}"

    def check(self) -> None:
        """Fails if the browser complained, or asked anybody but this service."""
        assert not self.complaints
        strangers = [url for url in self.asked if not url.startswith((self.url, "data:", "blob:"))]
        assert not strangers

    def _listen(self, message: ConsoleMessage) -> None:
        # That a request was refused is what the page itself has to say; it is no fault of the page.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)


def _told(violations: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{each['id']} ({each['help']}): {', '.join(node['html'][:120] for node in each['nodes'][:4])}"
        for each in violations
    )


@dataclass
class Service:
    """A running service: its address, the folder of its data, a client of its API."""

    url: str
    data: Path
    client: httpx.Client


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """One stack for all tests; nobody is asked for a key."""
    with tempfile.TemporaryDirectory(prefix="duet-browser-") as folder:
        data = Path(folder) / "data"
        serve = Serve(data, "--port", "0")
        try:
            with serve.ready() as client:
                yield Service(str(client.base_url).rstrip("/"), data, client)
        finally:
            serve.stop()


@pytest.fixture(autouse=True)
def nothing_left_running(service: Service) -> Iterator[None]:
    """What a test leaves running would keep the next one waiting."""
    yield
    for state in ("queued", "in_progress"):
        for job in service.client.get("/jobs", params={"status": state}).json()["data"]:
            service.client.delete(job["urls"]["self"]).raise_for_status()


@pytest.fixture(scope="session")
def service_with_keys(service: Service) -> Iterator[str]:
    """Another API process' worth of the same stack that asks for keys: its address."""
    settings = Settings(redis_url=f"unix://{service.data}/redis/redis.sock", data=service.data)
    api = RunningApi(create_app(with_keys(settings)))
    api.start()
    yield api.url
    api.stop()


@pytest.fixture(scope="session")
def key() -> str:
    """A key that the service knows."""
    return KEYS["alice"]


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=chromium_program(), args=list(FLAGS))
    yield browser
    browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """A browser of its own, with nothing kept; the arguments are Playwright's."""
    contexts: list[BrowserContext] = []

    def new(**options: Any) -> BrowserContext:
        usual = {"viewport": {"width": 1280, "height": 800}, "permissions": ["clipboard-write", "clipboard-read"]}
        context = browser.new_context(**usual | options)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        return context

    expect.set_options(timeout=WAIT)
    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def studio(new_context: Callable[..., BrowserContext], service: Service) -> Iterator[Studio]:
    """The studio on a desk, not visited yet."""
    studio = Studio(new_context().new_page(), service.url)
    yield studio
    studio.check()


@pytest.fixture
def phone(new_context: Callable[..., BrowserContext], service: Service) -> Iterator[Studio]:
    """The studio on a small phone, not visited yet."""
    context = new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2, has_touch=True, is_mobile=True)
    studio = Studio(context.new_page(), service.url)
    yield studio
    studio.check()
