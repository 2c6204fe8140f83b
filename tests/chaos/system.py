"""The system under test: `duet serve` in a terminal with two workers of three slots and two API processes, an S3 server
behind a proxy, a receiver of webhooks, and where the tests may mount them two small disks: one for the data folder, one
for Redis' folder in it.
"""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

from service.jobs.connection import StoreUnavailable, connect
from service.jobs.queue import JobQueue
from service.jobs.store import JobStore
from service.settings import Settings
from tests.chaos.proxy import Proxy
from tests.chaos.worker import LEDGER, WITHOUT_MODEL
from tests.processes import children
from tests.service.webhooks.receiver import Receiver
from tests.small_disk import NotMounted, small_disk
from tests.tiny_model import add_tiny_model
from tests.waiting import until
from workers.app import process_name

BUCKET = ACCESS = "chaos"

WORKERS = 2
DISK_BYTES = 96 * 2**20
REDIS_DISK_BYTES = 256 * 2**20

PROCESSES = {"API": "duet api", "worker": "tests.chaos.worker", "Redis": "redis-server", "webhooks": "duet webhooks"}
"""Part of the command line by the name of the process."""


class System:
    """Starts with the context. `disks`: why there are no small disks, "" if there are."""

    def __init__(self, folder: Path, lease: float, step_seconds: float) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.redis_folder = self.data / "redis"
        self.log = folder / "stack.log"
        self.without_model = folder / "without-model"
        self.ledger = Ledger(folder / "ledger")
        self.disks = ""
        self._lease = lease
        self._step_seconds = step_seconds
        self._terminal_gone = threading.Event()
        self._exit = ExitStack()

    def __enter__(self) -> System:
        """Raises AssertionError if the stack does not start."""
        with ExitStack() as stack:
            self._open_storage(stack)
            self.receiver = stack.enter_context(Receiver())
            try:
                stack.enter_context(small_disk(self.data, DISK_BYTES))
                stack.enter_context(small_disk(self.redis_folder, REDIS_DISK_BYTES))
            except NotMounted as error:
                self.disks = str(error)
            self._start(stack)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    @property
    def pid(self) -> int:
        """Of `duet serve`, the supervisor."""
        return self._process.pid

    @property
    def redis_socket(self) -> str:
        return str(self.redis_folder / "redis.sock")

    def processes(self, name: str) -> list[int]:
        """Process ids of the children of `duet serve` by a name in PROCESSES."""
        return sorted(pid for pid, command in children(self.pid) if PROCESSES[name] in command)

    def workers(self) -> list[int]:
        """Processes of the workers that have announced themselves; none while Redis is away."""
        with suppress(StoreUnavailable):
            names = self.store.workers()
            return [pid for pid in self.processes("worker") if any(n.startswith(process_name(pid)) for n in names)]
        return []

    def answers(self, path: str) -> bool:
        """Whether the API answers with a 2xx within 5 s, on a connection of its own."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def answering_process(self) -> int | None:
        """The API process that answers a request now; None if none does within 5 s."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if client.recv(65536).startswith(b"HTTP/1.1 200"):
                inode = _inode(self.port, client.getsockname()[1])
                return next((pid for pid in self.processes("API") if _holds(pid, inode)), None)
        return None

    def take_terminal_away(self) -> None:
        """From now on every write of `duet serve` to its output fails with EIO."""
        self._terminal_gone.set()
        self._reader.join()

    def _open_storage(self, stack: ExitStack) -> None:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        s3.start()
        stack.callback(s3.stop)
        host, port = s3.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        self.bucket: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=ACCESS,
        )
        self.bucket.create_bucket(Bucket=BUCKET)
        self.proxy = Proxy((host, port))
        stack.callback(self.proxy.close)

    def _start(self, stack: ExitStack) -> None:
        models = self.folder / "models"
        add_tiny_model(models)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")} | {
            "DUET_DATA": str(self.data),
            "DUET_PORT": "0",
            "DUET_MODELS": str(models),
            "DUET_DEFAULT_MODEL": "tiny",
            "DUET_STORAGE": f"s3://{BUCKET}/duet",
            "DUET_S3_ENDPOINT": f"http://127.0.0.1:{self.proxy.port}",
            "DUET_S3_ACCESS_KEY": ACCESS,
            "DUET_S3_SECRET_KEY": ACCESS,
            "DUET_WORKERS": str(WORKERS),
            "DUET_SLOTS": "3",
            "DUET_LEASE": str(self._lease),
            "DUET_DISK_RESERVE_MIB": "8",
            "DUET_WEBHOOK_ALLOW_PRIVATE": "true",
            "DUET_MAX_REQUESTS_PER_MINUTE": "100000",
            "DUET_MAX_UPLOADS_PER_KEY": "1000",
            "DUET_MAX_QUEUED_PER_KEY": "10000",
            "DUET_MAX_QUEUED": "10000",
            "DUET_CHAOS_STEP": str(self._step_seconds),
            LEDGER: str(self.ledger.path),
            WITHOUT_MODEL: str(self.without_model),
        }
        ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.stack"],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        stack.callback(self._stop)
        self._reader = threading.Thread(target=self._read_terminal, args=[ours], daemon=True)
        self._reader.start()
        self.url = until(self._address, "the stack is ready", 60)
        self.port = int(self.url.rpartition(":")[2])
        self.client = stack.enter_context(httpx.Client(base_url=self.url, timeout=20, trust_env=False))
        settings = Settings(redis_url=f"unix://{self.redis_socket}", data=self.data)
        self.store = JobStore(connect(settings), self._lease)
        self.queue = JobQueue(settings)
        stack.callback(self.queue.close)

    def _address(self) -> str | None:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert self._process.poll() is None, text
        ready = [line for line in text.splitlines() if "Ready after" in line]
        return ready[0].split()[-1] if ready else None

    def _read_terminal(self, terminal: int) -> None:
        """Write what appears on the terminal to the log. A read in progress would keep the terminal open: so it waits
        for input first."""
        with self.log.open("wb", buffering=0) as log:
            while not self._terminal_gone.is_set():
                if select.select([terminal], [], [], 0.1)[0]:
                    try:
                        log.write(os.read(terminal, 65536))
                    except OSError:  # the stack has ended
                        break
        os.close(terminal)

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


class Ledger:
    """The runs of jobs that the workers have noted in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        self._read = 0
        self._lock = threading.Lock()

    def entries(self) -> list[dict[str, Any]]:
        """`what` (begin, made), `job`, `attempt`, `alone`, the process id `pid`, and the time `at` of each."""
        with self._lock, suppress(FileNotFoundError), self.path.open() as file:
            file.seek(self._read)
            while (line := file.readline()).endswith("\n"):
                self._read = file.tell()
                self._entries.append(json.loads(line))
        return list(self._entries)


def _inode(server_port: int, client_port: int) -> str:
    """Of the server's end of a TCP connection on 127.0.0.1 that is open."""
    ends = [f"0100007F:{port:04X}" for port in (server_port, client_port)]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(fields[9] for fields in lines if fields[1:3] == ends)


def _holds(pid: int, inode: str) -> bool:
    """Whether the process has the socket open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(descriptor) == f"socket:[{inode}]":
                return True
    return False
