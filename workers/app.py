"""The worker process: models loaded once and kept, a Celery consumer, leases, the spool, the reaper, a sign of life.

`run` is the whole of it; the other processes of the service know this one by its name in Redis only.
"""

from __future__ import annotations

import gc
import os
import secrets
import socket
import sys
import threading
import warnings
from collections.abc import Callable

from celery import Celery, signals
from celery.platforms import SecurityWarning

from service.jobs.events import Previews
from service.jobs.queue import JobQueue, celery_config
from service.jobs.reaper import Reaper
from service.jobs.store import JobStore, StoreUnavailable, connect
from service.log import configure_logging, log
from service.metrics.exporter import Exporter
from service.settings import Settings
from service.storage import open_storage
from service.tracing import open_tracing
from workers import tasks, transport
from workers.fatal_exit import end_hung
from workers.gpu_claim import claim_gpu
from workers.leases import Leases
from workers.metrics import WorkerMetrics
from workers.runner import Maker, Runner
from workers.spool import Spool

SWITCH = 0.0005
"""Seconds for which a thread may keep Python to itself while others want it. The engine's thread asks for it hundreds
of times between two forwards; at Python's own 5 ms the encoding of other jobs would keep the device waiting."""


def load_models(settings: Settings) -> Maker:
    """The maker of a real worker. Raises ManifestError or CheckpointError if a model cannot be loaded."""
    from workers.model_maker import ModelMaker  # torch takes seconds to import, and not every maker needs it

    return ModelMaker.load(settings)


def run(settings: Settings, load: Callable[[Settings], Maker] = load_models) -> int:
    """Load the models and work until SIGTERM or SIGINT; return the exit status.

    On the signal the running jobs go back to the queue at once; what is on its way to storage may go on until the grace
    is over. Raises what `load` raises.
    """
    configure_logging(settings)
    claim_gpu(settings)
    sys.setswitchinterval(SWITCH)
    metrics, tracing = WorkerMetrics(), open_tracing(settings, "duet-worker")
    exporter = Exporter(settings, metrics.registry)
    name = worker_name()
    ageing = settings.ageing.total_seconds()
    client = connect(settings)
    store = JobStore(client, settings.lease, ageing)
    storage = open_storage(settings)
    maker = load(settings)
    for collector in maker.collectors:
        metrics.registry.register(collector)
    leases = Leases(store, settings.step_deadline, settings.job_deadline, end_hung, metrics.lease_lost)
    spool = Spool(settings.spool, store, storage, leases)
    previews = Previews(client)
    runner = Runner(
        name, store, previews, storage, maker, leases, spool, settings.temporary, settings.slots, metrics, tracing
    )
    queue = JobQueue(settings)
    reaper = Reaper(store, queue, ageing, metrics.abandoned)
    parts = (leases, spool, reaper, Presence(name, store), exporter)
    celery = create_celery(settings, runner, queue)

    # What is there by now stays. Left among the objects that are looked through, hundreds of thousands of them would
    # put off the next full collection for hours.
    gc.collect()
    gc.freeze()

    def ready(**_: object) -> None:
        for part in parts:
            part.start()
        log.info("waiting for jobs", worker=name, slots=runner.slots)

    def stopping(**_: object) -> None:
        log.info("stopping: the running jobs, if any, go back to the queue")
        runner.stop()
        patience = threading.Timer(settings.grace.total_seconds(), _end_stopped, [runner, store, name])
        patience.daemon = True
        patience.start()

    def keep_logging(**_: object) -> None:
        """Celery sets up logging unless somebody answers this signal; ours is set up already."""

    # Celery warns root of unpickling what strangers send; nothing here is ever unpickled.
    warnings.simplefilter("ignore", SecurityWarning)
    signals.setup_logging.connect(keep_logging)
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(stopping)
    worker = celery.Worker(hostname=name, quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True)
    worker.start()
    for part in reversed(parts):
        part.stop()
    maker.close()
    queue.close()
    tracing.close()
    return worker.exitcode or 0


def worker_name() -> str:
    """Names this process and no other, not even a later one with its number in a container of the same name."""
    return f"{process_name(os.getpid())}{secrets.token_hex(4)}"


def process_name(pid: int) -> str:
    """How the names of workers begin that run on this machine under this process number."""
    return f"{socket.gethostname()}-{pid}-"


def create_celery(settings: Settings, runner: Runner, queue: JobQueue) -> Celery:
    """Celery's consuming side: threads, because all of them share the models and the device."""
    transport.install()
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(
        celery_config(settings),
        worker_pool="threads",
        worker_concurrency=runner.slots,
        worker_redirect_stdouts=False,
    )
    tasks.register(celery, runner, queue)
    transport.keep_awake(celery)
    return celery


class Presence:
    """Says in Redis that this worker is there, from `start()` to `stop()`; after a sudden death it lapses by itself."""

    RENEW = 5.0
    """Seconds between two signs of life; each is good for three times as long."""

    def __init__(self, name: str, store: JobStore) -> None:
        self._name = name
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
                self._store.announce_worker(self._name, 3 * self.RENEW)
            except StoreUnavailable as error:
                log.warning("Redis does not answer", error=str(error))
            if self._stopped.wait(self.RENEW):
                break
        try:
            self._store.forget_worker(self._name)
        except StoreUnavailable as error:
            log.warning("could not sign off", error=str(error))


def _end_stopped(runner: Runner, store: JobStore, name: str) -> None:
    """End the process in the midst of a step: Celery's own soft shutdown knows no way to stop a thread."""
    try:
        runner.hand_back_all()
        store.forget_worker(name)
    except StoreUnavailable as error:
        log.warning("Redis does not answer: the leases run out by themselves", error=str(error))
    log.warning("the grace is over: this worker ends")
    os._exit(0)
