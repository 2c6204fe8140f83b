"""Workers whose model is the fake of the chaos runs, as processes and as runners in the test's own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from service.jobs.connection import connect
from service.jobs.events import Previews
from service.settings import Settings
from service.storage import Storage, open_storage
from tests.chaos.worker import LEDGER, FakeMaker
from tests.workers.conftest import Stack
from workers.app import worker_name
from workers.leases import Leases
from workers.runner import Maker, Runner
from workers.spool import Spool


class FakeWorker:
    """A real worker process without torch: it starts in a second."""

    def __init__(self, settings: Settings, folder: Path, step_seconds: float = 0.02) -> None:
        self.log = folder / "fake-worker.log"
        environment = {
            f"DUET_{name.upper()}": str(value)
            for name, value in settings.model_dump(mode="json", exclude_unset=True, exclude={"broker_url"}).items()
        }
        environment["DUET_BROKER_URL"] = settings.broker_address
        environment |= {LEDGER: str(folder / "ledger"), "DUET_CHAOS_STEP": str(step_seconds)}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
            )

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


def parts(
    stack: Stack, maker: Maker | None = None, storage: Storage | None = None, slots: int = 1
) -> tuple[Runner, Leases, Spool]:
    """A worker's parts in this process; none of their threads runs yet."""
    settings = stack.settings
    storage = storage or open_storage(settings)
    leases = Leases(stack.store, settings.step_deadline, settings.job_deadline, lambda held: None)
    spool = Spool(settings.spool, stack.store, storage, leases)
    maker = maker or FakeMaker(settings.data.parent / "ledger", 0.01)
    previews = Previews(connect(settings))
    runner = Runner(worker_name(), stack.store, previews, storage, maker, leases, spool, settings.temporary, slots)
    return runner, leases, spool
