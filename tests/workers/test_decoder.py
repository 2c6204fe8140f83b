"""What a file does to the decoder stays in its child: crashes, loops and hunger end the call and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from model.media.decode import decode_audio, decode_frames, decode_video
from model.media.mux import cut_wav, mux_v2a
from model.media.source import MediaError
from model.networks.config import PRESETS
from tests.clips import Film, Track, make
from tests.waiting import until
from workers.decoder import LIMITS as DEFAULT
from workers.decoder import Bounds, DecoderFault, DecoderLost, Decoding, Spent

CLIP = PRESETS["tiny"].clip
LIMITS = replace(DEFAULT, cpu_seconds=20, wall_seconds=30)


@pytest.fixture(scope="module")
def decoding() -> Iterator[Decoding]:
    with Decoding(LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def spent() -> list[Spent]:
    """What the calls of `hasty` cost."""
    return []


@pytest.fixture(scope="module")
def hasty(spent: list[Spent]) -> Iterator[Decoding]:
    """One with little patience, started by a process with a secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
        with Decoding(replace(LIMITS, cpu_seconds=1, wall_seconds=4.0), spent.append) as one:
            yield one


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("film") / "a.mp4", Film(), Track())


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


# What a hostile file would make of a child; run by their names, as every call is.


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def planar_with_eight_channels(path: Path) -> None:
    """PyAV 18 counts the planes of such frames wrongly and reads beyond them."""
    with av.open(path) as container:
        for frame in container.decode(container.streams.audio[0]):
            frame.to_ndarray()


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def sleep_briefly() -> None:
    time.sleep(1)


def hog() -> str:
    return str(len(bytearray(2 * LIMITS.memory_bytes)))


def fill(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LIMITS.file_bytes + 1)


def babble() -> str:
    os.write(1, b"x")
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\x80\x04cos\nsystem\n(S'id'\ntR.\n")
        except OSError:
            continue
    os._exit(0)


def tell_environment() -> str:
    return "\n".join(f"{name}={value}" for name, value in os.environ.items())


def fail() -> None:
    raise KeyError("an error in our own code")


def quit_politely() -> None:
    sys.exit(0)


def test_the_answers_are_those_of_the_functions_themselves(decoding: Decoding, film: Path, tmp_path: Path) -> None:
    assert torch.equal(decoding.call(decode_video, film, CLIP, 0.5), decode_video(film, CLIP, 0.5))
    assert torch.equal(decoding.call(decode_frames, film, CLIP, 0.5), decode_frames(film, CLIP, 0.5))
    assert torch.equal(decoding.call(decode_audio, film, CLIP, start=0.5), decode_audio(film, CLIP, 0.5))
    sound = torch.zeros(1, 16_000)
    assert decoding.call(mux_v2a, film, 0.0, 1.0, sound, 16_000, tmp_path / "a.mp4", "c") == "copied"
    assert decoding.call(cut_wav, film, 0.0, 1.0, tmp_path / "a.wav") is None
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "a.wav"]


def test_what_the_functions_raise_is_raised(decoding: Decoding, film: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"the window begins at 9\.000 s, but the video ends at 3\.000 s"):
        decoding.call(decode_video, film, CLIP, 9.0)
    with pytest.raises(FileNotFoundError):
        decoding.call(decode_video, tmp_path / "none.mp4", CLIP, 0.0)


@pytest.mark.parametrize(
    ("hostile", "error"),
    [(crash, MediaError), (babble, DecoderFault), (quit_politely, DecoderFault), (fail, DecoderFault)],
)
def test_a_child_that_ends_badly_ends_alone(
    decoding: Decoding, film: Path, hostile: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"crashed|no answer|the decoder failed: KeyError"):
        decoding.call(hostile)

    assert decoding.call(decode_video, film, CLIP, 0.0).shape == (CLIP.frames, 3, CLIP.height, CLIP.width)


def test_a_crash_of_the_library_is_the_files_fault(decoding: Decoding, tmp_path: Path) -> None:
    path = make(tmp_path / "a.m4a", sound=Track(48_000, "7.1", seconds=1.0))

    with contextlib.suppress(MediaError):  # a crash, until the library is mended
        decoding.call(planar_with_eight_channels, path)
    assert decoding.call(decode_audio, path, CLIP, 0.0).shape == (1, CLIP.samples)


def test_memory_and_files_are_limited(decoding: Decoding, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="more memory"):
        decoding.call(hog)
    with pytest.raises((MediaError, OSError)):
        decoding.call(fill, tmp_path / "large")


@pytest.mark.parametrize("hostile", [spin, sleep])
def test_time_is_limited(hasty: Decoding, spent: list[Spent], hostile) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MediaError, match="in the time allowed"):
        hasty.call(hostile)

    assert spent[-1].cpu_seconds < 2.5


def test_calls_side_by_side_do_not_wait_for_each_other(hasty: Decoding, film: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(hasty.call, sleep)
        assert pool.submit(hasty.call, decode_video, film, CLIP, 0.0).result().shape[0] == CLIP.frames
        assert not slow.done()
        with pytest.raises(MediaError):
            slow.result()


def test_the_child_sees_no_secrets(hasty: Decoding) -> None:
    assert "do not tell" not in hasty.call(tell_environment)


def test_a_server_that_was_killed_is_replaced(decoding: Decoding, film: Path) -> None:
    decoding.call(decode_video, film, CLIP, 0.0)
    assert decoding._server is not None
    decoding._server.kill()
    decoding._server.wait()

    assert decoding.call(decode_video, film, CLIP, 0.0).shape[0] == CLIP.frames


def open_files() -> set[str]:
    """What this process has open. What other tests left may close at any time, so tests look for what is new."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own, for one
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


def test_nothing_stays_when_it_is_closed(film: Path) -> None:
    files, threads = open_files(), set(threading.enumerate())
    decoding = Decoding(LIMITS)
    decoding.call(decode_video, film, CLIP, 0.0)
    assert decoding._server is not None
    server = decoding._server.pid
    until(lambda: not children_of(server), "the child of the call is gone")
    decoding.close()

    assert not Path(f"/proc/{server}").exists()
    assert open_files() <= files
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("end", [Decoding.close, lambda one: one._server.kill()], ids=["closed", "killed"])
def test_children_end_with_the_server(end: Callable[[Decoding], None]) -> None:
    decoding = Decoding(LIMITS)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(decoding.call, sleep)
        until(lambda: decoding._server is not None and children_of(decoding._server.pid), "the call has a child")
        assert decoding._server is not None
        (child,) = children_of(decoding._server.pid)
        end(decoding)
        with pytest.raises(DecoderLost):
            call.result(timeout=20)
    until(lambda: not alive(child), "the child has ended")
    decoding.close()


def test_a_call_that_is_no_longer_wanted_ends_at_once_with_its_child(decoding: Decoding) -> None:
    assert decoding._server is not None
    server = decoding._server.pid
    seen: list[int] = []

    def check() -> None:
        seen.extend(children_of(server))
        if seen:
            raise KeyError("cancelled")

    began = time.monotonic()
    with pytest.raises(KeyError, match="cancelled"):
        decoding.call_within(Bounds(LIMITS, check), sleep)
    assert time.monotonic() - began < LIMITS.wall_seconds / 2
    until(lambda: not alive(seen[0]), "the child has ended")
    assert decoding.call(sleep_briefly) is None  # the server goes on


def test_a_server_that_hangs_before_the_child_starts_does_not_hold_a_call(
    monkeypatch: pytest.MonkeyPatch, film: Path
) -> None:
    with Decoding(LIMITS) as decoding:
        decoding.call(decode_video, film, CLIP, 0.0)
        assert decoding._server is not None
        os.kill(decoding._server.pid, signal.SIGSTOP)
        monkeypatch.setattr("workers.decoder.STARTING", 1.0)
        with pytest.raises(DecoderLost, match="does not answer"):
            decoding.call(decode_video, film, CLIP, 0.0)
        monkeypatch.undo()

        assert decoding.call(decode_video, film, CLIP, 0.0).shape[0] == CLIP.frames


def test_a_server_that_hangs_beside_its_child_does_not_hold_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.decoder.GRACE", 1.0)
    with Decoding(replace(LIMITS, wall_seconds=2.0)) as decoding, ThreadPoolExecutor(1) as pool:
        call = pool.submit(decoding.call, sleep_briefly)
        until(lambda: decoding._server is not None and children_of(decoding._server.pid), "the call has a child")
        assert decoding._server is not None
        os.kill(decoding._server.pid, signal.SIGSTOP)  # the child answers, but nobody reports its end
        with pytest.raises(DecoderLost, match="does not answer"):
            call.result(timeout=20)
