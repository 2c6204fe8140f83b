"""Jobs while they run and afterwards: cancel, reload, several tabs, delete, gallery, event stream."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import Service, Studio
from tests.browser.steps import LONG, WATCHED, choose, result, soon, start


def steps_done(page: Page) -> int:
    """The number of completed steps that the page shows; 0 before the first."""
    found = re.search(r"step (\d+) of", page.locator(".progress-detail").inner_text())
    return int(found[1]) if found else 0


def test_a_running_job_is_canceled(studio: Studio) -> None:
    page = studio.visit()
    choose(page, steps=LONG)
    start(page)
    soon(page, lambda: steps_done(page) > 1, "it runs", 60)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".stage-head .chip")).to_have_text("Canceled")
    studio.look("canceled")
    first = studio.job_id()
    page.get_by_role("button", name="Try again").click()
    expect(page).not_to_have_url(re.compile(first))
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".stage-head .chip")).to_have_text("Canceled")


def test_a_queued_job_shows_its_position(studio: Studio, service: Service) -> None:
    for _ in range(12):  # more than a worker holds at a time
        service.client.post("/generate", json={"steps": LONG, "super_resolution": False}).raise_for_status()
    page = studio.visit()
    choose(page)
    start(page)
    expect(page.locator(".progress")).to_contain_text("Waiting in the queue")
    expect(page.locator(".progress-detail")).to_have_text(re.compile(r"\d+ jobs? before it"))
    studio.look("waiting")


def test_a_reload_shows_the_running_job(studio: Studio) -> None:
    page = studio.visit()
    choose(page, steps=LONG)
    start(page)
    soon(page, lambda: steps_done(page) > 1, "it runs", 60)
    job, before = studio.job_id(), steps_done(page)
    page.reload()
    expect(page.locator(".stage-head .chip")).to_have_text("Running")
    assert studio.job_id() == job
    soon(page, lambda: steps_done(page) > before, "it goes on being told", 60)


def test_two_tabs_side_by_side(new_context: Callable[..., BrowserContext], service: Service) -> None:
    context = new_context()
    one, other = (Studio(context.new_page(), service.url) for _ in range(2))
    one.visit()
    other.visit()
    for tab, steps in ((one, 6), (other, 7)):
        choose(tab.page, steps=steps)
        start(tab.page)
    assert one.job_id() != other.job_id()
    result(one.page)
    result(other.page)
    cards = one.page.locator("#jobs li")
    expect(cards.nth(0)).to_have_attribute("data-id", other.job_id())
    expect(cards.nth(1)).to_have_attribute("data-id", one.job_id())
    for tab, steps in ((one, 6), (other, 7)):
        expect(tab.page.locator(".facts dl")).to_contain_text(f"steps{steps}")
        tab.check()


def test_a_job_is_deleted_after_confirmation(studio: Studio, service: Service) -> None:
    page = studio.visit()
    choose(page, steps=2)
    start(page)
    result(page)
    job = studio.job_id()
    page.get_by_role("button", name="Delete this job").click()
    studio.look("delete-question")
    page.get_by_role("button", name="Keep it").click()
    assert service.client.get(f"/jobs/{job}").status_code == 200
    page.get_by_role("button", name="Delete this job").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("Your clip appears here")).to_be_visible()
    expect(page.locator(f"#jobs [data-id={job}]")).to_have_count(0)
    assert service.client.get(f"/jobs/{job}").status_code == 410


def test_the_gallery_survives_a_reload_and_loads_more(studio: Studio, service: Service) -> None:
    made = [_quick(service.client) for _ in range(14)]
    page = studio.visit()
    cards = page.locator("#jobs li")
    expect(cards).to_have_count(12)
    page.get_by_role("button", name="Load more").click()
    expect(page.locator(f"#jobs [data-id={made[0]}]")).to_be_visible()
    studio.look("gallery")
    page.reload()
    expect(cards.first).to_have_attribute("data-id", made[-1])
    cards.first.get_by_role("button").click()
    expect(page.locator(".stage-head")).to_be_visible()
    assert studio.job_id() == made[-1]


def test_the_gallery_shows_one_kind(studio: Studio, service: Service, film: Path) -> None:
    nothing = _quick(service.client)
    with film.open("rb") as file:
        answer = service.client.post("/v2a", files={"file": file}, data={"params": f'{{"steps": {LONG}}}'})
    video = answer.raise_for_status().json()
    service.client.post(video["urls"]["cancel"]).raise_for_status()
    page = studio.visit()
    cards = page.locator("#jobs li")
    expect(page.locator(f"#jobs [data-id={nothing}]")).to_be_visible()
    page.get_by_label("Show", exact=True).select_option("Sound for a video")
    expect(page.locator(f"#jobs [data-id={nothing}]")).to_have_count(0)
    expect(cards.first).to_have_attribute("data-id", video["id"])
    studio.look("gallery-one-kind")
    page.get_by_label("Show", exact=True).select_option("All kinds")
    expect(page.locator(f"#jobs [data-id={nothing}]")).to_be_visible()


def test_without_events_the_job_is_polled(studio: Studio) -> None:
    page = studio.visit()
    page.route("**/events", lambda route: route.abort())
    choose(page, steps=WATCHED)
    start(page)
    soon(page, lambda: steps_done(page) > 1, "its steps are told", 60)
    result(page)


def test_a_broken_stream_resumes(studio: Studio, service: Service) -> None:
    """The first stream ends after a few events; the page reconnects with the id of the last one."""
    page = studio.visit()
    last_ids: list[str | None] = []

    def broken(route: Route) -> None:
        last_ids.append(route.request.headers.get("last-event-id"))
        if len(last_ids) > 1:
            route.continue_()
            return
        with service.client.stream("GET", route.request.url) as stream:
            begin, ids = "", []
            for line in stream.iter_lines():
                begin += line + "\n"
                ids += [line.removeprefix("id:").strip()] if line.startswith("id:") else []
                if not line and len(ids) == 2:
                    break
        sent.append(ids[-1])
        route.fulfill(status=200, content_type="text/event-stream", body="retry: 50\n" + begin)

    sent: list[str] = []
    page.route("**/events", broken)
    choose(page, steps=WATCHED)
    start(page)
    result(page)
    assert last_ids[0] is None
    assert last_ids[1] == sent[0]


def test_events_are_parsed_however_they_are_split(studio: Studio) -> None:
    page = studio.visit()
    text = ": hello\r\nretry: 50\r\n\r\nid: 7\nevent: status\ndata: {\ndata: }\n\ndata:x\r\rid: 8\ndata: lost"
    read = """async (text) => {
      const { EventParser } = await import("/studio/js/sse.js");
      const all = [];
      for (let size = 1; size < 20; size++) {
        const parser = new EventParser();
        const messages = [];
        for (let at = 0; at < text.length; at += size) messages.push(...parser.push(text.slice(at, at + size)));
        all.push(JSON.stringify([messages, parser.retry]));
      }
      return [...new Set(all)].map((each) => JSON.parse(each));
    }"""
    (found,) = page.evaluate(read, text)
    assert found == [[{"event": "status", "data": "{\n}"}, {"event": "message", "data": "x"}], 50]


def _quick(client: httpx.Client) -> str:
    """A canceled job, as a card in the gallery; its id."""
    job = client.post("/generate", json={"steps": LONG, "super_resolution": False}).raise_for_status().json()
    client.post(job["urls"]["cancel"]).raise_for_status()
    return str(job["id"])
