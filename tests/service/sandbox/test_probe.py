"""Every file that a user can send is described or refused with a reason, and nothing of the probe stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.media.streams import AudioStream, VideoStream
from service.sandbox.probe import ProbeError, ProbeLimits, Prober, ProbeResult, ProbeUnavailableError, probe
from tests.clips import Film, Track, make
from tests.model.media.sample_entry import clap, extend_sample_entry
from tests.waiting import until

LIMITS = ProbeLimits()
VP8 = (("deadline", "realtime"), ("cpu-used", "8"))


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with Prober() as one:
        yield one


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `both.mp4` (3 s, 30 fps, 64×48, stereo), `silent.mp4` and `sound.mp3`."""
    folder = tmp_path_factory.mktemp("sources")
    make(folder / "both.mp4", Film(b_frames=2), Track(), options={"movflags": "+faststart"})
    make(folder / "silent.mp4", Film())
    make(folder / "sound.mp3", sound=Track(codec="libmp3lame"))
    return folder


REMAINS = """
import json, os, sys, threading
from dataclasses import replace
from pathlib import Path
from service.sandbox.probe import ProbeError, ProbeLimits, Prober, probe

def remains():
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"children": len(children), "files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}

sources = Path(sys.argv[1])
told = [remains()]
"""
"""The beginning of a script that counts what is left of probes: in a process where nobody else has any."""


def alone(script: str, sources: Path, folder: Path) -> list[dict[str, int]]:
    """What `told` holds at the end of REMAINS and `script`, run in `folder` by a process of its own."""
    path = f"import sys; sys.path[:0] = {[os.path.abspath(each) for each in sys.path]!r}\n"
    whole = path + REMAINS + textwrap.dedent(script) + "\nprint(json.dumps(told))"
    command = [sys.executable, "-c", whole, str(sources)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told: list[dict[str, int]] = json.loads(ran.stdout)
    return told


def wait_for_spare(prober: Prober) -> int:
    """Process id of the child that waits, once it has loaded the decoder."""
    assert prober._spare is not None
    pid, deadline = prober._spare.pid, time.monotonic() + 30
    while b"libavformat" not in Path(f"/proc/{pid}/maps").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pid


def refusal(
    prober: Prober,
    path: Path,
    want: Literal["video", "audio"] = "video",
    start: float = 0.0,
    limits: ProbeLimits = LIMITS,
) -> ProbeError:
    with pytest.raises(ProbeError) as caught:
        prober.probe(path, want, limits, start)
    return caught.value


# What is described


@pytest.mark.parametrize(
    ("name", "film", "sound", "want", "expected"),
    [
        ("a.mp4", Film(), Track(), "video", ("h264", "aac", VideoStream(64, 48, 30.0), AudioStream(44_100, 2), 3.0)),
        ("a.mp4", Film(), Track(), "audio", ("h264", "aac", VideoStream(64, 48, 30.0), AudioStream(44_100, 2), 3.0)),
        ("a.mov", Film(fps=Fraction(30000, 1001)), None, "video",
         ("h264", None, VideoStream(64, 48, 29.97), None, 3.003)),
        ("phone.mp4", Film(rotation=90), None, "video", ("h264", None, VideoStream(48, 64, 30.0), None, 3.0)),
        ("a.mkv", Film(pix_fmt="yuv420p10le"), None, "video", ("h264", None, VideoStream(64, 48, 30.0), None, 3.0)),
        ("a.webm", Film(codec="libvpx", options=VP8), None, "video",
         ("vp8", None, VideoStream(64, 48, 30.0), None, 3.0)),
        ("a.avi", Film(codec="mpeg4"), None, "video", ("mpeg4", None, VideoStream(64, 48, 30.0), None, 3.0)),
        ("a.ts", Film(), None, "video", ("h264", None, VideoStream(64, 48, 30.0), None, 3.0)),
        ("a.gif", Film(codec="gif", pix_fmt="rgb8", fps=Fraction(10)), None, "video",
         ("gif", None, VideoStream(64, 48, 10.0), None, 9.0)),
        ("a.mp3", None, Track(codec="libmp3lame"), "audio", ("mp3", AudioStream(44_100, 2), 3.0)),
        ("a.wav", None, Track(codec="pcm_s16le", format="s16", layout="7.1"), "audio",
         ("pcm_s16le", AudioStream(44_100, 8), 3.0)),
        ("a.flac", None, Track(codec="flac", format="s16", sample_rate=96_000), "audio",
         ("flac", AudioStream(96_000, 2), 3.0)),
        ("a.ogg", None, Track(codec="libopus", sample_rate=48_000, layout="mono"), "audio",
         ("opus", AudioStream(48_000, 1), 3.0)),
        ("a.m4a", None, Track(), "audio", ("aac", AudioStream(44_100, 2), 3.0)),
        ("a.aac", None, Track(), "audio", ("aac", AudioStream(44_100, 2), 3.0)),
        ("a.aiff", None, Track(codec="pcm_s16be", format="s16"), "audio", ("pcm_s16be", AudioStream(44_100, 2), 3.0)),
    ],
)  # fmt: skip
def test_a_usable_file_is_described(  # type: ignore[no-untyped-def]
    prober: Prober, tmp_path: Path, name: str, film, sound, want, expected
) -> None:
    path = make(tmp_path / name, film, sound, format="adts" if name.endswith("aac") else None)

    result = prober.probe(path, want, LIMITS)

    if film is None:
        expected = (None, expected[0], None, *expected[1:])
    described = (result.video_codec, result.audio_codec, result.video, result.audio)
    assert described == expected[:4]
    assert result.duration == pytest.approx(expected[4], abs=0.06)


@pytest.mark.parametrize(
    ("film", "box", "size"),
    [
        (Film(aspect=Fraction(32, 27)), b"", (76, 48)),
        (Film(aspect=Fraction(1, 2)), b"", (64, 96)),
        (Film(aspect=Fraction(2), rotation=90), b"", (48, 128)),
        (Film(), clap(40, 32), (40, 32)),
        (Film(aspect=Fraction(2), rotation=270), clap(40, 32), (32, 80)),
    ],
)
def test_the_size_is_that_of_the_shown_picture(
    prober: Prober, tmp_path: Path, film: Film, box: bytes, size: tuple[int, int]
) -> None:
    path = extend_sample_entry(make(tmp_path / "a.mp4", film), box)

    assert prober.probe(path, "video", LIMITS).video == VideoStream(*size, 30.0)


def test_a_recording_without_a_length_is_measured(prober: Prober, tmp_path: Path) -> None:
    live = make(tmp_path / "live.webm", Film(codec="libvpx", options=VP8), options={"live": "1"})

    assert prober.probe(live, "video", LIMITS).duration == pytest.approx(3.0, abs=0.05)


def test_the_name_of_a_file_means_nothing(prober: Prober, sources: Path, tmp_path: Path) -> None:
    odd = tmp_path / "http:%03d;rm -rf.txt"
    odd.write_bytes((sources / "both.mp4").read_bytes())

    assert prober.probe(odd, "video", LIMITS).video == VideoStream(64, 48, 30.0)


def test_a_cover_picture_is_no_video_and_does_not_disturb(prober: Prober, sources: Path, tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    Image.new("RGB", (300, 300), "red").save(cover)
    jpeg = cover.read_bytes()
    picture = b"\x00image/jpeg\x00\x03\x00" + jpeg
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\x00\x00" + picture
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    song = tmp_path / "song.mp3"
    song.write_bytes(b"ID3\x03\x00\x00" + size + frame + (sources / "sound.mp3").read_bytes())

    assert prober.probe(song, "audio", LIMITS).video is None
    assert refusal(prober, song, "video").code == "no_video_track"


def test_a_title_in_an_old_encoding_does_not_matter(prober: Prober, sources: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    tag = b"TAG" + "Café".encode("latin-1").ljust(125, b"\0")  # ID3v1
    song.write_bytes((sources / "sound.mp3").read_bytes() + tag)

    assert prober.probe(song, "audio", LIMITS).audio == AudioStream(44_100, 2)


def test_the_result_is_plain_data(prober: Prober, sources: Path) -> None:
    assert asdict(prober.probe(sources / "both.mp4", "video", LIMITS)) == {
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "duration": 3.0,
        "video": {"width": 64, "height": 48, "fps": 30.0},
        "audio": {"sample_rate": 44_100, "channels": 2},
        "video_codec": "h264",
        "audio_codec": "aac",
        "tracks": (0,),
    }


# What is refused


def save_image(path: Path) -> Path:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "name", ["picture.png", "picture.jpg", "picture.webp", "picture.bmp", "picture.tiff", "a.avif"]
)
@pytest.mark.parametrize("want", ["video", "audio"])
def test_an_image_is_no_container(prober: Prober, tmp_path: Path, name: str, want: Literal["video", "audio"]) -> None:
    error = refusal(prober, save_image(tmp_path / name), want)

    assert (error.status, error.code, error.field) == (415, "unsupported_media", "file")
    assert error.allowed is not None
    assert "MP4" in error.allowed


@pytest.mark.parametrize(
    "content",
    [
        b"This is not a video at all.\n" * 50,
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"<html><body>login</body></html>",
        b"%PDF-1.7\n",
        b"PK\x03\x04" + bytes(100),
        bytes(4096),
        b"\xff",
        b"RIFF\x00\x00\x00\x00",
    ],
)
def test_text_playlists_and_other_files_are_no_container(prober: Prober, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)

    error = refusal(prober, path)

    assert (error.status, error.code) == (415, "unsupported_media")


def test_an_empty_file_is_said_to_be_empty(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()

    error = refusal(prober, tmp_path / "empty.mp4")

    assert (error.status, error.code, error.got) == (422, "empty_file", "0 bytes")


@pytest.mark.parametrize(
    ("name", "want", "code"),
    [("silent.mp4", "audio", "no_audio_track"), ("sound.mp3", "video", "no_video_track")],
)
def test_the_wanted_track_must_be_there(
    prober: Prober, sources: Path, name: str, want: Literal["video", "audio"], code: str
) -> None:
    error = refusal(prober, sources / name, want)

    assert (error.status, error.code, error.field) == (422, code, "file")
    assert want in error.message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("front", [True, False])
def test_a_truncated_mp4_is_undecodable_wherever_it_was_cut(
    prober: Prober, tmp_path: Path, share: float, front: bool
) -> None:
    whole = make(tmp_path / "whole.mp4", Film(), Track(), options={"movflags": "+faststart"} if front else None)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])

    error = refusal(prober, cut)

    assert (error.status, error.code) == (422, "undecodable")


def test_a_damaged_window_is_undecodable(prober: Prober, sources: Path, tmp_path: Path) -> None:
    data = bytearray((sources / "silent.mp4").read_bytes())
    begin = data.find(b"mdat") + 4
    data[begin : begin + len(data) // 2] = os.urandom(len(data) // 2)
    (tmp_path / "damaged.mp4").write_bytes(data)

    assert refusal(prober, tmp_path / "damaged.mp4").code == "undecodable"


def test_twenty_minutes_are_too_long(prober: Prober, tmp_path: Path) -> None:
    video = make(tmp_path / "v.mp4", Film(frames=3, times=[0, 600, 1200], grid=Fraction(1)))
    sound = make(tmp_path / "s.wav", sound=Track(codec="pcm_s16le", format="s16", sample_rate=1_000, seconds=1200))
    live = make(
        tmp_path / "l.webm",
        Film(frames=1201, fps=Fraction(1), codec="libvpx", width=16, height=16, options=VP8),
        options={"live": "1"},
    )

    for path, want in ((video, "video"), (sound, "audio"), (live, "video")):
        error = refusal(prober, path, want)  # type: ignore[arg-type]
        assert (error.status, error.code, error.field) == (422, "too_long", "file")
        assert error.allowed == "at most 600 s"


def test_a_single_picture_is_too_short(prober: Prober, tmp_path: Path) -> None:
    still = make(tmp_path / "still.mp4", Film(frames=1))

    error = refusal(prober, still)

    assert (error.status, error.code, error.field) == (422, "too_short", "file")
    assert error.allowed == "at least 0.1 s"


@pytest.mark.parametrize("start", [2.95, 3.0, 100.0])
@pytest.mark.parametrize(("name", "want"), [("both.mp4", "video"), ("both.mp4", "audio"), ("sound.mp3", "audio")])
def test_a_window_after_the_end_is_the_fault_of_start(
    prober: Prober, sources: Path, name: str, want: Literal["video", "audio"], start: float
) -> None:
    error = refusal(prober, sources / name, want, start)

    assert (error.status, error.code, error.field) == (422, "too_short", "start")
    assert prober.probe(sources / name, want, LIMITS, 2.5).duration == pytest.approx(3.0, abs=0.05)


def test_too_many_pixels_are_refused_before_they_are_decoded(prober: Prober, sources: Path, tmp_path: Path) -> None:
    frame = b"!\xf9\x04\x00\x0a\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00"
    size = (9000).to_bytes(2, "little") + (5000).to_bytes(2, "little")
    huge = tmp_path / "huge.gif"
    huge.write_bytes(b"GIF89a" + size + b"\x80\x00\x00\xff\xff\xff\x00\x00\x00" + frame * 20 + b";")

    error = refusal(prober, huge)
    assert (error.status, error.code) == (422, "too_many_pixels")
    assert (error.got, error.allowed) == ("9000×5000 pixels", "at most 8192×4320 pixels")

    upright = replace(LIMITS, max_width=64, max_height=48)
    tall = make(tmp_path / "tall.mp4", Film(width=48, height=64))
    assert prober.probe(tall, "video", upright).video == VideoStream(48, 64, 30.0)
    assert refusal(prober, tall, limits=replace(upright, max_height=46)).code == "too_many_pixels"


# The child


def test_a_child_that_takes_too_long_is_ended(sources: Path, tmp_path: Path) -> None:
    before, after = alone(
        """
        try:
            probe(sources / "both.mp4", "video", replace(ProbeLimits(), wall_seconds=0.001))
        except ProbeError as error:
            assert error.code == "undecodable" and "within 0.001 s" in error.message
            told.append(remains())
        """,
        sources,
        tmp_path,
    )

    assert after == before


def test_memory_and_cpu_time_are_limited(sources: Path, tmp_path: Path) -> None:
    large = make(tmp_path / "large.mp4", Film(width=4096, height=2160, frames=6, options=(("preset", "ultrafast"),)))

    for limits in (replace(LIMITS, memory_bytes=64 * 1024**2), replace(LIMITS, cpu_seconds=0)):
        with pytest.raises(ProbeError) as caught:
            probe(large, "video", limits)
        assert caught.value.code == "undecodable"
    assert probe(large, "video", LIMITS).video == VideoStream(4096, 2160, 30.0)


def test_a_probe_that_is_killed_from_outside_is_not_the_files_fault(sources: Path) -> None:
    with Prober() as prober:
        pid = wait_for_spare(prober)
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(prober.probe, sources / "both.mp4", "video", LIMITS)
            until(lambda: prober._spare is None or prober._spare.pid != pid, "the child is taken")
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ProbeUnavailableError, match="killed from outside"):
                asked.result()


def test_the_child_sees_no_secrets(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
    with Prober() as prober:
        pid = wait_for_spare(prober)
        assert b"do not tell" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_many_uploads_at_once_are_told_apart(sources: Path, prober: Prober) -> None:
    def ask(index: int) -> str:
        try:
            result = prober.probe(sources / ("both.mp4", "silent.mp4")[index % 2], "audio", LIMITS)
        except ProbeError as error:
            return error.code
        return str(result.audio_codec)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(12)))

    assert answers == ["aac", "no_audio_track"] * 6


def test_nothing_stays_behind(sources: Path, tmp_path: Path) -> None:
    before, meanwhile, after = alone(
        """
        with Prober() as prober:
            prober.probe(sources / "both.mp4", "video", ProbeLimits())
            try:
                prober.probe(sources / "silent.mp4", "audio", ProbeLimits())
            except ProbeError as error:
                assert error.code == "no_audio_track"
            told.append(remains())
        probe(sources / "sound.mp3", "audio", ProbeLimits())
        told.append(remains())
        """,
        sources,
        tmp_path,
    )

    assert meanwhile["children"] == before["children"] + 1  # the spare
    assert after == before
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_sound_is_undecodable(prober: Prober, tmp_path: Path) -> None:
    for channels, rate, got in ((65, 16_000, "65 channels"), (1, 99, "99 Hz"), (1, 2_000_000, "2000000 Hz")):
        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(bytes(2 * channels * rate))
        error = refusal(prober, path, "audio")
        assert (error.status, error.code, error.got) == (422, "undecodable", got)


def test_the_spare_child_ends_when_the_service_dies(tmp_path: Path) -> None:
    script = (
        "import os; from service.sandbox.probe import Prober; p = Prober(); p.warm(); "
        "print(p._spare.pid, flush=True); os._exit(1)"
    )
    service = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, timeout=30,
    )  # fmt: skip
    pid = int(service.stdout)

    deadline = time.monotonic() + 10
    while (stat := Path(f"/proc/{pid}/stat")).exists() and stat.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the child outlived the service"
        time.sleep(0.02)


def test_a_spare_child_that_died_is_replaced(sources: Path) -> None:
    with Prober() as prober:
        spare = prober._spare
        assert spare is not None
        spare.kill()
        spare.wait()
        assert prober.probe(sources / "both.mp4", "video", LIMITS).video_codec == "h264"


def test_a_missing_decoder_is_not_the_users_fault(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.sandbox.probe.sys.executable", "/nonexistent/python")

    with pytest.raises(ProbeUnavailableError):
        probe(sources / "both.mp4", "video", LIMITS)


def test_the_api_process_loads_neither_torch_nor_the_decoder() -> None:
    look = "import service.sandbox.probe; print({'av', 'torch', 'numpy'} & set(sys.modules))"
    script = f"import sys; sys.path[:0] = {sys.path!r}; {look}"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout

    assert told.strip() == "set()"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["both.mp4", "silent.mp4", "sound.mp3"]))
def test_a_damaged_file_is_described_or_refused_but_nothing_else(
    prober: Prober, sources: Path, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    content = bytearray((sources / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=64))
        content[at : at + len(patch)] = patch
    path = tmp_path / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])

    try:
        outcome: ProbeResult | int = prober.probe(path, "video", LIMITS)
    except ProbeError as error:
        outcome = error.status

    assert isinstance(outcome, ProbeResult) or outcome in (415, 422)


@pytest.mark.timed
def test_the_answer_comes_well_within_300_ms(sources: Path) -> None:
    """With a spare child: the median of several, so that a busy machine does not decide."""
    took = []
    with Prober() as prober:
        for _ in range(5):
            wait_for_spare(prober)
            began = time.perf_counter()
            prober.probe(sources / "both.mp4", "video", LIMITS)
            took.append(time.perf_counter() - began)

    assert sorted(took)[2] < 0.25
