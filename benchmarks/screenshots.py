"""Screenshots of the studio and of a study, for docs/studio.md and docs/study.md.

    python -m benchmarks.screenshots [--out docs/figures] [--only studio.png studio-phone.png study-phone.png]

Runs `duet serve` with the demo model in a temporary folder and opens its pages in the system's Chromium, as the browser
tests do. Takes minutes, because the clips are made on the spot.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.embedded_stack import embedded_stack
from benchmarks.figures import ball
from model.media.encode import write_clip
from model.networks.config import ClipSpec
from model.runtime.pipeline import to_uint8
from model.training.bounce import Bounce
from tests.browser.conftest import FLAGS, chromium_program
from tests.browser.steps import choose, drop, result, start
from tests.browser.test_study import answer, play

DESKTOP, PHONE = (1280, 960), (360, 740)
"""Width and height of the pages in CSS pixels."""

SECONDS = 600
"""Limit for a job on a busy machine."""

REAL = ClipSpec(height=128, width=128, sample_rate=16_000)
CLIPS = 4
"""Clips of each label in the study."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), default=list(PICTURES), metavar="PICTURE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=SECONDS * 1000)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        with embedded_stack(folder / "stack", "duet", "serve") as (url, _):
            browser = playwright.chromium.launch(executable_path=chromium_program(), args=list(FLAGS))
            for picture in options.only:
                PICTURES[picture](browser, url, folder, options.out / picture)
                _compress(options.out / picture)
            browser.close()


def studio(browser: Browser, url: str, folder: Path, picture: Path) -> None:
    """A video with two new sounds, beside the form that made them."""
    film = folder / "ball.mp4"
    ball(film)
    page = _page(browser, url, DESKTOP, "light")
    drop(page, film, "video/mp4")
    choose(page, steps=20, outputs=2)
    start(page, "Make its sound")
    result(page)
    _scroll(page, ".stage-head")
    page.screenshot(path=picture, animations="disabled")
    page.close()


def studio_on_a_phone(browser: Browser, url: str, folder: Path, picture: Path) -> None:
    """A clip from nothing, in dark."""
    page = _page(browser, url, PHONE, "dark")
    choose(page, steps=20, enlarge=True)
    start(page)
    result(page)
    _scroll(page, ".stage-head")
    page.screenshot(path=picture, animations="disabled")
    page.close()


def study(browser: Browser, url: str, folder: Path, picture: Path) -> None:
    """The page of a rater who has answered all questions about the first clip."""
    _real_clips(folder / "real")
    _made_clips(url, folder / "made")
    labels = ("--clips", f"real={folder / 'real'}", "--clips", f"ours={folder / 'made'}")
    command = [sys.executable, "-m", "duet", "study", "create", "screenshot", *labels, "--raters", "1", "--checks", "0"]
    command += ["--data", str(folder / "stack" / "data")]
    token = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip().rsplit("/", 1)[1]
    page = _page(browser, f"{url}/study/{token}", PHONE, "light")
    page.get_by_role("button", name="Start").click()
    play(page)
    answer(page, 4, 3, 5, "Real")
    page.screenshot(path=picture, full_page=True, animations="disabled")
    page.close()


PICTURES: dict[str, Callable[[Browser, str, Path, Path], None]] = {
    "studio.png": studio,
    "studio-phone.png": studio_on_a_phone,
    "study-phone.png": study,
}


def _page(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Page:
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page.goto(url)
    expect(page.locator("body.ready")).to_be_attached()
    return page


def _scroll(page: Page, place: str) -> None:
    """Scroll until the element is near the upper edge of the page."""
    page.locator(place).evaluate("element => window.scrollTo(0, element.getBoundingClientRect().y + scrollY - 32)")


def _compress(picture: Path) -> None:
    """Reduce the picture to 256 colours."""
    with Image.open(picture) as full:
        reduced = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(picture, optimize=True)


def _real_clips(folder: Path) -> None:
    folder.mkdir()
    clips = Bounce(REAL, 0, "train").batch(torch.arange(CLIPS))
    for number, (frames, sound) in enumerate(zip(clips["video"], clips["audio"], strict=True)):
        write_clip(folder / f"{number}.mp4", to_uint8(frames), REAL.fps, sound, REAL.sample_rate, "a benchmark")


def _made_clips(url: str, folder: Path) -> None:
    """Clips of the demo model, enlarged."""
    folder.mkdir()
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        answer = client.post("/generate", json={"num_outputs": CLIPS, "seed": 0}, headers={"Prefer": f"wait={SECONDS}"})
        job = answer.raise_for_status().json()
        deadline = time.monotonic() + SECONDS
        while job["status"] in ("queued", "in_progress"):
            if time.monotonic() > deadline:
                raise SystemExit(f"the clips of the study were not made within {SECONDS} s")
            time.sleep(1)
            answer = client.get(job["urls"]["self"], headers={"Prefer": f"wait={SECONDS}"})
            job = answer.raise_for_status().json()
        if job["status"] != "completed":
            raise SystemExit(f"the clips of the study could not be made: {job['error']}")
        for number, output in enumerate(job["outputs"]):
            (folder / f"{number}.mp4").write_bytes(client.get(output["files"]["video.mp4"]).raise_for_status().content)


if __name__ == "__main__":
    main()
