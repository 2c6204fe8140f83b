"""The files of an output: clip, pictures, and a manifest that reproduces it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoint.manifest import Manifest
from model.media.decode import decode_audio, decode_video
from model.media.mix_levels import REPLACE, Mix
from model.media.spectrogram import mel
from model.media.streams import AudioStream, VideoStream
from model.networks.config import PRESETS
from model.request import SamplingParams
from model.runtime.pipeline import Clip, ClipRequest, Pipeline
from service.jobs.record import Input, Job, Window, claim, new_job
from service.jobs.view import NEW_SOUND, OUTPUT_FILES
from tests.clips import Film, Track, make, read_number
from tests.service.new_jobs import upload_of
from workers.outputs import write_files
from workers.spool import CONTENT_TYPES, Files

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = PRESETS["tiny"].clip


@dataclass(frozen=True)
class Made:
    """One output: what the model made, the files of it, and the manifest among them."""

    job: Job
    clip: Clip
    files: Files
    manifest: dict


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    manifest = Manifest("tiny", PRESETS["tiny"], trained=False, description="for tests", licence="MIT", init_seed=7)
    return Pipeline.load(manifest, "cpu", "float32")


@pytest.fixture
def make_output(pipeline: Pipeline, tmp_path: Path) -> Callable[..., Made]:
    """Makes output `index` of a job, as a worker does."""

    def run(
        kind: str,
        source: Path | None = None,
        index: int = 0,
        start: float = 0.0,
        pipeline: Pipeline = pipeline,
        mix: Mix = REPLACE,
    ) -> Made:
        guidance = None if kind == "generate" else "replacement"
        params = SamplingParams(5, 2, steps=2, super_resolution=False, guidance=guidance).resolve(
            kind, pipeline.manifest
        )
        upload = an_upload(source, start) if source else None
        given = {"priority": "normal", "metadata": {}, "retention": timedelta(hours=1), "input": upload, "mix": mix}
        job = new_job(kind, "tiny", params, **given)
        condition = None
        if source is not None:
            condition = (decode_video if kind == "v2a" else decode_audio)(source, SPEC, start)
        clip = pipeline.run(ClipRequest(kind, params, index, condition))
        files = write_files(claim(job, "a worker"), pipeline, index, clip, source, tmp_path)
        return Made(job, clip, files, json.loads(files["manifest.json"].read_text()))

    return run


def an_upload(path: Path, start: float) -> Input:
    video, audio = VideoStream(128, 96, 25.0), AudioStream(16_000, 1)
    used = Window(start, SPEC.duration, tracks=(1,))
    return upload_of(path, duration=2.0, video=video, audio=audio, used=used)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """2 s of numbered frames, 128×96 at 25 Hz, with a sweep as its sound."""
    return make(tmp_path / "film.mp4", Film(frames=50, fps=Fraction(25), width=128, height=96), Track(seconds=2.0))


def ridge(picture: Path, manifest: dict) -> tuple[np.ndarray, np.ndarray]:
    """Where the spectrogram is brightest at each time: seconds and hertz, by the numbers that the manifest gives."""
    described = manifest["pictures"]["spectrogram"]
    plot = described["plot"]
    with Image.open(picture) as image:
        assert image.size == (plot["width"], plot["height"])
        shown = np.asarray(image.convert("L").crop((plot["left"], plot["top"], plot["right"], plot["bottom"])))
    seconds = (np.arange(shown.shape[1]) + 0.5) / shown.shape[1] * described["seconds"]
    height = 1 - (shown.argmax(axis=0) + 0.5) / len(shown)
    return seconds, 700 * (10 ** (height * mel(described["hertz"]) / 2595) - 1)


@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v"])
def test_every_kind_of_job_has_all_files(make_output: Callable[..., Made], film: Path, kind: str) -> None:
    made = make_output(kind, None if kind == "generate" else film, index=1)

    assert tuple(made.files) == OUTPUT_FILES
    assert set(made.manifest["output"]["scores"]) == {"sync", "av_align", "lag"}
    for name, path in made.files.items():
        assert path.suffix in CONTENT_TYPES
        assert path.name == f"1-{name}"
    with Image.open(made.files["poster.webp"]) as poster:
        described = made.manifest["pictures"]["poster"]
        assert (poster.format, poster.size) == ("WEBP", (described["width"], described["height"]))
    with Image.open(made.files["spectrogram.png"]) as picture:
        assert picture.format == "PNG"
        text = json.loads(picture.text["plot"])
        described = made.manifest["pictures"]["spectrogram"]
        assert text == {**described["plot"], **{name: described[name] for name in described if name != "plot"}}


def test_pictures_show_the_generated_clip(make_output: Callable[..., Made]) -> None:
    made = make_output("generate")

    assert made.clip.frames is not None
    described = made.manifest["pictures"]["poster"]
    with Image.open(made.files["poster.webp"]) as poster:
        shown = np.asarray(poster.convert("RGB")).astype(float)
    off = [np.abs(shown - frame.numpy()).mean() for frame in made.clip.frames]
    assert shown.shape == made.clip.frames.shape[1:]
    assert np.argmin(off) == round(described["time"] * SPEC.fps)
    assert made.manifest["pictures"]["spectrogram"]["seconds"] == SPEC.duration
    assert made.manifest["pictures"]["spectrogram"]["hertz"] == SPEC.sample_rate / 2


def test_the_poster_of_v2a_is_a_frame_of_the_upload(make_output: Callable[..., Made], film: Path) -> None:
    made = make_output("v2a", film, start=0.6)

    described = made.manifest["pictures"]["poster"]
    with Image.open(made.files["poster.webp"]) as poster:
        assert poster.size == (128, 96)
        assert read_number(np.asarray(poster.convert("RGB"))) == 15 + round(described["time"] * 25)
    assert made.manifest["pictures"]["spectrogram"]["hertz"] == SPEC.sample_rate / 2


def test_the_spectrogram_of_a2v_is_of_the_uploaded_sound(make_output: Callable[..., Made], film: Path) -> None:
    """The clip's sound sweeps from 200 Hz up, 400 Hz more each second; the window begins at 0.5 s."""
    made = make_output("a2v", film, start=0.5)

    assert made.manifest["pictures"]["spectrogram"]["hertz"] == 22_050
    seconds, hertz = ridge(made.files["spectrogram.png"], made.manifest)
    middle = slice(len(seconds) // 5, -len(seconds) // 5)
    # Two channels, the second 150 Hz higher: the brightest is one of them.
    lower = 200 + 400 * (seconds[middle] + 0.5)
    assert ((hertz[middle] > 0.9 * lower - 20) & (hertz[middle] < 1.1 * (lower + 150) + 20)).all()


def test_the_manifest_reproduces_the_clip(make_output: Callable[..., Made], pipeline: Pipeline, film: Path) -> None:
    """From nothing but the manifest, the model that it names and the upload whose hash it has."""
    made = make_output("v2a", film, index=1, start=0.4)
    manifest = made.manifest

    assert manifest["model"]["name"] == pipeline.manifest.name
    assert manifest["model"]["weights_sha256"] == pipeline.manifest.weights_hash
    assert manifest["input"]["sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
    params = SamplingParams(**manifest["params"])
    again = pipeline.run(
        ClipRequest(
            manifest["kind"],
            params,
            manifest["output"]["index"],
            decode_video(film, SPEC, manifest["input"]["used"]["start"]),
        )
    )

    assert params.seed == manifest["output"]["seed"] == 5
    assert again.audio is not None
    assert made.clip.audio is not None
    assert torch.equal(again.audio, made.clip.audio)


def test_the_manifest_names_model_and_versions(make_output: Callable[..., Made], pipeline: Pipeline) -> None:
    manifest = make_output("generate").manifest

    assert manifest["schema_version"] == 1
    assert manifest["input"] is None
    assert (manifest["device"], manifest["dtype"], manifest["batch_sizes"]) == ("cpu", "float32", None)
    assert torch.__version__.startswith(manifest["versions"]["torch"])
    assert manifest["versions"]["av"] == av.__version__
    assert {"python", "duet-av", "torchaudio", "numpy", "pillow"} <= manifest["versions"].keys()
    assert manifest["model"]["trained"] is False
    assert manifest["model"]["init_seed"] == 7
    assert manifest["model"]["config"]["clip"]["frames"] == SPEC.frames
    assert manifest["model"]["calibration_sha256"] is None


def test_a_mix_is_written_and_described(make_output: Callable[..., Made], tmp_path: Path) -> None:
    """In the upload's own rate and channels; the manifest says what the mix came to, and how to make it again."""
    film = make(tmp_path / "film.mp4", Film(frames=60), STEREO_AAC)
    made = make_output("v2a", film, mix=Mix("under", loudness=-26))

    assert tuple(made.files) == (*OUTPUT_FILES, NEW_SOUND)
    assert made.manifest["output"]["audio"] == "generated, mixed with the upload's own"
    assert made.manifest["output"]["mix"]["loudness"] == pytest.approx(-26, abs=0.01)
    assert (made.manifest["params"]["mix"], made.manifest["params"]["loudness"]) == ("under", -26)
    with av.open(made.files["audio.wav"]) as mixed, av.open(made.files[NEW_SOUND]) as alone:
        shapes = [(each.streams.audio[0].rate, each.streams.audio[0].channels) for each in (mixed, alone)]
    assert shapes == [(44_100, 2), (44_100, 1)]
    assert made.manifest["pictures"]["spectrogram"]["hertz"] == 22_050


def test_the_new_sound_alone_is_set_to_a_loudness(make_output: Callable[..., Made], film: Path) -> None:
    made = make_output("v2a", film, mix=Mix(loudness=-30))

    assert tuple(made.files) == OUTPUT_FILES
    assert made.manifest["output"]["mix"]["loudness"] == pytest.approx(-30, abs=0.01)
    assert made.manifest["output"]["mix"]["own_gain"] is None
    with av.open(made.files["audio.wav"]) as sound:
        assert sound.streams.audio[0].rate == SPEC.sample_rate


STEREO_AAC = Track()
STEREO = Track(codec="pcm_s16le", format="s16")
OWN_SOUND = "the upload's own sound, exact in audio.wav, AAC in video.mp4"


@pytest.mark.parametrize(
    ("name", "film", "how"),
    [
        ("a.mp4", Film(frames=60), "copied"),
        ("a.mp4", Film(frames=60, b_frames=2), "re-encoded"),
        ("a.avi", Film(frames=60, height=54, codec="mpeg2video", options=(("flags", "+ilme+ildct"),)),
         "re-encoded, deinterlaced"),
    ],
)  # fmt: skip
def test_the_manifest_says_whether_the_uploaded_frames_were_copied(
    make_output: Callable[..., Made], tmp_path: Path, name: str, film: Film, how: str
) -> None:
    made = make_output("v2a", make(tmp_path / name, film))

    assert made.manifest["output"]["video"] == f"the upload's own frames, {how}"
    assert made.manifest["output"]["audio"] == "generated"


@pytest.mark.parametrize(
    ("sound", "changes"),
    [
        (STEREO, ""),
        (replace(STEREO, sample_rate=37_800), "resampled from 37800 to 44100 Hz"),
        (replace(STEREO, layout="6.1"), "6.1 mixed down to 7.1"),
        (replace(STEREO, layout="6.1", sample_rate=6000), "6.1 mixed down to 7.1, resampled from 6000 to 7350 Hz"),
    ],
)
def test_the_manifest_lists_changes_to_the_uploaded_sound(
    make_output: Callable[..., Made], tmp_path: Path, sound: Track, changes: str
) -> None:
    made = make_output("a2v", make(tmp_path / "a.wav", sound=sound))

    assert made.manifest["output"]["audio"] == (f"{OWN_SOUND}: {changes}" if changes else OWN_SOUND)
    assert made.manifest["output"]["video"] == "generated"


def test_the_manifest_says_that_the_sound_changed_its_format(make_output: Callable[..., Made], tmp_path: Path) -> None:
    """2 s of stereo, then 5.1: the window has the format that it begins with."""
    parts = b""
    for layout in ("stereo", "5.1(side)"):
        track = Track(codec="ac3", layout=layout, sample_rate=48_000, seconds=2.048)
        parts += make(tmp_path / f"{len(parts)}.ts", sound=track).read_bytes()
    (tmp_path / "both.ts").write_bytes(parts)

    made = make_output("a2v", tmp_path / "both.ts", start=1.8)

    change = "48000 Hz 5.1(side) within the window converted to 48000 Hz stereo in both files"
    assert made.manifest["output"]["audio"] == f"{OWN_SOUND}: {change}"
    assert made.manifest["input"]["used"] == {"start": 1.8, "duration": SPEC.duration, "tracks": [1], "notice": None}


def test_the_manifest_distinguishes_models_with_the_same_weights(
    pipeline: Pipeline, make_output: Callable[..., Made]
) -> None:
    """A calibration changes what pigdm makes, and a mirrored model what every job makes."""
    plain = make_output("generate", pipeline=pipeline).manifest["model"]
    for change in ({"calibration": {"t": [1.0], "audio": [0.5]}}, {"mirrored": True}, {"independent_timesteps": True}):
        changed = replace(pipeline.manifest, **change)  # type: ignore[arg-type]
        other = make_output("generate", pipeline=Pipeline.load(changed, "cpu", "float32")).manifest["model"]
        assert other["weights_sha256"] == plain["weights_sha256"]
        assert other != plain


def test_the_manifest_has_the_hash_of_every_other_file(make_output: Callable[..., Made]) -> None:
    made = make_output("generate")

    assert set(made.manifest["files"]) == set(OUTPUT_FILES) - {"manifest.json"}
    for name, described in made.manifest["files"].items():
        data = made.files[name].read_bytes()
        assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
