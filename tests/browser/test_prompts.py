"""Prompts on the page: where the model knows words, and nowhere else. And the scores of outputs."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.browser.conftest import Service, Studio
from tests.browser.steps import choose, result, start
from tests.tiny_model import TEXT

HOSTILE = 'rain <img src=x onerror="alert(1)"> & "thunder"'


def test_a_prompt_from_the_form_to_the_finished_clip(studio: Studio, service: Service) -> None:
    page = studio.visit()
    prompt = page.get_by_label("Prompt", exact=True)
    page.get_by_label("Model").select_option("tiny")
    page.get_by_label("Model").select_option("words")
    expect(prompt).to_be_visible()
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Negative prompt")).to_be_hidden()

    # With the keyboard alone: an example, then words of one's own.
    prompt.focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=TEXT.examples[0])).to_be_focused()
    page.keyboard.press("Enter")
    expect(prompt).to_have_value(TEXT.examples[0])
    expect(prompt).to_be_focused()
    prompt.fill("")
    page.keyboard.insert_text(HOSTILE + "\nat night")
    expect(prompt).to_have_value(HOSTILE + " at night")
    page.get_by_label("Negative prompt").fill("wind")
    page.get_by_label("Prompt strength").fill("2")
    studio.look("prompt")
    page.get_by_text("More settings").click()

    choose(page, steps=2, outputs=2)
    page.get_by_text("More settings").click()
    page.get_by_label("Outputs to keep", exact=True).fill("1")
    prompt.press("Enter")  # sends, as in a field of one line
    expect(page.locator(".stage-head")).to_be_visible()
    result(page)
    words = page.locator(".stage .prompt")
    expect(words).to_have_text(f"“{HOSTILE} at night” not: wind")
    expect(page.locator(".card-prompt").first).to_have_text(f"{HOSTILE} at night")
    params = service.client.get(f"/jobs/{studio.job_id()}").json()["params"]
    assert (params["prompt"], params["negative_prompt"]) == (f"{HOSTILE} at night", "wind")
    assert params["prompt_scale"] == 2
    studio.look("prompt-done")

    prompt.fill("something else")
    page.get_by_role("button", name="Use this seed").click()
    expect(prompt).to_have_value(f"{HOSTILE} at night")


def test_without_words_there_is_no_prompt(studio: Studio, service: Service) -> None:
    page = studio.visit()
    page.get_by_label("Model").select_option("words")
    page.get_by_label("Prompt", exact=True).fill("heavy rain")
    page.get_by_label("Model").select_option("tiny")
    expect(page.get_by_label("Prompt", exact=True)).to_be_hidden()
    choose(page, steps=2)
    start(page)
    assert "prompt" not in service.client.get(f"/jobs/{studio.job_id()}").json()["params"]


def test_a_prompt_on_a_phone(phone: Studio) -> None:
    page = phone.visit()
    page.get_by_label("Model").select_option("words")
    page.get_by_role("button", name=TEXT.examples[1]).tap()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(TEXT.examples[1])
    phone.fits()
    phone.look("prompt-phone")
    choose(page, steps=2)
    start(page)
    result(page)
    expect(page.locator(".stage .prompt")).to_have_text(f"“{TEXT.examples[1]}”")
    phone.fits()
    phone.look("prompt-phone-done")


def test_scores_of_outputs_and_of_those_that_were_not_kept(studio: Studio) -> None:
    def scored(route: Route) -> None:
        answer = route.fetch()
        job = answer.json()
        if job.get("status") == "completed":
            job["outputs"][0]["scores"] = {"sync": 0.8, "av_align": None, "lag": -0.1}
            none = {"sync": None, "av_align": None, "lag": None}
            job["dropped"] = [
                {"index": 1, "seed": 1, "scores": {"sync": 0.25, "av_align": 0.5, "lag": 0}},
                {"index": 2, "seed": 1, "scores": none, "scores_reason": "the sound is silent"},
            ]
        route.fulfill(response=answer, json=job)

    studio.page.route(re.compile(r"/jobs/job_\w+$"), scored)
    page = studio.visit()
    page.get_by_label("Model").select_option("words")
    choose(page, steps=2, outputs=2)
    page.get_by_text("More settings").click()
    page.get_by_label("Outputs to keep", exact=True).fill("1")
    start(page)
    result(page)
    page.reload()  # the numbers of a finished job, as the service would send them
    result(page)
    scores = page.locator(".scores")
    expect(scores.locator(".score-line").first).to_have_text("Sync 0.80Lag 0.10 s early")
    scores.get_by_text("Scores, and 2 not kept").click()
    dropped = scores.get_by_role("list", name="Outputs that were not kept")
    expect(dropped.get_by_role("listitem")).to_have_text(
        ["Output 2: Sync 0.25AV-Align 0.50Lag 0 s", "Output 3: No scores: the sound is silent"]
    )
    expect(scores.locator("dl")).to_contain_text("onsets that are heard")
    studio.look("scores")


def test_the_quality_says_how_near_the_clip_is_to_that_of_many_steps(studio: Studio) -> None:
    page = studio.visit()
    quality, said = page.get_by_label("Quality"), page.locator(".field-quality .remark")
    page.get_by_label("Model").select_option("demo")
    expect(said).to_have_text(
        re.compile(r"^Nearly the same clip as with many steps: picture differs by 0\.\d\d, sound")
    )
    best = said.text_content()
    quality.select_option("fast")
    expect(said).to_be_visible()
    expect(said).not_to_have_text(best or "")
    expect(said).to_have_text(re.compile(r"picture differs by 0\.\d\d, sound differs by 0\.\d\d$"))
    page.get_by_label("Model").select_option("words")
    page.get_by_label("Prompt", exact=True).fill(TEXT.examples[0])
    page.get_by_label("Model").select_option("tiny")
    expect(said).to_be_hidden()
    page.get_by_label("Model").select_option("demo")  # the hidden prompt does not count
    expect(said).to_be_visible()
