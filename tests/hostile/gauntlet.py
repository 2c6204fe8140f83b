"""Sends inputs to a real API, and takes what it accepts through what a worker does with it.

The API is the real one, with Redis, probe children and storage. What it accepts is decoded and muxed from storage as a
worker would, in the decoder's children; the model between the two is left out.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import torch

from model.media.decode import decode_audio, decode_video
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.source import MediaError
from model.networks.config import PRESETS
from service.settings import Settings
from tests.clips import black
from tests.conftest import RunningApi
from tests.hostile.case import ACCEPTED, REFUSALS, Case, Kind
from workers.decoder import Decoding, Spent

AT_ONCE = 3
"""Clients side by side: one more than waits for a small machine's processors."""

CLIP = PRESETS["demo"].clip


@dataclass(frozen=True)
class Outcome:
    """What came of one input. `answer`: a problem's code or ACCEPTED; `wrong`: what should not have been, in words."""

    case: Case
    status: int
    answer: str
    seconds: float
    end: str | None = None
    worked: float = 0.0
    child_cpu: float = 0.0
    child_bytes: int = 0
    wrong: str | None = None


class Faults(logging.Handler):
    """Exceptions that nobody foresaw in a probe's child. The file is refused all the same, but they are mistakes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "Traceback" in (message := record.getMessage()):
            self.seen.append(message[-300:])


class Gauntlet:
    """A client of the API, and a worker without a model. `scratch` is a folder for what it makes."""

    def __init__(self, api: RunningApi, settings: Settings, scratch: Path) -> None:
        self._spent = threading.local()
        self._storage = Path(settings.storage_url)
        self._scratch = scratch
        self._client = httpx.Client(base_url=api.url, timeout=120, trust_env=False)
        self._probe_log = logging.getLogger("service.sandbox.probe")
        self.faults = Faults()
        self._decoding = Decoding(on_spent=lambda spent: self._spent.calls.append(spent))

    def __enter__(self) -> Gauntlet:
        self._decoding.warm()
        self._probe_log.addHandler(self.faults)
        self._probe_log.setLevel(logging.WARNING)
        return self

    def __exit__(self, *_: object) -> None:
        self._probe_log.setLevel(logging.NOTSET)
        self._probe_log.removeHandler(self.faults)
        self._decoding.close()
        self._client.close()

    def run(self, cases: Iterable[Case]) -> list[Outcome]:
        """Every case's outcome, in order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._send, cases))

    def _send(self, case: Case) -> Outcome:
        began = time.perf_counter()
        form = {"Content-Type": "multipart/form-data; boundary=XX"}
        answer = self._client.post(f"/{case.kind}", content=_form(case), headers=form)
        seconds = time.perf_counter() - began
        body = answer.json()
        if answer.status_code != 202:
            code = body.get("code", "")
            documented = REFUSALS.get(code) == answer.status_code and body.get("detail")
            fine = documented and code in case.answers
            wrong = None if fine else f"answered {answer.status_code} {code}: {answer.text[:300]}"
            return Outcome(case, answer.status_code, code, seconds, wrong=wrong)
        outcome = self._work(case, body, seconds)
        erased = self._client.delete(f"/jobs/{body['id']}")
        return outcome if erased.status_code == 204 else replace(outcome, wrong=f"not erased: {erased.status_code}")

    def _work(self, case: Case, job: dict[str, Any], seconds: float) -> Outcome:
        """Decode and mux as a worker does. Only a MediaError may come of it: that is a failed job with a reason."""
        upload = next((self._storage / "jobs" / job["id"]).glob("input*"))
        folder = self._scratch / job["id"]
        folder.mkdir()
        self._spent.calls = []
        wrong = None if ACCEPTED in case.answers else "was accepted"
        began = time.perf_counter()
        try:
            self._make(case.kind, upload, job["input"]["used"], folder)
            end = "completed"
        except MediaError as error:
            end = f"failed: {error}"
            wrong = wrong or ("accepted, but its job failed" if case.answers == {ACCEPTED} else None)
        except Exception as error:
            end = wrong = f"{type(error).__name__}: {error}"
        if end != "completed" and (folder / "video.mp4").exists():
            wrong = "failed, but left a film under its final name"
        shutil.rmtree(folder)
        calls: list[Spent] = self._spent.calls
        return Outcome(
            case,
            202,
            ACCEPTED,
            seconds,
            end,
            time.perf_counter() - began,
            max((call.cpu_seconds for call in calls), default=0.0),
            max((call.peak_bytes for call in calls), default=0),
            wrong,
        )

    def _make(self, kind: Kind, upload: Path, used: dict[str, float], folder: Path) -> None:
        call, start, duration = self._decoding.call, used["start"], used["duration"]
        if kind == "v2a":
            seen = call(decode_video, upload, CLIP, start)
            assert seen.shape == (CLIP.frames, 3, CLIP.height, CLIP.width)
            silence = torch.zeros(1, CLIP.samples)
            call(mux_v2a, upload, start, duration, silence, CLIP.sample_rate, folder / "video.mp4", "c")
        else:
            heard = call(decode_audio, upload, CLIP, start)
            assert heard.shape == (1, CLIP.samples)
            video = black(folder, CLIP.frames, CLIP.height)
            call(mux_a2v, video, upload, start, duration, folder / "video.mp4", "c")
            call(cut_wav, upload, start, duration, folder / "audio.wav")


def _form(case: Case) -> bytes:
    """The request as a client writes it that escapes nothing but what would end the name (HTML, 4.10.21.8)."""
    name = case.filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").replace("\\", "\\\\")
    head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode("utf-8", "replace")
    return head + case.data + b"\r\n--XX--\r\n"


def figures(outcomes: Sequence[Outcome]) -> str:
    """What came of it all, in lines."""
    worked = [each for each in outcomes if each.end]
    slowest = max(outcomes, key=lambda each: each.seconds)
    lines = [f"{len(outcomes)} inputs in {len({each.case.family for each in outcomes})} families"]
    for (status, answer), count in sorted(Counter((each.status, each.answer) for each in outcomes).items()):
        lines.append(f"  {status} {answer:20} {count:4}")
    lines.append(f"  slowest answer {slowest.seconds:.2f} s: {slowest.case}")
    if worked:
        ends = Counter(str(each.end).partition(":")[0] for each in worked)
        lines.append(f"jobs of what was accepted: {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}")
        longest = max(worked, key=lambda each: each.child_cpu)
        largest = max(worked, key=lambda each: each.child_bytes)
        lines.append(f"  longest child {longest.child_cpu:.2f} s of CPU: {longest.case} ({longest.end})")
        lines.append(f"  largest child {largest.child_bytes / 2**20:.0f} MiB: {largest.case} ({largest.end})")
    lines += [f"WRONG {each.case}: {each.wrong}" for each in outcomes if each.wrong]
    return "\n".join(lines)
