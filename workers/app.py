"""The worker process: models loaded once and kept, a Celery consumer with one thread, a sign of life for the API."""

from __future__ import annotations

import os
import socket
import threading
import warnings

from celery import Celery, signals
from celery.platforms import SecurityWarning

from model.allocator import keep_freed_memory
from model.manifest import find_models
from model.pipeline import Pipeline
from service.jobs.queue import celery_config
from service.jobs.store import JobStore, StoreUnavailable, connect
from service.log import configure_logging, log
from service.settings import Settings
from service.storage import open_storage
from workers import tasks
from workers.runner import Runner


def run(settings: Settings) -> int:
    """Load the models and work until SIGTERM or SIGINT; return the exit status.

    On the signal the running job goes back to the queue after its current step. Raises ManifestError or CheckpointError
    if a model cannot be loaded.
    """
    configure_logging(settings)
    keep_freed_memory()
    store = JobStore(connect(settings))
    runner = Runner(store, open_storage(settings), load_pipelines(settings), settings.temporary)
    presence = Presence(store)
    celery = create_celery(settings, runner)

    def ready(**_: object) -> None:
        presence.start()
        log.info("waiting for jobs", worker=presence.name)

    def stopping(**_: object) -> None:
        log.info("stopping: the running job, if any, goes back to the queue")
        runner.stop()
        presence.stop()

    def keep_logging(**_: object) -> None:
        """Celery sets up logging unless somebody answers this signal; ours is set up already."""

    # Celery warns root of unpickling what strangers send; nothing here is ever unpickled.
    warnings.simplefilter("ignore", SecurityWarning)
    signals.setup_logging.connect(keep_logging)
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(stopping)
    worker = celery.Worker(
        hostname=presence.name, quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True
    )
    worker.start()
    presence.stop()
    return worker.exitcode or 0


def create_celery(settings: Settings, runner: Runner) -> Celery:
    """Celery's consuming side: one thread, because one thread owns the device."""
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(
        celery_config(settings),
        worker_pool="threads",
        worker_concurrency=1,
        worker_redirect_stdouts=False,
    )
    tasks.register(celery, runner)
    return celery


def load_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """Every model of DUET_MODELS and every built-in one, ready to run, by name."""
    pipelines = {}
    for name, manifest in find_models(settings.models).items():
        pipelines[name] = pipeline = Pipeline.load(manifest, settings.device, settings.dtype)
        if manifest.trained:
            log.info("model loaded", model=name, device=str(pipeline.device))
        else:
            log.warning(
                "model loaded, but it is untrained: its networks are random and its clips are noise",
                model=name,
                device=str(pipeline.device),
            )
    return pipelines


class Presence:
    """Says in Redis that this worker is there, from `start()` to `stop()`; after a sudden death it lapses by itself."""

    RENEW = 5.0
    """Seconds between two signs of life; each is good for three times as long."""

    def __init__(self, store: JobStore) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take the sign back. May be called again, and before `start()`."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _renew(self) -> None:
        while True:
            try:
                self._store.announce_worker(self.name, 3 * self.RENEW)
            except StoreUnavailable as error:
                log.warning("Redis does not answer", error=str(error))
            if self._stopped.wait(self.RENEW):
                break
        try:
            self._store.forget_worker(self.name)
        except StoreUnavailable as error:
            log.warning("could not sign off", error=str(error))
