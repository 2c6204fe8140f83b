"""The edit mode: retake, extension and region by mouse, keys and numbers, and the request that they make."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Service, Studio
from tests.browser.steps import across, choose, clip, drop, plays, result, soon, start, swipe

_CATCH = """
window.sent = [];
XMLHttpRequest.prototype.send = new Proxy(XMLHttpRequest.prototype.send, {
  apply(send, request, [form]) {
    window.sent.push([...form.entries()].map(([name, value]) => [name, value instanceof File ? value.name : value]));
    Reflect.apply(send, request, [form]);
  },
});
"""


def opened(studio: Studio, film: Path, errors: list[dict[str, str]] | None = None) -> Page:
    """The edit mode with a film of a few seconds. Requests to /edit are caught and refused with `errors`."""
    problem = {"code": "invalid_parameter", "detail": "Invalid value.", "errors": errors or []}
    page = studio.page
    page.add_init_script(_CATCH)
    page.route("**/edit", lambda route: route.fulfill(status=422, json=problem))
    studio.visit()
    drop(page, film, "video/mp4")
    page.get_by_role("radio", name="Edit").check()
    expect(page.locator(".track-sound")).to_be_visible()
    return page


def edited(studio: Studio, film: Path, way: str) -> Page:
    """The edit mode with a film of a few seconds, to make an edit."""
    page = studio.visit()
    drop(page, film, "video/mp4")
    page.get_by_role("radio", name="Edit").check()
    page.get_by_role("radio", name=way).check()
    expect(page.locator(".track-sound")).to_be_visible()
    return page


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask picture, white in the upper right quarter."""
    picture = Image.new("L", (64, 48))
    picture.paste(255, (32, 0, 64, 24))
    picture.save(tmp_path / "corner.png")
    return tmp_path / "corner.png"


def sent(page: Page) -> dict[str, Any]:
    """The parameters of the edit that the form sends when it is submitted, and the names of its files."""
    page.get_by_role("button", name="Make the edit").click()
    page.wait_for_function("window.sent.length === 1")
    parts = dict(page.evaluate("window.sent.pop()"))
    found: dict[str, Any] = json.loads(parts.pop("params"))
    ways = {name: value for name, value in found.items() if name in ("retake", "extend", "region", "mix", "start")}
    return ways | parts


def seconds_of(page: Page) -> float:
    return float(page.locator(".source video").evaluate("media => media.duration"))


def draw(page: Page, place: Locator, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at one point of the place, in shares of it, and release it at another."""
    place.scroll_into_view_if_needed()
    points = across(place, *begin), across(place, *end)  # the place may move along
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def test_spans_are_drawn_on_the_tracks(studio: Studio, film: Path) -> None:
    page = opened(studio, film)
    seconds = seconds_of(page)
    draw(page, page.locator(".track-sound"), (0.2, 0.5), (0.4, 0.5))
    draw(page, page.locator(".track-picture"), (0.6, 0.5), (0.8, 0.5))
    expect(page.get_by_role("list", name="Spans").get_by_role("listitem")).to_have_count(2)
    studio.look("edit-retake")
    first = sent(page)
    assert (first["file"], first["mix"]) == (film.name, "replace")
    expect(page.get_by_label("The file's own sound")).to_be_attached()
    (sound,), (picture,) = first["retake"]["audio"], first["retake"]["video"]
    assert sound == [pytest.approx(0.2 * seconds, abs=0.11), pytest.approx(0.4 * seconds, abs=0.11)]
    assert picture == [pytest.approx(0.6 * seconds, abs=0.11), pytest.approx(0.8 * seconds, abs=0.11)]

    draw(page, page.locator(".track-sound .part"), (0.5, 0.5), (1.0, 0.5))  # half its length later
    (moved,) = sent(page)["retake"]["audio"]
    assert moved[0] == pytest.approx(sound[0] + 0.1 * seconds, abs=0.21)
    assert moved[1] - moved[0] == pytest.approx(sound[1] - sound[0])


def test_spans_are_set_by_keys_and_numbers(studio: Studio, film: Path) -> None:
    page = opened(studio, film)
    page.get_by_role("button", name="Make the edit").click()
    expect(page.get_by_text("Draw a span first, or add one.")).to_be_visible()
    add = page.get_by_role("button", name="Add a span")
    expect(add).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Span 1: begin, in seconds")).to_be_focused()
    page.get_by_label("Span 1: begin, in seconds").fill("0.25")
    page.get_by_label("Span 1: end, in seconds").fill("0.75")
    end = page.get_by_role("slider", name="Span 1, sound: end")
    end.press("ArrowRight")
    end.press("Shift+ArrowRight")
    assert sent(page)["retake"] == {"audio": [[0.35, 0.95]]}
    page.get_by_label("Span 1: what is made again").select_option("Both")
    expect(page.get_by_role("slider", name="Span 1, picture: end")).to_have_attribute("aria-valuenow", "0.95")
    assert sent(page)["retake"] == {"audio": [[0.35, 0.95]], "video": [[0.35, 0.95]]}

    add.click()
    page.get_by_label("Span 2: begin, in seconds").fill("0.5")
    page.get_by_label("Span 2: end, in seconds").fill("1.2")
    expect(page.get_by_text("It overlaps span 1.")).to_be_visible()
    expect(page.get_by_label("Span 2: begin, in seconds")).to_have_attribute("aria-invalid", "true")
    studio.look("edit-overlap")
    page.get_by_role("button", name="Make the edit").click()
    expect(page.get_by_label("Span 1: begin, in seconds")).to_be_focused()
    page.get_by_label("Span 2: begin, in seconds").fill("1")
    page.get_by_label("Span 2: end, in seconds").fill("0.5")
    expect(page.get_by_text("It must end after it begins.")).to_be_visible()
    page.get_by_label("Span 2: end, in seconds").fill("100")
    expect(page.get_by_text("The file ends at")).to_be_visible()
    page.get_by_role("button", name="Remove span 2").click()
    assert sent(page)["retake"]["audio"] == [[0.35, 0.95]]


def test_an_error_of_the_service_is_marked_at_its_span(studio: Studio, film: Path) -> None:
    page = opened(studio, film, [{"field": "retake.audio.1", "got": "", "allowed": "a span of at least 0.1 s"}])
    for begin in ("1", "0.5"):  # the service sees them in their order
        page.get_by_role("button", name="Add a span").click()
        page.get_by_label("begin, in seconds").last.fill(begin)
        page.get_by_label("end, in seconds").last.fill(str(float(begin) + 0.3))
    assert sent(page)["retake"] == {"audio": [[0.5, 0.8], [1, 1.3]]}
    expect(page.get_by_label("Span 1: begin, in seconds")).to_be_focused()
    expect(page.locator(".span").first).to_contain_text("a span of at least 0.1 s")


def test_a_film_is_extended(studio: Studio, film: Path) -> None:
    page = opened(studio, film)
    seconds = seconds_of(page)
    page.get_by_role("radio", name="Extend").check()
    assert sent(page)["extend"] == {"after": 1}
    after, before = (page.get_by_role("slider", name=f"Seconds added {side}") for side in ("after", "before"))
    begin, width = (
        page.locator(".axis").evaluate(f"axis => axis.getBoundingClientRect().{each}") for each in ("x", "width")
    )
    after.hover()
    page.mouse.down()
    y = across(page.locator(".axis"), 0, 0.5)[1]
    page.mouse.move(begin + width * (1 + 1.5 / seconds), y, steps=3)
    page.mouse.up()
    assert sent(page)["extend"] == {"after": pytest.approx(1.5, abs=0.11)}
    before.press("ArrowLeft")
    before.press("PageUp")
    page.get_by_label("Seconds added after").last.fill("0")
    expect(page.get_by_text("Makes 1.1 s anew")).to_be_visible()
    expect(page.locator(".field-mix")).to_have_count(1)
    expect(page.locator(".field-mix")).to_have_attribute("hidden", "")
    studio.look("edit-extend")
    assert sent(page)["extend"] == {"before": 1.1}
    before.press("Home")
    page.get_by_role("button", name="Make the edit").click()
    expect(page.get_by_text("Add seconds before or after the clip.")).to_be_visible()
    page.locator("#extend-after").fill("61")
    expect(page.get_by_text("This service adds at most 60 s.")).to_be_visible()


def test_a_region_is_drawn_on_the_picture(studio: Studio, film: Path) -> None:
    page = opened(studio, film)
    page.get_by_role("radio", name="Region").check()
    draw(page, page.locator(".picture-area"), (0.1, 0.2), (0.5, 0.8))
    assert sent(page)["region"] == {"x": 0.1, "y": 0.2, "width": 0.4, "height": 0.6, "audio": "keep"}
    frame = page.get_by_role("group", name="Rectangle")
    frame.press("ArrowRight")
    frame.press("Shift+ArrowUp")
    page.locator("#region-x").evaluate("input => input.blur()")
    assert page.locator("#region-x").input_value() == "11"
    assert page.locator("#region-height").input_value() == "59"
    draw(page, frame, (0.5, 0.5), (1.0, 0.5))
    assert sent(page)["region"]["x"] == pytest.approx(0.31, abs=0.011)
    draw(page, page.locator(".track-sound"), (0.5, 0.5), (0.75, 0.5))
    page.get_by_label("The sound", exact=True).select_option("is made with it")
    studio.look("edit-region")
    region = sent(page)["region"]
    seconds = seconds_of(page)
    assert (region["start"], region["end"]) == (
        pytest.approx(seconds / 2, abs=0.11),
        pytest.approx(0.75 * seconds, abs=0.11),
    )
    assert region["audio"] == "new"
    page.get_by_label("Left %").fill("80")
    expect(page.get_by_text("Beyond the picture: at most 20.")).to_be_visible()


def test_a_region_is_a_mask_picture(studio: Studio, film: Path, mask: Path) -> None:
    page = opened(studio, film)
    page.get_by_role("radio", name="Region").check()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Use a mask picture").click()
    chooser.value.set_files(mask)
    expect(page.get_by_text("Mask: corner.png")).to_be_visible()
    expect(page.locator(".mask-cover")).to_be_visible()
    studio.look("edit-mask")
    found = sent(page)
    assert (found["region"], found["mask"]) == ({"audio": "keep"}, "corner.png")
    page.get_by_role("button", name="Use a rectangle").click()
    found = sent(page)
    assert "mask" not in found
    assert found["region"]["width"] == 0.3


def test_before_and_after_an_edit_are_compared(studio: Studio, service: Service, film: Path) -> None:
    """They are shown and heard at one place, at the same moment of the film."""
    page = edited(studio, film, "Extend")
    page.locator("#extend-before").fill("0.5")
    page.locator("#extend-after").fill("0")
    choose(page, steps=2)
    start(page, "Make the edit")
    player = result(page)
    own, made = player.locator("video").first, clip(player)
    muted, length = "media => media.muted", "media => media.duration"
    assert made.evaluate(length) == pytest.approx(own.evaluate(length) + 0.5, abs=0.11)
    expect(own).to_be_hidden()
    expect(made).to_be_visible()
    assert (own.evaluate(muted), made.evaluate(muted)) == (True, False)
    place = made.bounding_box()
    player.get_by_role("radio", name="After").focus()
    page.keyboard.press("ArrowLeft")
    expect(player.get_by_role("radio", name="Before")).to_be_checked()
    expect(made).to_be_hidden()
    assert (own.evaluate(muted), made.evaluate(muted)) == (False, True)
    assert own.bounding_box() == place
    player.get_by_label("Position").fill("0.5")
    time = "media => media.currentTime"
    soon(page, lambda: abs(own.evaluate(time) + 0.5 - made.evaluate(time)) < 0.05, "both are at the same moment")
    studio.look("edit-before")
    page.get_by_text("How it was made").click()
    expect(page.locator(".facts dl")).to_contain_text("before 0.5")


def test_a_retake_is_made_and_filled_in_again(studio: Studio, service: Service, film: Path) -> None:
    page = edited(studio, film, "Retake")
    draw(page, page.locator(".track-sound"), (0.2, 0.5), (0.3, 0.5))
    choose(page, steps=2)
    page.get_by_text("More settings").click()
    page.get_by_label("The file's own sound").select_option("over")
    start(page, "Make the edit")
    plays(result(page))
    studio.look("edit-done")
    job = service.client.get(f"/jobs/{studio.job_id()}").json()
    ((begin, end),) = job["params"]["retake"]["audio"]
    assert job["params"]["mix"] == "over"
    page.locator(".menu summary").click()
    expect(page.get_by_role("link", name="New sound alone")).to_be_visible()
    page.get_by_role("radio", name="Nothing").check()
    page.get_by_role("button", name="Use this seed").click()
    expect(page.get_by_label("begin, in seconds")).to_have_value(f"{begin:g}")
    expect(page.get_by_role("slider", name="sound: end")).to_have_attribute("aria-valuenow", f"{end:.2f}")
    page.get_by_role("button", name="Copy as curl").click()
    command = shlex.split(page.evaluate("navigator.clipboard.readText()").replace("\\\n", ""))
    assert command[2] == f"{studio.url}/edit"


def test_a_mask_is_sent_and_filled_in_again(studio: Studio, service: Service, film: Path, mask: Path) -> None:
    page = edited(studio, film, "Region")
    page.locator("#region-end").fill("0.5")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Use a mask picture").click()
    chooser.value.set_files(mask)
    choose(page, steps=2)
    start(page, "Make the edit")
    result(page)
    made = service.client.get(f"/jobs/{studio.job_id()}").json()
    assert service.client.get(made["urls"]["mask"]).content == mask.read_bytes()
    page.get_by_role("button", name="Use a rectangle").click()
    page.get_by_role("button", name="Use this seed").click()
    expect(page.get_by_text("Mask: mask.png")).to_be_visible()
    expect(page.locator("#region-end")).to_have_value("0.5")


def test_the_edit_mode_on_a_phone(phone: Studio, film: Path) -> None:
    page = opened(phone, film)
    swipe(page.locator(".track-sound"), (0.2, 0.5), (0.3, 0.5), (0.5, 0.5))
    expect(page.get_by_role("list", name="Spans").get_by_role("listitem")).to_have_count(1)
    page.get_by_role("button", name="Add a span").click()
    phone.fits()
    phone.look("phone-edit-retake")
    page.get_by_role("radio", name="Extend").check()
    phone.fits()
    page.get_by_role("radio", name="Region").check()
    swipe(page.locator(".picture-area"), (0.1, 0.2), (0.3, 0.4), (0.6, 0.7))
    assert sent(page)["region"]["width"] == pytest.approx(0.5, abs=0.011)
    phone.fits()
    phone.look("phone-edit-region")
