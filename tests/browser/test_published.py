"""Behind nginx at a path prefix, and from pages of another origin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect

from service.app import create_app
from service.settings import Settings
from tests.browser.conftest import Service, Studio
from tests.browser.steps import WATCHED, choose, clip, drop, plays, result, soon, start
from tests.conftest import RunningApi
from tests.nginx import Nginx
from tests.service.api.test_proxies import DOCUMENTED, WAYS
from tests.service.keys import with_keys

StartApi = Callable[..., RunningApi]


@pytest.fixture
def start_api(service: Service) -> Iterator[StartApi]:
    """Starts another API of the stack with other settings."""
    running: list[RunningApi] = []

    def start_api(keys: bool = False, **changes: Any) -> RunningApi:
        settings = Settings(redis_url=f"unix://{service.data}/redis/redis.sock", data=service.data, **changes)
        running.append(RunningApi(create_app(with_keys(settings) if keys else settings), settings))
        running[-1].start()
        return running[-1]

    yield start_api
    for api in running:
        api.stop()


@pytest.fixture
def publish(start_api: StartApi, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Publishes an API behind nginx at /duet; returns the address there."""
    started: list[Nginx] = []

    def publish(locations: str, **settings: Any) -> str:
        api = start_api(**settings)
        started.append(Nginx(tmp_path / "nginx", locations.replace("127.0.0.1:8000", f"127.0.0.1:{api.port}")))
        return f"{started[0].url}/duet"

    yield publish
    for nginx in started:
        nginx.stop()


def test_the_studio_works_under_a_prefix(
    new_context: Callable[..., BrowserContext], publish: Callable[..., str], key: str, film: Path, tmp_path: Path
) -> None:
    studio = Studio(new_context().new_page(), publish(DOCUMENTED, keys=True, trusted_proxies="127.0.0.1"))
    page = studio.page
    page.goto(studio.url)  # without the slash
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("button", name="Make a clip")).to_be_visible()  # the page listens for files by then
    drop(page, film, "video/mp4")
    choose(page, steps=WATCHED, seconds=1.6)
    start(page, "Make its sound")
    expect(page.locator(".progress-detail")).to_contain_text("step")
    player = result(page)
    studio.look("prefix-done")
    source = clip(player).evaluate("media => media.src")
    assert source.startswith(f"{studio.url}/jobs/")
    assert "signature=" in source
    plays(player)
    assert any(url.endswith("/events") for url in studio.asked)
    assert not [url for url in studio.asked if url.endswith(f"/jobs/{studio.job_id()}")], "it was not polled"
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "clip.mp4")
    assert b"ftyp" in (tmp_path / "clip.mp4").read_bytes()[:12]
    page.reload()
    result(page)
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("The command that repeats this job: copied.")).to_be_visible()
    assert f"{studio.url}/v2a" in page.evaluate("navigator.clipboard.readText()")

    page.goto(f"{studio.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    expect(page.locator(".servers select")).to_have_value("/duet")
    studio.check()


@pytest.mark.parametrize("way", ["stripped", "kept"])
def test_without_keys_a_clip_is_made_under_a_prefix(
    new_context: Callable[..., BrowserContext], publish: Callable[..., str], way: str
) -> None:
    studio = Studio(new_context().new_page(), publish(WAYS[way].locations, **WAYS[way].settings))
    page = studio.visit("/")
    choose(page, steps=2)
    start(page)
    plays(result(page))
    page.get_by_role("button", name="Delete this job").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("Your clip appears here")).to_be_visible()
    studio.check()


@pytest.fixture
def other_origin() -> Iterator[str]:
    """The address of an empty page of another site."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Another site</title>")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"  # the API is at 127.0.0.1: not the same site
    server.shutdown()
    thread.join()
    server.server_close()


EMBED = """async (url) => {
  const video = Object.assign(document.createElement("video"), { src: url, muted: true });
  const loaded = new Promise((resolve) => {
    video.onloadeddata = () => resolve("loaded");
    video.onerror = () => resolve("refused");
  });
  document.body.append(video);
  if (await loaded === "refused") return 0;
  await video.play();
  return new Promise((resolve) => {
    video.ontimeupdate = () => video.currentTime > 0.1 && resolve(video.videoWidth);
  });
}"""

CALL = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return { status: answer.status, location: answer.headers.get("Location"), body: await answer.json() };
  } catch (error) {
    return { status: 0 };
  }
}"""


def test_a_page_of_another_origin(
    new_context: Callable[..., BrowserContext], start_api: StartApi, other_origin: str, key: str
) -> None:
    """It embeds media by signed URL from any API, and uses only an API that allows its origin."""
    closed, opened = start_api(keys=True), start_api(keys=True, cors_origins=other_origin)
    authorization = {"Authorization": f"Bearer {key}"}
    page = new_context().new_page()
    page.goto(other_origin)
    body = {"steps": 2, "super_resolution": False}

    def call(api: RunningApi, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = page.evaluate(CALL, [f"{api.url}{path}", {"headers": authorization, **options}])
        return answer

    headers = {**authorization, "Content-Type": "application/json", "Idempotency-Key": "once", "Prefer": "wait=0"}
    request = {"method": "POST", "headers": headers, "body": httpx.Request("POST", "/", json=body).content.decode()}
    assert call(closed, "/generate", **request)["status"] == 0
    assert call(closed, "/models")["status"] == 0
    made = call(opened, "/generate", **request)
    assert made["status"] == 202
    assert made["location"] == made["body"]["urls"]["self"]
    assert call(opened, "/jobs/none")["body"]["code"] == "unknown_job"

    def completed() -> dict[str, Any] | None:
        job: dict[str, Any] = call(opened, made["location"])["body"]
        return job if job["status"] == "completed" else None

    job = soon(page, completed, "the job is completed", 90)
    assert job is not None
    video = job["outputs"][0]["files"]["video.mp4"]
    for api in (closed, opened):
        assert page.evaluate(EMBED, f"{api.url}{video}") == 16
        assert page.evaluate(EMBED, f"{api.url}{video.partition('?')[0]}") == 0
    part = 'async (url) => (await fetch(url, { headers: { Range: "bytes=4-7" } })).text()'
    assert page.evaluate(part, f"{opened.url}{video}") == "ftyp"
