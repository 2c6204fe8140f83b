"""Probes an upload before a job is queued: its container and tracks, and whether the job can use it.

The file is untrusted. Its first bytes select one demuxer from a short list (`model.media.containers`). A child process
opens the file under limits on CPU time, memory and wall-clock time, and decodes the beginning of the window that the
job will use (`service.sandbox.probe_child`). Each child probes one file and exits. A `Prober` keeps one started in
advance, because loading the decoder takes longer than probing a file. This module imports no torch and no decoder.

    with Prober() as prober:                               # for as long as the API runs
        result = prober.probe(path, "video", ProbeLimits(window=1.6), start=0.0)
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from model.media.containers import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    READABLE,
    Signature,
    identify,
    open_options,
    why_unknown,
)
from model.media.streams import AudioStream, VideoStream
from service.sandbox import child as children

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("probe_child.py")
CANNOT_START = 69
"""Exit status of a child that could not load the decoder (EX_UNAVAILABLE): the installation is broken."""


@dataclass(frozen=True)
class ProbeLimits:
    """Limits on an upload and on its probe. `window`: seconds that the job will use from `start` on."""

    max_seconds: float = 600.0
    max_width: int = 8192
    max_height: int = 4320
    min_seconds: float = 0.1
    window: float = 1.6
    cpu_seconds: float = 2.0
    wall_seconds: float = 15.0
    memory_bytes: int = 2 * 1024**3
    max_channels: int = MAX_CHANNELS
    min_sample_rate: int = MIN_SAMPLE_RATE
    max_sample_rate: int = MAX_SAMPLE_RATE


@dataclass(frozen=True)
class ProbeResult:
    """Contents of the file. `duration`: seconds until the wanted track ends; `tracks`: its number in the file, or the
    numbers of a left and a right channel. `video` and `audio` are None if the file has no such track."""

    container: str
    duration: float
    video: VideoStream | None
    audio: AudioStream | None
    video_codec: str | None
    audio_codec: str | None
    tracks: tuple[int, ...]


class ProbeError(Exception):
    """The upload cannot be used. The message tells its owner why.

    | status | code | when |
    |---|---|---|
    | 415 | `unsupported_media` | not a container that Duet opens: text, an image, a playlist … |
    | 422 | `empty_file` | zero bytes |
    | 422 | `undecodable` | cut off, damaged, with an impossible sound, or needing more time or memory than allowed |
    | 422 | `no_video_track`, `no_audio_track` | the track that the job needs is missing |
    | 422 | `too_short` | less than `min_seconds` (`field` is `start` where the window begins too late) |
    | 422 | `too_long`, `too_many_pixels` | beyond the limits |

    `field` is the request field at fault; `got` describes its value and `allowed` the accepted values.
    """

    def __init__(
        self,
        code: str,
        message: str,
        field: str = "file",
        got: str | None = None,
        allowed: str = "a whole file that players can play",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = 415 if code == "unsupported_media" else 422
        self.message = message
        self.field = field
        self.got = got
        self.allowed = allowed


class ProbeUnavailableError(RuntimeError):
    """No child could be started, or it could not load the decoder. The upload may be valid."""


class Prober:
    """Probes files in child processes, one file each, and keeps one child started in advance. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __enter__(self) -> Prober:
        self.warm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warm(self) -> None:
        """Start the spare child if there is none. Returns at once, while the child loads the decoder."""
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = _start_child()

    def close(self) -> None:
        """End the spare child. Probes that are running end by themselves."""
        with self._lock:
            spare, self._spare, self._closed = self._spare, None, True
        if spare is not None:
            children.kill(spare)

    def probe(
        self, path: str | os.PathLike[str], want: Literal["video", "audio"], limits: ProbeLimits, start: float = 0.0
    ) -> ProbeResult:
        """Probe the file at `path`. The job uses its `want` track from `start` seconds on.

        Raises ProbeError if the upload cannot be used, FileNotFoundError, and ProbeUnavailableError.
        """
        signature = _signature_of(path)
        request: dict[str, Any] = {"path": os.fspath(path), "want": want, **asdict(signature)}
        request |= {"options": open_options(0), "start": start, "limits": asdict(limits)}
        try:
            answer = _ask(self._take_child(), request, limits)
        finally:
            self.warm()
        if "error" in answer:
            raise ProbeError(**answer["error"])
        video, audio = answer.pop("video"), answer.pop("audio")
        return ProbeResult(
            **answer | {"tracks": tuple(answer["tracks"])},
            video=VideoStream(**video) if video else None,
            audio=AudioStream(**audio) if audio else None,
        )

    def probe_mask(self, path: str | os.PathLike[str], limits: ProbeLimits) -> tuple[int, int]:
        """Width and height of the mask picture at `path`, a PNG that is not black everywhere.

        Raises ProbeError, whose field is `mask`, and as `probe`.
        """
        request: dict[str, Any] = {"path": os.fspath(path), "want": "mask", "limits": asdict(limits)}
        try:
            answer = _ask(self._take_child(), request, limits)
        except ProbeError as error:
            raise ProbeError(error.code, error.message, "mask", error.got, "a PNG picture") from error
        finally:
            self.warm()
        if "error" in answer:
            raise ProbeError(**{"allowed": "a PNG picture", **answer["error"], "field": "mask"})
        return int(answer["width"]), int(answer["height"])

    def _take_child(self) -> subprocess.Popen[bytes]:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.poll() is None:
            return spare
        if spare is not None:
            children.kill(spare)
        return _start_child()


def probe(
    path: str | os.PathLike[str], want: Literal["video", "audio"], limits: ProbeLimits, start: float = 0.0
) -> ProbeResult:
    """Probe one file without leaving a spare child: for scripts. A service keeps a Prober."""
    prober = Prober()
    prober.close()  # a closed prober still answers, but starts nothing in advance
    return prober.probe(path, want, limits, start)


def probe_mask(path: str | os.PathLike[str], limits: ProbeLimits) -> tuple[int, int]:
    """As `Prober.probe_mask`, for scripts."""
    prober = Prober()
    prober.close()
    return prober.probe_mask(path, limits)


def _signature_of(path: str | os.PathLike[str]) -> Signature:
    with open(path, "rb") as file:
        if not file.read(1):
            raise ProbeError("empty_file", "the file is empty", got="0 bytes", allowed="a file that is not empty")
        signature = identify(file.fileno())
        if signature is None:
            raise ProbeError("unsupported_media", why_unknown(file.fileno()), allowed=READABLE)
    return signature


def _start_child() -> subprocess.Popen[bytes]:
    """Start a child, which waits for its one request."""
    pipe = subprocess.PIPE
    try:
        return children.start([sys.executable, "-I", str(CHILD)], stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise ProbeUnavailableError(f"no process could be started to look at the upload: {error}") from error


def _ask(child: subprocess.Popen[bytes], request: dict[str, Any], limits: ProbeLimits) -> dict[str, Any]:
    """Send the request and return the answer. The child has ended when this returns or raises."""
    try:
        out, err = child.communicate(json.dumps(request).encode() + b"\n", timeout=limits.wall_seconds)
    except subprocess.TimeoutExpired as error:
        raise ProbeError("undecodable", f"the file could not be decoded within {limits.wall_seconds:g} s") from error
    finally:
        children.kill(child)
    if child.returncode == 0:
        answer: dict[str, Any] = json.loads(out)
        return answer
    problem = err.decode(errors="replace").strip()
    if child.returncode == CANNOT_START:
        raise ProbeUnavailableError(f"the decoder cannot be loaded: {problem}")
    log.warning("the probe of an upload ended with status %d: %s", child.returncode, problem)
    if child.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        raise ProbeError("undecodable", f"the file could not be examined within {limits.cpu_seconds:g} s of CPU time")
    if child.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        raise ProbeUnavailableError("the probe was killed from outside")
    raise ProbeError("undecodable", "the file could not be decoded: it is damaged")
