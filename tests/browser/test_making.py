"""The three kinds of job, from the form to the played clip."""

from __future__ import annotations

import json
import re
import shlex
import wave
from pathlib import Path

from playwright.sync_api import Route, expect

from tests import demo_model
from tests.browser.conftest import Service, Studio
from tests.browser.steps import WATCHED, choose, clip, drawn, drop, loudness, plays, result, soon, start


def test_a_clip_from_nothing(studio: Studio, tmp_path: Path) -> None:
    page = studio.visit()
    expect(page.locator("#untrained")).to_be_hidden()
    studio.look("empty")

    choose(page, outputs=2, enlarge=True)
    start(page)
    expect(page.locator(".progress-detail")).to_contain_text(re.compile(r"step \d of 4"))
    studio.look("running")

    player = result(page)
    studio.look("done")
    plays(player)
    rms, seconds = loudness(page, clip(player).evaluate("media => media.src"))
    assert rms > 0.01
    assert -0.1 < seconds - demo_model.CLIP.duration < 0.2
    assert clip(player).evaluate("media => media.videoWidth") == demo_model.LARGE[0]
    picture = player.get_by_alt_text("Spectrogram of the sound")
    there = "image => image.complete && image.naturalWidth > 0"
    soon(page, lambda: picture.evaluate(there), "the spectrogram is there")

    outputs = page.get_by_role("list", name="Outputs").get_by_role("button")
    expect(outputs).to_have_count(2)
    outputs.last.click()
    expect(outputs.last).to_have_attribute("aria-pressed", "true")
    assert page.url.endswith("output=2")
    assert "video-1.mp4" in clip(result(page)).evaluate("media => media.src")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "clip.mp4")
    assert b"ftyp" in (tmp_path / "clip.mp4").read_bytes()[:12]


def test_an_untrained_model_is_labelled(studio: Studio) -> None:
    def untrained(route: Route) -> None:
        answer = route.fetch()
        models = answer.json()
        for model in models["data"]:
            model["trained"] = False
        route.fulfill(response=answer, json=models)

    studio.page.route("**/models", untrained)
    page = studio.visit()
    expect(page.get_by_text("The model demo is untrained: its clips are noise.")).to_be_visible()
    studio.look("untrained")


def test_a_sound_for_a_dropped_video(studio: Studio, film: Path) -> None:
    page = studio.visit()
    drop(page, film, "video/mp4")
    expect(page.locator(".source-name")).to_have_text(film.name)
    expect(page.get_by_role("radio", name="A video")).to_be_checked()
    page.get_by_label("Begin at").fill("1.2")
    page.get_by_label("Length in seconds").fill("1.6")
    expect(page.get_by_text("Uses 0:01.2 – 0:02.8")).to_be_visible()
    studio.look("v2a-file")

    choose(page)
    start(page, "Make its sound")
    player = result(page)
    studio.look("v2a-done")
    plays(player)
    rms, _ = loudness(page, clip(player).evaluate("media => media.src"))
    assert rms > 0.01

    own, made = player.locator("video").first, clip(player)
    muted = "media => media.muted"
    assert (own.evaluate(muted), made.evaluate(muted)) == (True, False)
    player.get_by_role("radio", name="Your sound").check()
    assert (own.evaluate(muted), made.evaluate(muted)) == (False, True)
    player.get_by_label("Position").fill("0.5")
    time = "media => media.currentTime"
    soon(page, lambda: abs(own.evaluate(time) - 1.2 - made.evaluate(time)) < 0.05, "both are at the same position")
    assert abs(made.evaluate(time) - 0.8) < 0.05


def test_the_new_sound_is_mixed_with_the_videos_own(studio: Studio, service: Service, film: Path) -> None:
    page = studio.visit()
    drop(page, film, "video/mp4")
    choose(page, steps=2, seconds=1.6)
    page.get_by_text("More settings").click()
    mix = page.get_by_label("The file's own sound")
    expect(page.get_by_label("Own sound (dB)")).to_be_hidden()
    mix.select_option("gains")
    page.get_by_label("Own sound (dB)").fill("-100")
    page.get_by_role("button", name="Make its sound").click()
    expect(page.locator(".field-mix .error")).to_have_text("The gains are numbers from -60 to 20.")
    studio.look("mix")
    page.get_by_label("Own sound (dB)").fill("-6")
    page.get_by_label("New sound (dB)").fill("2.5")
    start(page, "Make its sound")
    player = result(page)
    params = service.client.get(f"/jobs/{studio.job_id()}").json()["params"]
    assert params["mix"] == {"own": -6, "new": 2.5}
    page.get_by_text("How it was made").click()
    expect(page.locator(".facts dl")).to_contain_text("own -6, new 2.5")
    page.locator(".menu summary").click()
    expect(page.get_by_role("link", name="New sound alone")).to_be_visible()
    assert loudness(page, clip(player).evaluate("media => media.src"))[0] > 0.001

    mix.select_option("under")
    page.get_by_role("button", name="Use this seed").click()
    expect(page.get_by_label("New sound (dB)")).to_have_value("2.5")


def test_a_video_for_a_chosen_sound(studio: Studio, music: Path) -> None:
    page = studio.visit()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a sound").click()
    chooser.value.set_files(music)
    expect(page.get_by_role("radio", name="A sound")).to_be_checked()
    page.get_by_label("Length in seconds").fill("1.6")
    studio.look("a2v-file")

    choose(page)
    start(page, "Make its video")
    player = result(page)
    soon(page, lambda: drawn(player.locator("canvas.own-wave")), "the waveform of the user's sound is drawn")
    studio.look("a2v-done")
    plays(player)


def test_previews_are_shown_while_a_job_runs(studio: Studio) -> None:
    page = studio.visit()
    choose(page, steps=WATCHED)
    start(page)
    tile = page.locator(".emerging-tile")
    expect(tile).to_be_visible()
    soon(page, lambda: drawn(tile.get_by_role("img", name="frames so far")), "frames are drawn")
    soon(page, lambda: drawn(tile.get_by_role("img", name="waveform so far")), "the waveform is drawn")
    studio.look("emerging")
    result(page)


def test_a_clip_can_be_made_again_and_varied(studio: Studio) -> None:
    page = studio.visit()
    page.get_by_label("Seed", exact=True).fill("42")
    choose(page, steps=3)
    start(page)
    result(page)
    first = studio.job_id()

    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("The command that repeats this job: copied.")).to_be_visible()
    command = shlex.split(page.evaluate("navigator.clipboard.readText()").replace("\\\n", ""))
    assert command[2] == f"{studio.url}/generate"
    assert json.loads(command[-1])["seed"] == 42
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Link to this clip: copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url

    page.get_by_role("button", name="Vary").click()
    expect(page).not_to_have_url(re.compile(first))
    result(page)
    page.get_by_text("How it was made").click()
    expect(page.locator(".facts dl")).to_contain_text("Steps3", ignore_case=True)
    expect(page.locator(".facts .seed")).not_to_have_text("seed 42")

    page.go_back()
    expect(page.locator(".facts .seed")).to_have_text("seed 42")
    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_role("button", name="Use this seed").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("42")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("3")


def test_a_clip_has_the_uploaded_sound(studio: Studio, tmp_path: Path) -> None:
    """The upload is two seconds of silence, so the clip must be silent."""
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 32_000))
    page = studio.visit()
    drop(page, silence, "audio/wav")
    choose(page, steps=2)
    start(page, "Make its video")
    rms, _ = loudness(page, clip(result(page)).evaluate("media => media.src"))
    assert rms < 1e-3
