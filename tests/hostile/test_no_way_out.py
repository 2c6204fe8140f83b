"""No upload makes the decoder open another file or call an address: whatever it is, and whoever opens it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import pytest

from model.media.source import MediaError, open_media
from service.sandbox.probe import CHILD, ProbeError, ProbeLimits, probe
from tests.clips import Film, Track, make
from tests.hostile.boxes import Forgery, Samples, full
from tests.hostile.movies import alias, references_to
from tests.hostile.pretenders import PLAYLISTS, playlist
from tests.hostile.sources import coded
from tests.hostile.watch import Canary, Silence
from tests.waiting import until

pytestmark = pytest.mark.slow

OPENERS = {"m3u8": "hls", "m3u8 key": "hls", "m3u8 map": "hls", "ffconcat": "concat"}
"""Playlists that this decoder plays when it is let to, and with which demuxer."""

EVERYTHING = {"protocol_whitelist": "fd,file,http,tcp,crypto,concat,subfile", "safe": "0", "allowed_extensions": "ALL",
              "extension_picky": "0", "enable_drefs": "1", "use_absolute_path": "1"}  # fmt: skip
"""Options of somebody who trusts every file."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clip") / "a.mp4", Film(frames=24), Track(seconds=1.0))


@pytest.fixture
def canary(tmp_path: Path, clip: Path) -> Iterator[Canary]:
    one = Canary(tmp_path)
    one.fill(clip.read_bytes())
    with one:
        yield one


@pytest.fixture
def silence() -> Iterator[Silence]:
    with Silence() as one:
        yield one


def elsewhere(clip: Path, canary: Canary) -> bytes:
    """An MP4 whose samples lie in the canary."""
    track: Samples = coded(clip)
    return Forgery(track, dref=references_to(full(b"alis", alias(str(canary.path))))).write()


def ask_child(path: Path, demuxer: str, options: dict[str, str]) -> dict[str, Any]:
    """What a probe's child answers that is told to open `path` with any demuxer and options."""
    request = {"path": str(path), "demuxer": demuxer, "url": "fd:", "options": options, "want": "video", "start": 0.0}
    request["limits"] = asdict(ProbeLimits())
    told = subprocess.run([sys.executable, "-I", CHILD], input=json.dumps(request).encode() + b"\n",
                          capture_output=True, timeout=60)  # fmt: skip
    assert told.returncode == 0, told.stderr.decode()
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


@pytest.mark.parametrize("name", PLAYLISTS)
def test_no_playlist_is_followed(canary: Canary, silence: Silence, tmp_path: Path, name: str) -> None:
    for number, target in enumerate((str(canary.path), f"http://127.0.0.1:{silence.port}/x")):
        path = tmp_path / f"{number}.m3u8"
        path.write_bytes(playlist(name, target, silence.port))
        with pytest.raises(ProbeError) as refused:
            probe(path, "video", ProbeLimits())
        assert refused.value.code == "unsupported_media"
        with pytest.raises(MediaError):
            open_media(path)

    assert not canary.opened()
    assert not silence.called()


@pytest.mark.parametrize("name", OPENERS)
def test_a_playlist_is_followed_by_whoever_lets_it(canary: Canary, silence: Silence, tmp_path: Path, name: str) -> None:
    """The bait is real: with everything allowed, the same text opens the file and calls the address."""
    script = "import av, sys, json; av.open(sys.argv[1], format=sys.argv[2], options=json.loads(sys.argv[3]))"
    for number, (target, noticed) in enumerate(
        ((str(canary.path), canary.opened), (f"http://127.0.0.1:{silence.port}/x", silence.called))
    ):
        path = tmp_path / f"{number}.m3u8"
        path.write_bytes(playlist(name, target, silence.port))
        arguments = [str(path), OPENERS[name], json.dumps(EVERYTHING)]
        with subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.DEVNULL) as follower:
            try:
                until(noticed, f"somebody follows {name} to {target}")
            finally:
                follower.kill()


@pytest.mark.parametrize("name", OPENERS)
def test_even_the_wrong_demuxer_with_every_protocol_gets_nowhere(
    canary: Canary, silence: Silence, tmp_path: Path, name: str
) -> None:
    """Were the list of demuxers and protocols wrong, the child could still open nothing: it has no descriptor left."""
    for number, target in enumerate((str(canary.path), f"http://127.0.0.1:{silence.port}/x")):
        path = tmp_path / f"{number}.m3u8"
        path.write_bytes(playlist(name, target, silence.port))
        answer = ask_child(path, OPENERS[name], EVERYTHING)
        assert answer["error"]["code"] == "undecodable"

    assert not canary.opened()
    assert not silence.called()


def test_samples_in_another_file_stay_there(canary: Canary, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.mp4"
    path.write_bytes(elsewhere(clip, canary))

    with pytest.raises(ProbeError):
        probe(path, "video", ProbeLimits())
    with open_media(path) as container:
        assert not any(packet.size for packet in container.demux())
    ask_child(path, "mov", EVERYTHING)
    assert not canary.opened()

    with av.open(str(path), options=EVERYTHING) as container:
        assert any(packet.size for packet in container.demux())
    assert canary.opened(), "the bait is none"
