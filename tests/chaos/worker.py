"""A real worker with a fake model, which takes no time and does what a job's metadata say.

`python -m tests.chaos.worker`; no setting of the service leads here. Each run of a job is noted in the file that
DUET_CHAOS_LEDGER names, when it begins and when all outputs are made. A worker has no model if the file that
DUET_CHAOS_WITHOUT_MODEL names exists when it starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from model.checkpoint.model_folders import Changes
from service.jobs.record import Job, Progress
from service.settings import Settings, load_settings
from workers.app import run
from workers.runner import Attempt
from workers.spool import Files

LEDGER = "DUET_CHAOS_LEDGER"
WITHOUT_MODEL = "DUET_CHAOS_WITHOUT_MODEL"
BEHAVIOUR = "behaviour"
"""Key in a job's metadata: `poison` kills its worker, `raise` raises, `hang` finishes no step in its first attempt."""

STEPS = 5

LONG = 1.6
"""Seconds of a clip from which a job is long."""


class FakeMaker:
    """Sleeps through the steps and writes small files that say which attempt of which job they come from."""

    def __init__(self, ledger: Path, step_seconds: float, has_model: bool = True) -> None:
        self._has_model = has_model
        self._ledger = ledger
        self._step_seconds = step_seconds

    slots = 1

    def serves(self, model: str) -> bool:
        return self._has_model

    def reload(self) -> Changes:
        return Changes()

    def preload(self) -> None:
        """There is nothing to load."""

    def is_long(self, job: Job) -> bool:
        return (job.params.duration or 0) > LONG

    def stop(self) -> None:
        """Nothing to do: each step ends soon, and the report after it ends the job."""

    collectors = ()

    def close(self) -> None:
        """Nothing to do: nothing runs outside `make`."""

    def make(self, attempt: Attempt) -> list[Files]:
        job = attempt.job
        if job.input is not None:
            assert attempt.source is not None
            assert hashlib.sha256(attempt.source.read_bytes()).hexdigest() == job.input.sha256
        attempt.begin()
        self._note("begin", attempt)
        behaviour = job.metadata.get(BEHAVIOUR)
        # A job that runs alone takes less time, so that the kills do not hit the same innocent job three times.
        step_seconds = self._step_seconds / 5 if job.alone else self._step_seconds
        for step in range(1, STEPS + 1):
            if behaviour == "hang" and job.attempt == 1:
                time.sleep(3600)
            time.sleep(step_seconds)
            if behaviour == "poison" and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if behaviour == "raise" and step == 2:
                raise RuntimeError("this job raises, as it was asked to")
            attempt.report(Progress("base", step, STEPS, step / STEPS))
        made = []
        for index in range(job.params.num_outputs):
            files = {name: attempt.folder / f"{index}-{name}" for name in ("video.mp4", "audio.wav", "manifest.json")}
            for path in files.values():
                path.write_text(json.dumps({"job": job.id, "attempt": job.attempt, "index": index}))
            made.append(files)
        self._note("made", attempt)
        return made

    def _note(self, what: str, attempt: Attempt) -> None:
        job = attempt.job
        entry = {"what": what, "job": job.id, "attempt": job.attempt, "alone": job.alone}
        line = json.dumps({**entry, "pid": os.getpid(), "at": time.time()}) + "\n"
        handle = os.open(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def load(_: Settings) -> FakeMaker:
    has_model = not Path(os.environ.get(WITHOUT_MODEL, "/nowhere")).exists()
    return FakeMaker(Path(os.environ[LEDGER]), float(os.environ.get("DUET_CHAOS_STEP", "0.05")), has_model)


if __name__ == "__main__":
    settings = load_settings()
    raise SystemExit(run(settings, load))
