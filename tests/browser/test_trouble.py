"""Errors and their advice, and API keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, Route, expect

from tests.browser.conftest import Service, Studio
from tests.browser.steps import choose, clip, drop, loudness, result, start


def test_a_broken_file_is_explained(studio: Studio, tmp_path: Path) -> None:
    broken = tmp_path / "holiday.mp4"
    broken.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 40)
    page = studio.visit()
    drop(page, broken, "video/mp4")
    page.get_by_role("button", name="Make its sound").click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("holiday.mp4")
    expect(problem).to_contain_text("export it again")
    studio.look("broken-file")
    expect(page.get_by_role("button", name="Make its sound")).to_be_enabled()


def test_a_text_file_is_refused_with_the_accepted_formats(studio: Studio, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("This is no clip.")
    page = studio.visit()
    drop(page, text, "text/plain")
    page.get_by_role("button", name="Make its sound").click()
    expect(page.get_by_role("alert")).to_contain_text("MP4")


def test_an_invalid_number_is_marked_at_its_field(studio: Studio) -> None:
    page = studio.visit()
    page.get_by_text("More settings").click()
    steps = page.get_by_label("Steps", exact=True)
    steps.fill("0")
    page.get_by_role("button", name="Make a clip").click()
    expect(steps).to_have_attribute("aria-invalid", "true")
    expect(steps).to_be_focused()
    expect(page.locator(".field-steps .error")).to_have_text("This takes a whole number from 1 to 1000.")
    studio.look("wrong-number")
    steps.fill("3")
    expect(page.locator(".field-steps .error")).to_be_hidden()


def test_an_error_from_the_service_is_marked_at_its_field(studio: Studio) -> None:
    """ddim needs an integer stride of 1000 steps: 25 has one, 60 has not. No limit of the field says so."""
    page = studio.visit()
    page.get_by_text("More settings").click()
    page.get_by_label("Super-resolution sampler").select_option("ddim")
    page.get_by_label("Super-resolution steps", exact=True).fill("60")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Make a clip").click()
    expect(page.get_by_label("Super-resolution steps", exact=True)).to_be_focused()
    expect(page.locator(".field-sr_steps .error")).to_contain_text("one integer stride")


def test_the_start_of_super_resolution_is_sent_where_it_applies(studio: Studio) -> None:
    page = studio.visit()
    page.get_by_text("More settings").click()
    first = page.get_by_label("Super-resolution start", exact=True)
    first.fill("1000")  # the limit is that of the model, which the form does not know
    page.get_by_role("button", name="Make a clip").click()
    expect(first).to_be_focused()
    expect(page.locator(".field-sr_start .error")).to_contain_text("1 … 999 for the model")
    page.get_by_label("Super-resolution sampler").select_option("ddim")
    expect(first).to_be_hidden()


def test_an_unknown_job_is_explained(studio: Studio) -> None:
    page = studio.visit("/?job=job_01JD0000000000000000000000")
    expect(page.get_by_role("alert")).to_contain_text("There is no job")
    studio.look("no-job")


def test_an_unreachable_service_is_explained(studio: Studio) -> None:
    page = studio.visit()
    page.route("**/generate", lambda route: route.abort())
    page.get_by_role("button", name="Make a clip").click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute("**/generate")
    choose(page, steps=2)
    start(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    result(page)


def test_a_lost_response_creates_no_second_job(studio: Studio, service: Service) -> None:
    """The request arrived, but its response did not. Pressing the button again shows the created job."""
    page = studio.visit()
    choose(page, steps=2)
    arrived: list[str] = []

    def lose_the_answer(route: Route) -> None:
        arrived.append(route.fetch().json()["id"])
        route.abort()

    page.route("**/generate", lose_the_answer)
    page.get_by_role("button", name="Make a clip").click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute("**/generate")
    start(page)
    assert arrived == [studio.job_id()]
    result(page)
    # Submitted again after a response, the same form creates another job.
    start(page)
    expect(page).not_to_have_url(re.compile(arrived[0]))


def test_the_page_asks_for_a_key_and_keeps_it_in_the_tab(
    new_context: Callable[..., BrowserContext], service_with_keys: str, key: str
) -> None:
    context = new_context()
    studio = Studio(context.new_page(), service_with_keys)
    page = studio.page
    page.goto(studio.url)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    studio.look("key")
    field.fill("duet_not-a-key")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("Unknown key.")).to_be_visible()
    field.fill(key)
    field.press("Enter")
    expect(page.get_by_role("button", name="Make a clip")).to_be_visible()

    choose(page, outputs=1)
    start(page)
    source = clip(result(page)).evaluate("media => media.src")
    assert "signature=" in source
    assert key not in source
    assert loudness(page, source)[0] > 0.01
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("The command that repeats this job: copied.")).to_be_visible()
    assert key not in page.evaluate("navigator.clipboard.readText()")

    page.reload()
    result(page)
    assert page.evaluate("JSON.stringify([localStorage, document.cookie])").find(key) < 0
    another = Studio(context.new_page(), service_with_keys)
    another.page.goto(page.url)
    expect(another.page.get_by_label("API key")).to_be_visible()

    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    studio.check()
