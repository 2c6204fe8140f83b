"""Each worker of a host takes a GPU of its own. The locks are real, and so are the processes; only NVML's list is made
up, because no test may count on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import load_settings
from tests.waiting import until
from workers.gpu_claim import Gpu, allowed, claim_gpu, nvml_gpus

GPUS = [Gpu(f"GPU-{number}{number}", "H200") for number in range(4)]

WORKER = """
import os, sys, time
from service.log import configure_logging
from service.settings import load_settings
from workers.gpu_claim import Gpu, claim_gpu
settings = load_settings()
configure_logging(settings)
claim_gpu(settings, lambda: [Gpu(f"GPU-{number}{number}", "H200") for number in range(int(sys.argv[1]))])
print(os.environ["CUDA_VISIBLE_DEVICES"], "torch" in sys.modules, flush=True)
time.sleep(60)
"""


class Workers:
    """Processes that claim one of `gpus` and keep it until they are killed."""

    def __init__(self, folder: Path, gpus: int, **settings: str) -> None:
        self._command = [sys.executable, "-c", WORKER, str(gpus)]
        self._environment = {**os.environ, "DUET_GPU_LOCKS": str(folder / "locks"), **settings}
        self._environment.pop("CUDA_VISIBLE_DEVICES", None)
        self._logs = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        number = len(self.running)
        with (self._logs / f"{number}.out").open("wb") as out, (self._logs / f"{number}.err").open("wb") as err:
            self.running.append(subprocess.Popen(self._command, env=self._environment, stdout=out, stderr=err))
        return number

    def gpu(self, number: int) -> str:
        """The GPU that the worker sees, once it has one."""
        seen = until(lambda: (self._logs / f"{number}.out").read_text(), "the worker has a GPU").split()
        assert seen[1] == "False", "torch was loaded before"
        return seen[0]

    def said(self, number: int) -> str:
        return (self._logs / f"{number}.err").read_text()

    def kill(self, number: int) -> None:
        self.running[number].kill()
        self.running[number].wait()

    def kill_all(self) -> None:
        for number in range(len(self.running)):
            self.kill(number)


@pytest.fixture
def workers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workers]:
    started = Workers(tmp_path, *getattr(request, "param", (2,)))
    yield started
    started.kill_all()


@pytest.mark.parametrize("workers", [(4,)], indirect=True)
def test_as_many_workers_as_gpus_have_one_each(workers: Workers) -> None:
    started = [workers.start() for _ in range(4)]
    assert {workers.gpu(number) for number in started} == {gpu.uuid for gpu in GPUS}


def test_a_waiting_worker_logs_it_and_takes_over_from_a_killed_one(workers: Workers) -> None:
    first, second = workers.start(), workers.start()
    taken = {workers.gpu(first), workers.gpu(second)}
    third = workers.start()
    until(lambda: "all GPUs are taken: waiting" in workers.said(third), "it says that it waits")
    assert workers.running[third].poll() is None
    freed = workers.gpu(second)
    workers.kill(second)
    assert workers.gpu(third) == freed
    assert taken == {"GPU-00", "GPU-11"}


def test_a_gpu_is_shared_only_if_set_and_when_every_gpu_has_a_worker(tmp_path: Path) -> None:
    workers = Workers(tmp_path, 2, DUET_WORKERS_PER_GPU="2")
    try:
        seen = [workers.gpu(workers.start()) for _ in range(4)]
    finally:
        workers.kill_all()
    assert seen == ["GPU-00", "GPU-11", "GPU-00", "GPU-11"]


@pytest.mark.parametrize("settings", [{}, {"gpu_locks": "locks", "device": "cpu"}])
def test_a_worker_that_needs_no_gpu_claims_none(settings: dict[str, str], tmp_path: Path) -> None:
    if "gpu_locks" in settings:
        settings = settings | {"gpu_locks": str(tmp_path / settings["gpu_locks"])}

    def asked() -> list[Gpu]:
        raise AssertionError("the GPUs were listed")

    assert claim_gpu(load_settings(**settings), asked) is None
    assert not (tmp_path / "locks").exists()


def test_a_machine_without_a_driver_has_no_gpu() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has NVIDIA's driver")
    assert nvml_gpus() == []


def test_a_folder_that_cannot_be_written_ends_the_process_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    workers = Workers(tmp_path, 1, DUET_GPU_LOCKS=str(tmp_path / "file"))
    number = workers.start()
    assert workers.running[number].wait(30) == 1
    assert f"DUET_GPU_LOCKS is '{tmp_path / 'file'}'" in workers.said(number)


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, "0123"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "0123"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-11,GPU-33"}, "13"),
        # The host's numbers: the container's runtime has left what they mean.
        ({"NVIDIA_VISIBLE_DEVICES": "6,7"}, "0123"),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, "31"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "9,1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-11,GPU-33", "CUDA_VISIBLE_DEVICES": "1"}, "3"),
    ],
)
def test_the_usual_variables_are_honoured(environment: dict[str, str], seen: str) -> None:
    assert [gpu.uuid for gpu in allowed(GPUS, environment)] == [f"GPU-{number}{number}" for number in seen]


def test_a_device_number_and_gpu_locks_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="DUET_DEVICE is 'cuda:1', but with DUET_GPU_LOCKS"):
        load_settings(device="cuda:1", gpu_locks="locks")
