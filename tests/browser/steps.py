"""Actions of users on the page, and checks of the clip they see and hear."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from playwright.sync_api import Locator, Page, expect

T = TypeVar("T")

LONG = 1000
"""Steps of a job that does not end during a test."""

WATCHED = 150
"""Steps of a job that a test can observe while it runs, but that ends soon."""

_DROP = """
({name, type, data}) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  for (const event of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(event, { dataTransfer: carried, bubbles: true, cancelable: true }));
  }
}
"""

_LOUDNESS = """
async (url) => {
  const answer = await fetch(url);
  const sound = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(await answer.arrayBuffer());
  const samples = sound.getChannelData(0);
  const power = samples.reduce((sum, each) => sum + each * each, 0) / samples.length;
  return { rms: Math.sqrt(power), seconds: sound.duration };
}
"""


def soon(page: Page, condition: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """As `tests.waiting.until`, but lets Playwright process the page's events between the checks."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        page.wait_for_timeout(50)
    return value


def choose(
    page: Page, *, steps: int = 4, outputs: int = 1, enlarge: bool = False, seconds: float | None = None
) -> None:
    """Fill in the form, by default for a quick job. With `enlarge`, super-resolution has one step: it is slow."""
    if seconds is not None:
        page.get_by_label("Length in seconds").fill(str(seconds))
    page.get_by_label("Outputs", exact=True).fill(str(outputs))
    more = page.get_by_text("More settings")
    if page.locator(".composer details:not([open])").count():
        more.click()
    page.get_by_label("Steps", exact=True).fill(str(steps))
    switch = page.get_by_role("switch", name="Enlarge the frames")
    if switch.count():
        switch.set_checked(enlarge)
    if enlarge:
        page.get_by_label("Super-resolution steps", exact=True).fill("1")
    more.click()


def start(page: Page, button: str = "Make a clip") -> None:
    """Submit the form and wait until the job is shown."""
    page.get_by_role("button", name=button).click()
    expect(page.locator(".stage-head")).to_be_visible()


def result(page: Page) -> Locator:
    """The player of the completed job, once its video can be played."""
    player = page.locator(".player")
    expect(player).to_be_visible(timeout=90_000)
    soon(page, lambda: clip(player).evaluate("media => media.readyState") >= 2, "the clip can be played")
    return player


def clip(player: Locator) -> Locator:
    """The generated video. The user's own may be beside it."""
    return player.locator(".screen").last.locator("video")


def drop(page: Page, file: Path, media_type: str) -> None:
    """Drop the file on the page, as from a file manager."""
    data = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(_DROP, {"name": file.name, "type": media_type, "data": data})


def across(place: Locator, x: float, y: float = 0.5) -> tuple[float, float]:
    """A point of the page, in shares of the place."""
    box = place.bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def swipe(place: Locator, *points: tuple[float, float]) -> None:
    """Move a finger over these points, in shares of the place."""
    place.scroll_into_view_if_needed()
    touch = place.page.context.new_cdp_session(place.page)
    for number, point in enumerate(points):
        x, y = across(place, *point)
        kind = "touchMove" if number else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    touch.detach()


def plays(player: Locator) -> None:
    """Press play; fails unless the clip plays and the playhead on the spectrogram moves."""
    video, line = clip(player), player.locator(".playhead")
    player.get_by_role("button", name="Play").click()
    soon(player.page, lambda: video.evaluate("media => media.currentTime") > 0.2, "the clip plays")
    where = "line => line.getBoundingClientRect().x"
    before = line.evaluate(where)
    soon(player.page, lambda: abs(line.evaluate(where) - before) > 5, "the line moves with the sound")
    player.get_by_role("button", name="Pause").click()


def loudness(page: Page, url: str) -> tuple[float, float]:
    """Root mean square (full scale is 1) and duration in seconds of the sound at `url`, as the browser decodes it."""
    heard = page.evaluate(_LOUDNESS, url)
    return heard["rms"], heard["seconds"]


def drawn(canvas: Locator) -> bool:
    """Whether the canvas is not empty."""
    pixels = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value > 0)"
    return bool(canvas.evaluate(pixels))
