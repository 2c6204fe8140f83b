"""The part of the upload that is used: by mouse, touch, keyboard and numbers; and what the form says of the clip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from model.networks.config import ClipSpec
from model.request import SR_STEPS, clip_of, most_windows
from tests.browser.conftest import Service, Studio
from tests.browser.steps import across, choose, drop, result, soon, start, swipe


def part_of(page: Page) -> tuple[float, float]:
    """Begin and end of the chosen part, as a screen reader is told."""
    begin, end = (page.get_by_role("slider", name=f"Part used: {edge}") for edge in ("begin", "end"))
    return tuple(float(each.get_attribute("aria-valuenow") or "") for each in (begin, end))  # type: ignore[return-value]


def fields(page: Page) -> tuple[str, str]:
    """The numbers in the form."""
    return page.get_by_label("Begin at").input_value(), page.get_by_label("Length in seconds").input_value()


def dropped(studio: Studio, film: Path) -> float:
    """Open the page and drop the film; the seconds that it lasts."""
    page = studio.visit()
    drop(page, film, "video/mp4")
    expect(page.get_by_role("slider", name="Part used: begin")).to_be_visible()
    return float(page.locator(".source video").evaluate("media => media.duration"))


def test_a_part_is_chosen_by_mouse(studio: Studio, service: Service, film: Path) -> None:
    seconds = dropped(studio, film)
    page = studio.page
    picture, sound = page.locator(".track-picture"), page.locator(".track-sound")
    assert part_of(page) == (0, pytest.approx(seconds, abs=0.01))
    assert fields(page) == ("0", "")
    expect(page.locator(".source-head .quiet")).to_contain_text(f"{seconds:.1f} s")

    page.mouse.move(*across(sound, 0.25))  # draw a part
    page.mouse.down()
    page.mouse.move(*across(sound, 0.4))
    page.mouse.move(*across(sound, 0.5))
    page.mouse.up()
    begin, end = part_of(page)
    assert (begin, end) == (pytest.approx(seconds / 4, abs=0.11), pytest.approx(seconds / 2, abs=0.11))
    assert [float(each) for each in fields(page)] == [begin, pytest.approx(end - begin)]
    studio.look("range")

    page.mouse.move(*across(picture, 0.35))  # move it
    page.mouse.down()
    page.mouse.move(*across(picture, 0.45), steps=3)
    page.mouse.up()
    moved = part_of(page)
    assert moved == (pytest.approx(begin + seconds / 10, abs=0.11), pytest.approx(end + seconds / 10, abs=0.11))

    handle = page.get_by_role("slider", name="Part used: end")  # move its end to the end of the file
    handle.hover()
    page.mouse.down()
    page.mouse.move(*across(picture, 1.2), steps=3)
    page.mouse.up()
    assert part_of(page) == (moved[0], pytest.approx(seconds, abs=0.01))
    assert fields(page) == (f"{moved[0]:g}", ""), "to the end of the file, whatever its exact length"

    choose(page, steps=2)
    start(page, "Make its sound")
    job = service.client.get(f"/jobs/{studio.job_id()}").json()
    expect(page.locator(".stage")).not_to_have_text(re.compile("null|undefined"))
    assert job["input"]["used"]["start"] == moved[0]
    assert job["input"]["used"]["duration"] == pytest.approx(seconds - moved[0], abs=0.1)


def test_a_part_is_chosen_by_keys_and_numbers(studio: Studio, film: Path) -> None:
    seconds = dropped(studio, film)
    page = studio.page
    begin, end = (page.get_by_role("slider", name=f"Part used: {edge}") for edge in ("begin", "end"))
    begin.focus()
    begin.press("ArrowRight")
    begin.press("ArrowRight")
    assert part_of(page)[0] == 0.2
    assert fields(page) == ("0.2", "")
    end.press("PageDown")
    assert part_of(page) == (0.2, pytest.approx(round(10 * (seconds - 1)) / 10, abs=0.06))
    end.press("Home")
    assert part_of(page) == (0.2, 0.3), "a part is never empty"
    end.press("Shift+ArrowRight")
    assert part_of(page) == (0.3, 0.4), "both ends move"
    assert fields(page) == ("0.3", "0.1")
    page.get_by_label("Begin at").fill("0.55")
    page.get_by_label("Length in seconds").fill("0.8")
    assert part_of(page) == (0.55, 1.35)
    expect(page.get_by_text("Makes 0.8 s, 8 frames in 1 window")).to_be_visible()
    soon(page, lambda: page.locator(".source video").evaluate("media => media.currentTime") == 0.55, "it is shown")


def test_a_part_is_chosen_by_touch(phone: Studio, film: Path) -> None:
    seconds = dropped(phone, film)
    page = phone.page
    track = page.locator(".track-sound")
    swipe(track, (0.5, 0.5), (0.6, 0.5), (0.7, 0.5), (0.75, 0.5))
    begin, end = part_of(page)
    assert (begin, end) == (pytest.approx(seconds / 2, abs=0.2), pytest.approx(0.75 * seconds, abs=0.2))
    swipe(track, (begin / seconds, 0.5), (0.3, 0.5), (0.25, 0.5))
    assert part_of(page) == (pytest.approx(seconds / 4, abs=0.2), end)
    phone.fits()
    phone.look("phone-range")


def test_an_impossible_part_is_explained_at_its_field(studio: Studio, film: Path) -> None:
    seconds = dropped(studio, film)
    page = studio.page
    page.get_by_label("Begin at").fill("1000")
    expect(page.locator(".field-start .error")).to_have_text(
        re.compile(r"^The file ends at 0:0\d\.\d: begin earlier\.$")
    )
    studio.look("impossible-part")
    page.get_by_role("button", name="Make its sound").click()
    expect(page.get_by_label("Begin at")).to_be_focused()
    expect(page.locator(".stage-head")).to_have_count(0)
    page.get_by_label("Begin at").fill("1")
    expect(page.locator(".field-start .error")).to_be_hidden()
    page.get_by_label("Length in seconds").fill(str(seconds))
    left = re.compile(r"^Only \d(\.\d+)? s of the file are left after 0:01\.0\.$")
    expect(page.locator(".field-duration .error")).to_have_text(left)
    page.get_by_label("Length in seconds").fill("61")
    expect(page.locator(".field-duration .error")).to_have_text("This service makes clips of at most 60 s.")
    page.get_by_role("radio", name="Nothing").check()
    page.get_by_label("Length in seconds").fill("61")
    expect(page.locator(".field-duration .error")).to_have_text("This service makes clips of at most 60 s.")
    page.get_by_label("Length in seconds").fill("3.2")
    expect(page.locator(".field-duration .error")).to_be_hidden()
    expect(page.get_by_text("Makes 3.2 s, 32 frames in 3 windows")).to_be_visible()


def test_the_cost_is_shown_once_the_service_has_measured_it(studio: Studio, service: Service) -> None:
    measured = {"generate": {"step": 0.25, "sr_step": 2.0, "files": 1.0}}

    def with_speed(route: Route) -> None:
        answer = route.fetch()
        models = answer.json()
        for model in models["data"]:
            model["speed"] = speed
        route.fulfill(response=answer, json=models)

    speed: dict[str, Any] = {}
    studio.page.route("**/models", with_speed)
    page = studio.visit()
    expect(page.get_by_text("The time is known after the first clip of this kind.")).to_be_visible()
    speed = measured
    studio.visit()
    choose(page, steps=4, outputs=2)
    page.get_by_label("Length in seconds").fill("3.2")
    assert most_windows(32, 16) == 3
    expect(page.get_by_text("about 8 s on this server")).to_be_visible()  # 2 · (4 · 3 · 0.25 + 1)
    choose(page, steps=4, outputs=2, enlarge=True)
    expect(page.get_by_text("about 16 s on this server")).to_be_visible()  # and 2 · 1 · 2 groups · 2.0
    page.unroute("**/models")


def test_the_cost_follows_the_jobs(studio: Studio, service: Service) -> None:
    """Without a reload: the page asks again when a job has ended."""
    page = studio.visit()
    choose(page, steps=4)
    start(page)
    result(page)
    expect(page.locator(".stage")).not_to_have_text(re.compile("null|undefined"))
    expect(page.locator("#cost")).to_have_text(re.compile(r"about \d+ s on this server"))
    demo = next(model for model in service.client.get("/models").json()["data"] if model["default"])
    assert demo["speed"]["generate"]["step"] > 0


def test_the_formulas_of_the_page_are_those_of_the_service(studio: Studio) -> None:
    page = studio.visit()
    asked = [(duration / 10, window) for duration in (1, 15, 16, 17, 31, 32, 46, 47, 64, 600) for window in (8, 16)]
    found = page.evaluate(
        """async (asked) => {
          const { framesOf, windowsOf, SR_STEPS } = await import("/studio/js/cost.js");
          const made = asked.map(([duration, frames]) => {
            const long = framesOf(duration, { clip: { frames, fps: 10 } });
            return [long, windowsOf(long, frames)];
          });
          return { made, steps: SR_STEPS };
        }""",
        asked,
    )
    clips = [(clip_of(duration, ClipSpec(frames=window, fps=10)).frames, window) for duration, window in asked]
    assert found["made"] == [[frames, most_windows(frames, window)] for frames, window in clips]
    assert found["steps"] == SR_STEPS


@pytest.mark.parametrize(
    ("words", "share", "forwards"),
    [
        ({"prompt": "rain"}, 0.55, 1.55),
        ({"prompt": "rain"}, 1, 2),
        ({"prompt": "rain", "prompt_scale": 0.5}, 0.55, 2),
        ({"prompt": "rain", "prompt_scale": 1}, 0.55, 1),
        ({}, 1, 1),
    ],
)
def test_a_prompt_costs_a_second_evaluation_in_its_share_of_the_steps(
    studio: Studio, words: dict[str, Any], share: float, forwards: float
) -> None:
    page = studio.visit()
    seconds = page.evaluate(
        """async ([words, share]) => {
          const { costOf } = await import("/studio/js/cost.js");
          const model = {
            clip: { frames: 16, fps: 10 },
            qualities: { best: { steps: 20, sr_steps: 8 } },
            speed: { generate: { step: 1, sr_step: null, files: 0.5 } },
            text: { prompt_scale: 2, guided_share: share },
          };
          return costOf("generate", undefined, { ...words, num_outputs: 1 }, model, false);
        }""",
        [words, share],
    )
    assert seconds == pytest.approx(20 * forwards + 0.5)
