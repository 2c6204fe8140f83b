"""`--local` makes the same clips as a server, also from their manifests."""

from __future__ import annotations

import json
import signal
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.networks.config import PRESETS
from tests.clips import Film, Track, make, read_number
from tests.conftest import RedisServer
from tests.duet.cli.conftest import Cli, running
from tests.service import media
from tests.tiny_model import TEXT, add_words_model
from tests.waiting import until
from tests.workers.conftest import Stack, running_worker

QUICK = ("--steps", 1, "--no-super-resolution")


def content(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sound of a clip, decoded."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(sound, 1)


def seconds(path: Path) -> float:
    """Length of a clip's sound."""
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def same(one: Path, other: Path) -> bool:
    """Whether two clips have identical frames and identical sound."""
    return all(np.array_equal(a, b) for a, b in zip(content(one), content(other), strict=True))


@pytest.fixture(scope="module")
def made(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A folder with all files of two generated clips."""
    folder = tmp_path_factory.mktemp("made")
    duet = Cli(folder, DUET_MODELS=str(tiny_models), DUET_DEFAULT_MODEL="tiny")
    settings = ("--steps", 2, "--sr-steps", 1, "--sr-start", 300, "--seed", 5)
    done = duet("generate", "--local", *settings, "-n", 2, "--all", "-o", "clip.mp4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "clip.mp4"
    assert set(done.stdout.splitlines()) == set(duet.files())
    assert {"clip-1.mp4", "clip.wav", "clip.manifest.json", "clip-1.manifest.json"} <= set(duet.files())
    return duet


@pytest.fixture(scope="module")
def v2a_made(made: Cli) -> Cli:
    """The same folder with a soundtrack for a video, starting at its first second."""
    (made.folder / "beach.mp4").write_bytes(media.video(10.0))
    window = PRESETS["tiny"].clip.duration  # several would share batches, whose sizes differ from a server's
    done = made("v2a", "beach.mp4", "--local", "--steps", 1, "--start", 1, "--duration", window, "--all", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["status"], job["params"]["start"], job["input"]["filename"]) == ("completed", 1.0, "beach.mp4")
    assert job["outputs"][0]["files"]["video.mp4"] == job["saved"][0] == "beach-v2a.mp4"
    return made


@pytest.mark.slow
def test_a_clip_is_made_again_from_its_manifest(made: Cli) -> None:
    assert json.loads((made.folder / "clip-1.manifest.json").read_text())["params"]["sr_start"] == 300
    done = made("generate", "--local", "--from", "clip-1.manifest.json", "-o", "again.mp4")
    assert (done.returncode, done.stdout) == (0, "again.mp4\n"), done.stderr
    assert same(made.folder / "clip-1.mp4", made.folder / "again.mp4")
    assert not same(made.folder / "clip.mp4", made.folder / "clip-1.mp4"), "the outputs differ from each other"


@pytest.mark.slow
def test_a_prompt_makes_a_clip_that_its_manifest_makes_again(tmp_path: Path) -> None:
    models = add_words_model(tmp_path / "models")
    (tmp_path / "clips").mkdir()
    made = Cli(tmp_path / "clips", DUET_MODELS=str(models), DUET_DEFAULT_MODEL="words")
    settings = ("generate", "--local", "--steps", 2, "--no-super-resolution", "--seed", 5)
    for prompt, name in (("heavy rain", "rain"), ("a fire at night", "fire")):
        done = made(*settings, "--prompt", prompt, "--negative-prompt", "wind", "--all", "-o", f"{name}.mp4")
        assert done.returncode == 0, done.stderr
    assert not same(made.folder / "rain.mp4", made.folder / "fire.mp4"), "the network reads the prompt"
    written = json.loads((made.folder / "rain.manifest.json").read_text())
    assert written["params"]["prompt"] == "heavy rain"
    assert written["params"]["prompt_scale"] == TEXT.scale
    assert written["model"]["text_encoder_sha256"] == TEXT.sha256
    assert written["model"]["guided_share"] == TEXT.guided_share
    assert "heavy" not in written["generated"], "the comment of the mp4 has no words of the user"
    done = made("generate", "--local", "--from", "rain.manifest.json", "-o", "again.mp4")
    assert done.returncode == 0, done.stderr
    assert same(made.folder / "rain.mp4", made.folder / "again.mp4")


@pytest.mark.slow
def test_worker_and_command_keep_the_same_best_clip(
    tiny_models: Path, shared_redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "clips").mkdir()
    made = Cli(tmp_path / "clips", DUET_MODELS=str(tiny_models), DUET_DEFAULT_MODEL="tiny")
    settings = ("--steps", 2, "--no-super-resolution", "--seed", 5, "-n", 3, "--keep", 1, "--rank-by", "av_align")
    done = made("generate", "--local", *settings, "--all", "--json", "-o", "best.mp4")
    assert done.returncode == 0, done.stderr
    here = json.loads(done.stdout)
    (best,) = here["outputs"]
    assert sorted([best["index"], *(each["index"] for each in here["dropped"])]) == [0, 1, 2]
    assert all(set(each["scores"]) == {"sync", "av_align", "lag"} for each in here["dropped"])
    assert "By av_align, best first: kept outputs" in done.stderr
    assert not (made.folder / "best-1.mp4").exists()
    again = made("generate", "--local", "--from", "best.manifest.json", "-o", "best-again.mp4")
    assert again.returncode == 0, again.stderr
    assert same(made.folder / "best.mp4", made.folder / "best-again.mp4")

    url = f"{shared_redis.url}?db=6"
    with (
        running(url, tmp_path, models=tiny_models, default_model="tiny", buckets="1") as server,
        running_worker(Stack(server.settings), tmp_path / "worker.log"),
    ):
        there = Cli(made.folder, DUET_URL=server.url)
        done = there("generate", *settings, "--json", "-o", "best-there.mp4")
        assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["dropped"] == here["dropped"]
    assert (job["outputs"][0]["index"], job["outputs"][0]["scores"]) == (best["index"], best["scores"])
    assert same(made.folder / "best.mp4", made.folder / "best-there.mp4")


@pytest.mark.slow
def test_a_server_makes_the_same_clips_from_the_manifests(
    v2a_made: Cli, tiny_models: Path, shared_redis: RedisServer, tmp_path: Path
) -> None:
    made = v2a_made
    url = f"{shared_redis.url}?db=6"
    # One batch size: the server makes both outputs of the job side by side, and the first was made alone.
    with running(url, tmp_path, models=tiny_models, default_model="tiny", buckets="1") as server:
        with running_worker(Stack(server.settings), tmp_path / "worker.log"):
            there = Cli(made.folder, DUET_URL=server.url)
            done = there("generate", "--from", "clip-1.manifest.json", "-o", "there.mp4")
            assert (done.returncode, done.stdout) == (0, "there.mp4\n"), done.stderr
            done = there("generate", "--from", "beach-v2a.manifest.json", "beach.mp4", "-o", "beach-there.mp4")
            assert (done.returncode, done.stdout) == (0, "beach-there.mp4\n"), done.stderr
            manifest = made.folder / "other.manifest.json"
            told = json.loads((made.folder / "clip.manifest.json").read_text())
            told["model"]["weights_sha256"] = "0" * 64
            manifest.write_text(json.dumps(told))
            refused = there("generate", "--from", manifest.name, "-o", "never.mp4")
        assert same(made.folder / "clip-1.mp4", made.folder / "there.mp4")
        assert same(made.folder / "beach-v2a.mp4", made.folder / "beach-there.mp4")
        assert refused.returncode == 1
        assert "other weights of the model tiny, 000000000000" in refused.stderr


@pytest.mark.slow
def test_v2a_is_made_again_from_the_same_file_only(v2a_made: Cli) -> None:
    duet = v2a_made
    (duet.folder / "other.mp4").write_bytes(media.video(9.0))
    manifest = "beach-v2a.manifest.json"
    missing = duet("generate", "--local", "--from", manifest)
    assert missing.returncode == 2
    assert "beach.mp4" in missing.stderr
    other = duet("generate", "--local", "--from", manifest, "other.mp4")
    assert other.returncode == 2
    assert "is not the file" in " ".join(other.stderr.replace("│", " ").split())
    more = duet("generate", "--local", "--from", manifest, "beach.mp4", "--steps", 3)
    assert more.returncode == 2
    assert "--steps" in more.stderr


def test_an_unsupported_parameter_is_named(local: Callable[..., Cli]) -> None:
    duet = local()
    done = duet("generate", "--local", "--order", 2)
    assert (done.returncode, done.stdout) == (2, "")
    assert "order: order is a parameter of dpm_solver" in done.stderr
    (duet.folder / "text.mp4").write_text("not a film")
    done = duet("v2a", "--local", "text.mp4")
    assert done.returncode == 2
    assert "file: " in done.stderr
    assert duet.files() == ["text.mp4"]


@pytest.mark.slow
def test_ctrl_c_leaves_no_file(local: Callable[..., Cli]) -> None:
    duet = local()
    process = duet.start("generate", "--local", "--steps", 1000, "--no-super-resolution", "-o", "clip.mp4")
    assert process.stderr is not None
    while "base" not in (line := process.stderr.readline().decode()):
        assert line, "it ended before it began"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert b"Interrupted" in err
    assert b"Traceback" not in err
    assert duet.files() == []


@pytest.mark.slow
def test_ctrl_c_names_the_files_that_were_saved(local: Callable[..., Cli]) -> None:
    duet = local()
    process = duet.start("generate", "--local", "-n", 8, "--steps", 100, "--no-super-resolution", "-o", "clip.mp4")
    until(lambda: "clip.mp4" in duet.files(), "the first clip", 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    saved = [name for name in ("clip.mp4", *(f"clip-{index}.mp4" for index in range(1, 8))) if name in duet.files()]
    assert len(saved) < 8, "it ended before the signal"
    assert f"Interrupted: saved {', '.join(saved)}." in err.decode()


@pytest.mark.slow
def test_a_film_of_several_windows_keeps_every_frame_under_its_sound(made: Cli) -> None:
    """5.3 s at 24 frames a second: 127 frames, 5.3 s of sound, in 3.3 windows of the model."""
    make(made.folder / "film.mp4", Film(frames=127, fps=Fraction(24)), Track(seconds=5.3))
    done = made("v2a", "film.mp4", "--local", "--steps", 2, "--all", "-o", "scored.mp4")
    assert done.returncode == 0, done.stderr
    frames, _ = content(made.folder / "scored.mp4")
    assert [read_number(frame) for frame in frames] == list(range(127))
    assert 0 <= seconds(made.folder / "scored.mp4") - 127 / 24 < 0.15, "an AAC packet may go beyond the end"
    with wave.open(str(made.folder / "scored.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(5.3), "53 frames of the model's rate"
    manifest = json.loads((made.folder / "scored.manifest.json").read_text())
    assert manifest["params"]["duration"] == pytest.approx(5.3)


@pytest.mark.slow
def test_a_long_sound_keeps_every_sample_under_new_frames(made: Cli) -> None:
    make(made.folder / "song.wav", sound=Track(44_100, "stereo", "pcm_s16le", seconds=4.25))
    done = made("a2v", "song.wav", "--local", *QUICK, "--all", "-o", "shown.mp4")
    assert done.returncode == 0, done.stderr
    frames, _ = content(made.folder / "shown.mp4")
    assert len(frames) == 43, "4.25 s in whole frames at 10 a second"
    assert seconds(made.folder / "shown.mp4") == pytest.approx(4.3, abs=0.03), "silent to the end of the last frame"
    with wave.open(str(made.folder / "song.wav")) as own, wave.open(str(made.folder / "shown.wav")) as kept:
        assert kept.readframes(10**6) == own.readframes(10**6)


@pytest.mark.slow
def test_a_generated_clip_has_the_duration_asked_for(made: Cli) -> None:
    done = made("generate", "--local", *QUICK, "--duration", 3.15, "-o", "long.mp4")
    assert done.returncode == 0, done.stderr
    frames, _ = content(made.folder / "long.mp4")
    assert len(frames) == 32
    assert 0 <= seconds(made.folder / "long.mp4") - 3.2 < 0.15
