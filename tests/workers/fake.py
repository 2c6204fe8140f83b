"""Workers with the fake model of the chaos runs, as processes and as runners in the test's own process."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint.model_folders import Changes
from service.jobs.connection import connect
from service.jobs.events import Previews
from service.jobs.record import Job
from service.settings import Settings
from service.storage import Storage, open_storage
from tests.chaos.worker import LEDGER, FakeMaker
from tests.processes import ModuleProcess
from tests.workers.conftest import Stack
from workers.app import worker_name
from workers.leases import Leases
from workers.runner import Attempt, Maker, Runner
from workers.spool import Files, Spool


class FakeWorker(ModuleProcess):
    """A real worker process without torch, which starts in a second."""

    def __init__(self, settings: Settings, folder: Path, step_seconds: float = 0.02) -> None:
        environment = {
            f"DUET_{name.upper()}": str(value)
            for name, value in settings.model_dump(mode="json", exclude_unset=True, exclude={"broker_url"}).items()
        }
        environment["DUET_BROKER_URL"] = settings.broker_address
        environment |= {LEDGER: str(folder / "ledger"), "DUET_CHAOS_STEP": str(step_seconds)}
        super().__init__(["tests.chaos.worker"], environment, folder / "fake-worker.log")


class Failing:
    """A maker that always raises `error`."""

    slots, collectors = 1, ()

    def __init__(self, error: Exception) -> None:
        self._error = error

    def serves(self, model: str) -> bool:
        return True

    def reload(self) -> Changes:
        return Changes()

    def preload(self) -> None:
        """There is nothing to load."""

    def is_long(self, job: Job) -> bool:
        return False

    def make(self, attempt: Attempt) -> list[Files]:
        attempt.begin()
        raise self._error


def parts(
    stack: Stack, maker: Maker | None = None, storage: Storage | None = None, slots: int = 1
) -> tuple[Runner, Leases, Spool]:
    """The parts of a worker, in this process and with their threads not started."""
    settings = stack.settings
    storage = storage or open_storage(settings)
    leases = Leases(stack.store, settings.step_deadline, settings.job_deadline, lambda held: None)
    spool = Spool(settings.spool, stack.store, storage, leases)
    maker = maker or FakeMaker(settings.data.parent / "ledger", 0.01)
    previews = Previews(connect(settings))
    runner = Runner(worker_name(), stack.store, previews, storage, maker, leases, spool, settings.temporary, slots)
    return runner, leases, spool
