"""What files say about their making: a result, a tampered one, one without its credentials, and one of others."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from service.version import version
from tests.browser.conftest import Service, Studio
from tests.browser.steps import drop
from tests.e2e.conftest import finished


@pytest.fixture(scope="module")
def made(service: Service) -> dict:
    """A completed job."""
    job = service.client.post("/generate", json={"steps": 2, "super_resolution": False, "seed": 5}).raise_for_status()
    return finished(service.client, job.headers["Location"])


def verdict(page: Page, place: str) -> Locator:
    """Check the file in this part of the page, with the keyboard; return the report."""
    button = page.locator(place).get_by_role("button", name="Check its credentials")
    button.focus()
    button.press("Enter")
    report = page.locator(place).locator(".verdict")
    expect(report).to_be_focused()
    return report


def without_credentials(path: Path, target: Path) -> Path:
    """The same packets and comment, in a file written by another program."""
    with av.open(str(path)) as given, av.open(str(target), "w") as written:
        written.metadata["comment"] = given.metadata["comment"]
        streams = {stream.index: written.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                written.mux(packet)
    return target


def test_what_files_say_about_their_making(studio: Studio, service: Service, made: dict, tmp_path: Path) -> None:
    page = studio.visit(f"/?job={made['id']}")
    page.get_by_text("How it was made").click()
    report = verdict(page, ".stage")
    expect(report).to_contain_text("Untrusted credentials")
    for words in ("all of it, by a model", f"Duet {version()}", "demo", "Created"):
        expect(report).to_contain_text(words)
    studio.look("credentials-of-a-result")

    content = bytearray(service.client.get(made["outputs"][0]["files"]["video.mp4"]).content)
    signed, tampered = tmp_path / "signed.mp4", tmp_path / "tampered.mp4"
    signed.write_bytes(content)
    content[content.index(b"mdat") + 100] ^= 255
    tampered.write_bytes(content)
    drop(page, tampered, "video/mp4")
    report = verdict(page, ".source")
    expect(report).to_contain_text("Tampered with")
    expect(report).to_contain_text("assertion.bmffHash.mismatch")
    studio.look("credentials-tampered")

    drop(page, without_credentials(signed, tmp_path / "copied.mp4"), "video/mp4")
    report = verdict(page, ".source")
    expect(report).to_contain_text("No credentials")
    expect(report).to_contain_text("seed 5")

    (tmp_path / "notes.txt").write_text("This is no clip.")
    drop(page, tmp_path / "notes.txt", "text/plain")
    page.locator(".source").get_by_role("button", name="Check its credentials").click()
    expect(page.locator(".source").get_by_role("alert")).to_contain_text("notes.txt")


def test_the_focus_stays_where_the_user_has_moved_it(studio: Studio, made: dict) -> None:
    page = studio.visit(f"/?job={made['id']}")
    elsewhere = page.locator(".stage summary", has_text="How it was made")
    elsewhere.click()

    def answer(route: Route) -> None:
        elsewhere.focus()
        route.continue_()

    page.route("**/verify", answer)
    page.locator(".stage").get_by_role("button", name="Check its credentials").press("Enter")
    expect(page.locator(".stage .verdict")).to_be_visible()
    expect(elsewhere).to_be_focused()


def test_a_file_of_others_on_a_phone(phone: Studio, film: Path) -> None:
    page = phone.visit()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a video").click()
    chooser.value.set_files(film)
    page.get_by_role("button", name="Check its credentials").tap()
    expect(page.locator(".verdict")).to_contain_text("No credentials")
    phone.fits()
