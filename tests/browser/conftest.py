"""The studio page in the system's Chromium, with a stack that `duet serve` runs.

`make test-browser` runs these tests, `make test` does not. `Studio.look` checks a state of the page with axe-core, in
light and in dark, and saves a screenshot of it in build/screenshots.
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
from tests.tiny_model import add_words_model

SCREENSHOTS = Path("build/screenshots")
WAIT = 30_000
"""Milliseconds that a short job may take on a busy machine."""

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium_program() -> str:
    """The path of Chromium. Without it, ends the run with a message that says what to install."""
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
    """A browser page on one service, with its console errors and the URLs it requested."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def visit(self, path: str = "/") -> Page:
        """Open the path and wait until the page is ready."""
        self.page.goto(self.url + path)
        expect(self.page.locator("body.ready")).to_be_attached()
        return self.page

    def job_id(self) -> str:
        """The id of the open job, from the page's URL."""
        return dict(part.split("=") for part in urlsplit(self.page.url).query.split("&"))["job"]

    def look(self, name: str) -> None:
        """Take a screenshot and run axe-core, in light and in dark. Fails for serious violations."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True, animations="disabled")
            found = Axe().run(self.page).response["violations"]
            grave = [each for each in found if each["impact"] in ("serious", "critical")]
            assert not grave, f"{name}, {scheme}: {_told(grave)}"
        self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")

    def fits(self) -> None:
        """Fail if the page scrolls sideways."""
        wide, room = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, f"{wide} pixels of content on {room}"

    def check(self) -> None:
        """Fail if the console has errors or another host was contacted."""
        assert not self.complaints
        strangers = [url for url in self.asked if not url.startswith((self.url, "data:", "blob:"))]
        assert not strangers

    def _listen(self, message: ConsoleMessage) -> None:
        # A refused request is not a fault of the page, which explains it.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)


def _told(violations: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{each['id']} ({each['help']}): {', '.join(node['html'][:120] for node in each['nodes'][:4])}"
        for each in violations
    )


@dataclass
class Service:
    """A running service: its URL, its data folder and a client of its API."""

    url: str
    data: Path
    client: httpx.Client


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """One stack for all tests, without keys. Beside the models that ship it has `words`, which takes prompts,
    and `tiny`, which takes none."""
    with tempfile.TemporaryDirectory(prefix="duet-browser-") as folder:
        data = Path(folder) / "data"
        models = add_words_model(Path(folder) / "models")
        serve = Serve(data, "--port", "0", DUET_MODELS=str(models))
        try:
            with serve.ready() as client:
                yield Service(str(client.base_url).rstrip("/"), data, client)
        finally:
            serve.stop()


@pytest.fixture(autouse=True)
def nothing_left_running(service: Service) -> Iterator[None]:
    """Delete unfinished jobs after each test, because the next test's would wait for them."""
    yield
    for state in ("queued", "in_progress"):
        for job in service.client.get("/jobs", params={"status": state}).json()["data"]:
            service.client.delete(job["urls"]["self"]).raise_for_status()


@pytest.fixture(scope="session")
def service_with_keys(service: Service) -> Iterator[str]:
    """The URL of another API of the same stack that requires keys."""
    settings = Settings(redis_url=f"unix://{service.data}/redis/redis.sock", data=service.data)
    api = RunningApi(create_app(with_keys(settings)))
    api.start()
    yield api.url
    api.stop()


@pytest.fixture(scope="session")
def key() -> str:
    """A valid key."""
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
    """Creates a new browser context; the arguments are Playwright's."""
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
    """The studio on a desktop, not opened yet."""
    studio = Studio(new_context().new_page(), service.url)
    yield studio
    studio.check()


@pytest.fixture
def phone(new_context: Callable[..., BrowserContext], service: Service) -> Iterator[Studio]:
    """The studio on a small phone, not opened yet."""
    context = new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2, has_touch=True, is_mobile=True)
    studio = Studio(context.new_page(), service.url)
    yield studio
    studio.check()
