"""The worker process: loads the models once, consumes jobs with Celery, and runs the background threads (leases,
spool, reaper, heartbeat, metrics).

`run` is the entry point. The API finds workers only by their heartbeats in Redis.
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
from functools import partial

from celery import Celery, signals
from celery.platforms import SecurityWarning

from service.hangup import on_hangup
from service.jobs.connection import StoreUnavailable, connect
from service.jobs.events import Previews
from service.jobs.model_generation import ModelGeneration
from service.jobs.queue import JobQueue, celery_config
from service.jobs.reaper import Reaper
from service.jobs.store import JobStore
from service.log import configure_logging, log
from service.metrics.exporter import Exporter
from service.periodic import Periodic
from service.settings import Settings
from service.storage import Breaker, GuardedStorage, open_storage
from service.tracing import open_tracing
from workers import tasks, transport
from workers.fatal_exit import CONSUMER_FAILED, exit_hung
from workers.gpu_claim import claim_gpu
from workers.leases import Leases
from workers.metrics import WorkerMetrics
from workers.model_follower import ModelFollower
from workers.runner import Maker, Runner
from workers.spool import Spool

SWITCH_INTERVAL = 0.0005
"""Seconds for which a thread may hold the GIL while others wait for it. The engine's thread acquires it hundreds of
times between two forwards; at Python's default of 5 ms the encoding of other jobs would keep the device waiting."""


def load_models(settings: Settings) -> Maker:
    """The maker of a real worker. Raises ManifestError or CheckpointError if a model cannot be loaded."""
    from workers.model_maker import ModelMaker  # torch takes seconds to import, and not every maker needs it

    return ModelMaker.load(settings)


def run(settings: Settings, load: Callable[[Settings], Maker] = load_models) -> int:
    """Load the models and work until SIGTERM or SIGINT; return the exit status.

    On the signal the running jobs go back to the queue at once; uploads in progress may go on until the grace period
    ends. The same happens, with the status CONSUMER_FAILED, when the consumer fails: the process never outlives it.
    Raises what `load` raises.
    """
    configure_logging(settings)
    on_hangup(lambda: None)  # the folders of models are about to be read
    claim_gpu(settings)
    sys.setswitchinterval(SWITCH_INTERVAL)
    metrics, tracing = WorkerMetrics(), open_tracing(settings.otlp_endpoint, "duet-worker")
    exporter = Exporter(settings, metrics.registry)
    name = worker_name()
    ageing = settings.ageing.total_seconds()
    client = connect(settings)
    store = JobStore(client, settings.lease, ageing)
    storage = GuardedStorage(open_storage(settings), Breaker(changed=metrics.storage_breaker.set))
    maker = load(settings)
    for collector in maker.collectors:
        metrics.registry.register(collector)
    failed = metrics.background_failed
    leases = Leases(store, settings.step_deadline, settings.job_deadline, exit_hung, metrics.lease_lost, failed)
    spool = Spool(settings.spool, store, storage, leases, failed)
    previews = Previews(client)
    queue = JobQueue(settings)
    reaper = Reaper(store, queue, ageing, metrics.abandoned, failed)
    follower = ModelFollower(ModelGeneration(client), maker, metrics.reloaded, failed)
    runner = Runner(
        name,
        store,
        previews,
        storage,
        maker,
        leases,
        spool,
        settings.temporary,
        settings.slots,
        metrics,
        tracing,
        model_patience=settings.model_patience,
        wake=partial(reaper.send, waited=True),
        follow=follower.look,
    )
    parts = (leases, spool, reaper, follower, Heartbeat(name, store, runner.disk.has_room, failed), exporter)
    shutdown = Shutdown(runner, store, name, settings.grace.total_seconds())
    celery = create_celery(settings, runner, queue, on_close=shutdown.begin)

    # The objects that exist by now stay. If the garbage collector kept scanning them, hundreds of thousands of objects
    # would put off the next full collection for hours.
    gc.collect()
    gc.freeze()

    def ready(**_: object) -> None:
        for part in parts:
            part.start()
        log.info("waiting for jobs", worker=name, slots=runner.slots)

    def asked_to_stop(**_: object) -> None:
        shutdown.status = 0
        log.info("stopping: running jobs go back to the queue")
        shutdown.begin()

    def keep_logging(**_: object) -> None:
        """Celery configures logging unless this signal has a receiver; ours is configured already."""

    # Celery warns root against unpickling untrusted data; nothing here is ever unpickled.
    warnings.simplefilter("ignore", SecurityWarning)
    signals.setup_logging.connect(keep_logging)
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(asked_to_stop)
    worker = celery.Worker(hostname=name, quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True)
    install_others = worker.install_platform_tweaks

    def install_signal_handlers(worker: object) -> None:
        install_others(worker)
        on_hangup(follower.reload)  # in place of Celery's, which starts the program again

    worker.install_platform_tweaks = install_signal_handlers
    worker.start()
    shutdown.begin()
    for part in reversed(parts):
        part.stop()
    maker.close()
    queue.close()
    tracing.close()
    return shutdown.status


def worker_name() -> str:
    """A name unique to this process, also among processes with the same id in containers of the same name."""
    return f"{process_name(os.getpid())}{secrets.token_hex(4)}"


def process_name(pid: int) -> str:
    """The beginning of the names of workers that run on this machine with this process id."""
    return f"{socket.gethostname()}-{pid}-"


def create_celery(settings: Settings, runner: Runner, queue: JobQueue, on_close: Callable[[], None]) -> Celery:
    """Celery's consuming side, with a pool of threads that share the models and the device. `on_close` is called when
    the consumer begins to close, for whatever reason."""
    transport.install()
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(
        celery_config(settings),
        worker_pool="threads",
        worker_concurrency=runner.slots,
        worker_redirect_stdouts=False,
    )
    tasks.register(celery, runner, queue)
    transport.add_steps(celery, on_close)
    return celery


class Heartbeat:
    """Announces this worker in Redis from `start()` to `stop()`, while it is `ready`. After a sudden death the
    announcement expires."""

    INTERVAL = 5.0
    """Seconds between two announcements; each is valid for three times as long."""

    def __init__(
        self,
        name: str,
        store: JobStore,
        ready: Callable[[], bool] = lambda: True,
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._name = name
        self._store = store
        self._ready = ready
        self._thread = Periodic(
            "heartbeat",
            self._announce,
            self.INTERVAL,
            retry=0.5,
            longest=self.INTERVAL,
            at_once=True,
            expected=(StoreUnavailable,),
            failed=failed,
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Withdraw the announcement. May be called again, and before `start()`."""
        self._thread.stop()
        try:
            self._store.forget_worker(self._name)
        except StoreUnavailable as error:
            log.warning("could not withdraw the heartbeat", error=str(error))

    def _announce(self) -> None:
        if self._ready():
            self._store.announce_worker(self._name, 3 * self.INTERVAL)
        else:
            self._store.forget_worker(self._name)


class Shutdown:
    """The end of a worker: jobs are handed back, and the process exits with `status` when `grace` seconds are over,
    even in the middle of a step. `begin` may be called again."""

    def __init__(self, runner: Runner, store: JobStore, name: str, grace: float) -> None:
        self.status = CONSUMER_FAILED
        self._runner = runner
        self._store = store
        self._name = name
        self._grace = grace
        self._begun = False

    def begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self.status:
            log.error("the consumer failed: this worker ends")
        self._runner.stop()
        deadline = threading.Timer(self._grace, self._exit)
        deadline.daemon = True
        deadline.start()

    def _exit(self) -> None:
        """Celery's own soft shutdown cannot stop a thread."""
        try:
            self._runner.hand_back_all()
            self._store.forget_worker(self._name)
        except StoreUnavailable as error:
            log.warning("Redis is unavailable: the leases will expire", error=str(error))
        finally:
            log.warning("the grace period is over: this worker ends")
            os._exit(self.status)
