"""Accessibility: keyboard, screen reader, phone, colour scheme, reduced motion; and no other hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import Service, Studio
from tests.browser.steps import WATCHED, choose, clip, drop, result, soon, start


def test_the_page_works_by_keyboard_alone(studio: Studio) -> None:
    page = studio.visit()
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the clip")).to_be_focused()
    studio.look("skip-link")
    page.get_by_role("radio", name="Nothing").focus()
    keys.press("ArrowRight")
    expect(page.get_by_role("radio", name="A video")).to_be_checked()
    keys.press("ArrowLeft")
    expect(page.get_by_role("button", name="Make a clip")).to_be_visible()
    page.locator(".composer summary").focus()
    keys.press("Enter")
    page.get_by_role("switch", name="Enlarge the frames").focus()
    keys.press("Space")

    page.get_by_label("Steps", exact=True).focus()
    keys.press("ControlOrMeta+a")
    keys.type("3")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("3")
    keys.press("Enter")
    player = result(page)
    expect(page.get_by_role("heading", name="Clip from nothing")).to_be_focused()
    for _ in range(20):  # in the order of the page, from the heading
        keys.press("Tab")
        if player.get_by_role("button", name="Play").evaluate("button => button === document.activeElement"):
            break
    keys.press("Enter")
    soon(page, lambda: clip(player).evaluate("media => media.currentTime") > 0.1, "the clip plays")
    keys.press("Enter")
    keys.press("Tab")
    expect(player.get_by_label("Position")).to_be_focused()


def test_progress_is_announced_to_a_screen_reader(studio: Studio) -> None:
    page = studio.visit()
    choose(page, steps=WATCHED)
    start(page)
    said = page.locator("#announcer")
    expect(said).to_contain_text("Drawing picture and sound")
    expect(said).to_have_text("Clip from nothing: Done.")


def test_on_a_phone(phone: Studio, film: Path) -> None:
    page = phone.visit()
    phone.fits()
    phone.look("phone-empty")
    drop(page, film, "video/mp4")
    choose(page, steps=WATCHED, seconds=1.6)
    phone.fits()
    start(page, "Make its sound")
    phone.fits()
    phone.look("phone-running")
    result(page)
    phone.fits()
    phone.look("phone-done")
    page.reload()
    result(page)
    soon(page, lambda: page.evaluate("scrollY") > 300, "the clip is scrolled to")


def test_the_colour_scheme_is_switched_and_kept(studio: Studio) -> None:
    page = studio.visit()
    page.emulate_media(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    switch = page.get_by_role("button", name="Dark colours")
    expect(switch).to_have_attribute("aria-pressed", "false")
    switch.click()
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    expect(switch).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(paper) == dark


def test_reduced_motion_is_respected(new_context: Callable[..., BrowserContext], service: Service) -> None:
    studio = Studio(new_context(reduced_motion="reduce").new_page(), service.url)
    page = studio.visit()
    moving = """Array.from(document.querySelectorAll("*"), (each) => getComputedStyle(each))
      .filter((style) => style.transitionDuration !== "0s" || style.animationName !== "none").length"""
    assert page.evaluate(moving) == 0
    choose(page, steps=2)
    start(page)
    assert clip(result(page)).evaluate("media => media.paused")


def test_the_api_documentation_works_offline(
    new_context: Callable[..., BrowserContext], service_with_keys: str
) -> None:
    """With keys too: the description is public."""
    studio = Studio(new_context().new_page(), service_with_keys)
    page = studio.page
    page.goto(f"{studio.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    shown = set(page.locator(".opblock-summary-path").all_inner_texts())
    assert {"/generate", "/v2a", "/a2v", "/jobs/{job_id}"} <= {path.replace("​", "") for path in shown}
    page.get_by_role("button", name="POST /generate", exact=False).first.click()
    expect(page.get_by_role("button", name="Execute").first).to_be_visible()
    page.screenshot(path="build/screenshots/docs.png")
    studio.check()
