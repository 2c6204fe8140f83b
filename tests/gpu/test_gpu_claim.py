"""Workers claim GPUs of the real driver, and CUDA then shows each of them its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.waiting import until
from workers.gpu_claim import nvml_gpus

WORKER = """
import sys, time
from service.log import configure_logging
from service.settings import load_settings
from workers.gpu_claim import claim_gpu
settings = load_settings()
configure_logging(settings)
claim = claim_gpu(settings)
import torch
device = torch.cuda.get_device_properties(0)
print(claim.gpu.uuid, torch.cuda.device_count(), device.uuid, float(torch.ones(3, device="cuda").sum()), flush=True)
sys.stdin.read()
"""


def test_nvml_lists_the_gpus_that_cuda_has() -> None:
    gpus = nvml_gpus()
    assert len({gpu.uuid for gpu in gpus}) == len(gpus) >= torch.cuda.device_count()
    device = torch.cuda.get_device_properties(0)
    assert [gpu.name for gpu in gpus if gpu.uuid.endswith(str(device.uuid))] == [device.name]


def test_a_worker_has_the_gpu_that_it_claimed_and_the_next_one_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER]
    count = len(nvml_gpus())
    environment = {**os.environ, "DUET_GPU_LOCKS": str(tmp_path / "locks")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    workers = []
    try:
        for number in range(count + 1):
            with (tmp_path / f"{number}.out").open("wb") as out, (tmp_path / f"{number}.err").open("wb") as err:
                workers.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=err)
                )
            if number < count:
                claimed, seen, uuid, total = until(
                    lambda number=number: (tmp_path / f"{number}.out").read_text(), "the worker has a GPU", 40
                ).split()
                assert (seen, total) == ("1", "3.0")
                assert claimed.endswith(uuid)
        last = tmp_path / f"{count}.err"
        until(lambda: "all GPUs are taken" in last.read_text(), "the last worker says that it waits")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
