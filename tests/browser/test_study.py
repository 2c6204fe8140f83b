"""A rater on the page of a study: on a phone, by keyboard, through reloads and a connection that breaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from model.media.encode import write_clip
from service.jobs.connection import connect
from service.settings import Settings
from service.study.store import StudyStore
from tests.browser.conftest import Service, Studio

SECONDS = 0.8
NAMES = iter(f"browser-{number}" for number in range(100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with a moving disc and a tone."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(2):
        rows, columns = np.mgrid[:96, :128]
        discs = [(rows - 48) ** 2 + (columns - 12 * frame - 16) ** 2 < 200 for frame in range(8)]
        frames = np.stack([np.where(disc[..., None], (240, 90 + 120 * number, 40), (24, 28, 48)) for disc in discs])
        time = np.arange(round(SECONDS * 16_000)) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (400 + 200 * number) * time)
        write_clip(folder / f"{number}.mp4", frames.astype(np.uint8), 10, tone[None], 16_000, "")
    return folder


def duet(service: Service, *arguments: str) -> str:
    """Run a command of `duet study` on the stack; returns what it prints."""
    command = [sys.executable, "-m", "duet", "study", *arguments, "--data", str(service.data)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def studies(service: Service) -> Iterator[StudyStore]:
    client = connect(Settings(redis_url=f"unix://{service.data}/redis/redis.sock"))
    yield StudyStore(client)
    client.close()


@pytest.fixture
def invite(service: Service, folder: Path) -> Callable[..., tuple[str, str]]:
    """Creates a study for one rater; returns its name and the path of the link."""

    def invite(checks: int = 0) -> tuple[str, str]:
        name = next(NAMES)
        links = duet(service, "create", name, "--clips", f"real={folder}", "--raters", "1", "--checks", str(checks))
        return name, "/study/" + links.strip().rsplit("/", 1)[1]

    return invite


def play(page: Page) -> None:
    """Play the clip to its end."""
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_role("radio", name="Real")).to_be_enabled()


def answer(page: Page, video: int, sound: int, match: int, origin: str) -> None:
    words = ("How good is the picture?", "How good is the sound?", "How well do picture and sound match?")
    for question, mark in zip(words, (video, sound, match), strict=True):
        page.get_by_role("group", name=question).get_by_role("radio", name=str(mark)).check()
    page.get_by_role("radio", name=origin).check()


def go_on(page: Page) -> None:
    page.get_by_role("button", name="Save and go on").click()


def test_a_rater_on_a_phone(
    phone: Studio, service: Service, invite: Callable[..., tuple[str, str]], studies: StudyStore
) -> None:
    name, link = invite(checks=1)
    page = phone.visit(link)
    phone.fits()
    phone.look("study-start")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Clip 1 of 3")).to_be_focused()
    expect(page.get_by_role("button", name="Save and go on")).to_be_disabled()
    expect(page.get_by_role("radio", name="Real")).to_be_disabled()
    phone.look("study-locked")

    play(page)
    expect(page.get_by_role("button", name="Save and go on")).to_be_disabled()
    answer(page, 4, 3, 5, "Real")
    phone.fits()
    phone.look("study-answered")
    go_on(page)
    expect(page.get_by_role("heading", name="Clip 2 of 3")).to_be_focused()
    expect(page.get_by_text("1 of 3 rated")).to_be_visible()

    page.reload()
    expect(page.get_by_text("You have rated 1 of 3 clips.")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    play(page)
    phone.look("study-check")
    study = studies.get(name)
    check = next(clip for clip in study.clips if clip.expected is not None)
    assert page.locator("video").get_attribute("src") == f"{link.rsplit('/', 1)[1]}/clips/{check.id}.mp4"
    assert check.expected is not None
    origin = "Real" if check.expected.real else "Machine-made"
    answer(page, check.expected.video, check.expected.sound, check.expected.match, origin)
    go_on(page)
    expect(page.get_by_role("heading", name="Clip 3 of 3")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("radio", name="Real")).to_be_checked()
    answer(page, 4, 2, 5, "Real")  # changed
    go_on(page)
    go_on(page)
    play(page)
    answer(page, 1, 2, 3, "Machine-made")
    go_on(page)
    expect(page.get_by_role("heading", name="All clips are rated")).to_be_visible()
    phone.look("study-submit")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    phone.look("study-thanks")
    page.reload()
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()

    ballots = studies.ballots(name)
    (rater,) = study.raters
    assert ballots.submitted == {rater.id}
    kept = [tuple(vars(ballots.votes[rater.id][clip].answers).values()) for clip in rater.clips]
    assert (kept[0], kept[2]) == ((4, 2, 5, True), (1, 2, 3, False))
    assert "Raters who count: 1; excluded for failed attention checks: 0" in duet(service, "report", name)


def test_a_study_works_by_keyboard_alone(studio: Studio, invite: Callable[..., tuple[str, str]]) -> None:
    page = studio.visit(invite()[1])
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("button", name="Start")).to_be_focused()
    keys.press("Enter")
    for number in (1, 2):
        expect(page.get_by_role("heading", name=f"Clip {number} of 2")).to_be_focused()
        keys.press("Tab")
        expect(page.get_by_role("button", name="Play")).to_be_focused()
        keys.press("Enter")
        expect(page.locator("#announcer")).to_have_text("You can answer now.")
        expect(page.get_by_role("button", name="Play again")).to_be_focused()
        keys.press("Tab")
        for _ in range(3):
            keys.press("Space")
            keys.press("ArrowRight")
            keys.press("Tab")
        keys.press("Space")
        keys.press("Enter")
    expect(page.get_by_role("heading", name="All clips are rated")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Thank you")).to_be_focused()


def test_a_broken_connection_costs_no_vote(
    studio: Studio, invite: Callable[..., tuple[str, str]], studies: StudyStore
) -> None:
    """The first request is kept by the service but its answer is lost; the page sends it again."""
    name, link = invite()
    page = studio.visit(link)
    page.get_by_role("button", name="Start").click()
    play(page)
    answer(page, 2, 2, 2, "Real")
    sent = []

    def lose_the_answer(route: Route) -> None:
        sent.append(route.request.post_data)
        if len(sent) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/votes/*", lose_the_answer)
    go_on(page)
    expect(page.get_by_role("heading", name="Clip 2 of 2")).to_be_visible()
    assert len(sent) == 2
    assert sent[0] == sent[1]
    (votes,) = studies.ballots(name).votes.values()
    assert [vote.revision for vote in votes.values()] == [1]

    page.unroute("**/votes/*")
    play(page)
    answer(page, 3, 3, 3, "Real")
    page.route("**/votes/*", lambda route: route.abort())
    go_on(page)
    expect(page.get_by_text("Your rating is not saved yet.")).to_be_visible()
    studio.look("study-offline")
    page.unroute("**/votes/*")
    go_on(page)
    expect(page.get_by_role("heading", name="All clips are rated")).to_be_visible()


def test_links_that_are_unknown_or_closed_say_so(
    studio: Studio, service: Service, invite: Callable[..., tuple[str, str]]
) -> None:
    name, link = invite()
    page = studio.visit(link + "x")
    expect(page.get_by_role("heading", name="This link does not work")).to_be_visible()
    studio.look("study-unknown")
    studio.visit(link)
    page.get_by_role("button", name="Start").click()
    play(page)
    answer(page, 3, 3, 3, "Real")
    duet(service, "close", name)
    go_on(page)
    expect(page.get_by_role("heading", name="This study is closed")).to_be_visible()
    studio.visit(link)
    expect(page.get_by_role("heading", name="This study is closed")).to_be_visible()
    studio.look("study-closed")


def test_two_tabs_keep_the_latest_answers(
    new_context: Callable[..., BrowserContext],
    service: Service,
    invite: Callable[..., tuple[str, str]],
    studies: StudyStore,
) -> None:
    name, link = invite()
    context = new_context()
    first, second = (Studio(context.new_page(), service.url) for _ in range(2))
    for tab in (first, second):
        tab.visit(link).get_by_role("button", name="Start").click()
    for tab, mark in ((first, 1), (second, 5)):
        tab.page.bring_to_front()
        play(tab.page)
        answer(tab.page, mark, mark, mark, "Real")
        go_on(tab.page)
        expect(tab.page.get_by_role("heading", name="Clip 2 of 2")).to_be_visible()
    (votes,) = studies.ballots(name).votes.values()
    (vote,) = votes.values()
    assert (vote.answers.video, vote.revision) == (5, 2)
