"""The scenes of the container test, one function each, in the order in which they run.

Each starts from the state in which the one before left the stack, and returns a line for the table.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import av

from duet.client import Duet, Job, ServerUnreachable
from service.first_start import SECRETS
from tests.clips import a_sound, a_video
from tests.compose.stack import SERVICES, Failed, Stack, docker

LONG = 600
"""Steps of a job that is interrupted."""

PATIENCE = 300.0
"""Seconds for one job, on a shared machine."""

OBJECTS = """
import hashlib, json, sys
from service.settings import load_settings
from service.storage import open_storage
storage = open_storage(load_settings())
keys = storage.list(f"jobs/{sys.argv[1]}/")
print(json.dumps({key: hashlib.sha256(b"".join(storage.read(key))).hexdigest() for key in keys}))
"""

OUTAGE = re.compile(r"consumer: Cannot connect to redis://")
"""Celery logs its retries as errors; Redis is down in two of the scenes."""

CLAIM = """
import time
from service.log import configure_logging
from service.settings import load_settings
from workers.gpu_claim import Gpu, claim_gpu
settings = load_settings()
configure_logging(settings)
print(claim_gpu(settings, lambda: [Gpu("GPU-0", "simulated"), Gpu("GPU-1", "simulated")]).gpu.uuid, flush=True)
time.sleep(600)
"""

CRASH = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    words = entry.read_bytes().split(b"\\0")
    if any(word.endswith(b"/duet") for word in words) and b"worker" in words and entry.parent.name != "1":
        os.kill(int(entry.parent.name), signal.SIGKILL)
"""
"""Like an out-of-memory kill. After `docker kill` from outside, Docker would not restart the container."""


def builds(stack: Stack) -> str:
    stand_in = stack.build()
    sizes = {
        name: int(docker("image", "inspect", "-f", "{{.Size}}", f"duet-{name}:test")) for name in ("api", "worker")
    }
    listed = ", ".join(f"{name} {size / 1e9:.2f} GB with its base" for name, size in sizes.items())
    return listed + (f"; {stand_in} could not be pulled, a stand-in replaces it" if stand_in else "")


def comes_up(stack: Stack) -> str:
    started = time.monotonic()
    stack.compose("up", "-d")
    stack.healthy()
    return f"all {len(SERVICES)} services healthy after {_since(started)}, the bucket created"


def is_confined(stack: Stack) -> str:
    """No root, no capabilities, no writes outside volumes, and one port, on the loopback address of the host."""
    published = []
    for service in SERVICES:
        container = stack.container(service)
        user = docker("exec", container, "id", "-u").strip()
        host = stack.inspect(container)["HostConfig"]
        limits = (host["ReadonlyRootfs"], host["CapDrop"], host["Memory"] > 0, host["LogConfig"]["Config"]["max-file"])
        if user == "0" or limits != (True, ["ALL"], True, "5") or "no-new-privileges:true" not in host["SecurityOpt"]:
            raise Failed(f"{service} is not confined: user {user}, {limits}, {host['SecurityOpt']}")
        published += [place["HostIp"] for places in (host["PortBindings"] or {}).values() for place in places]
    if published != ["127.0.0.1"]:
        raise Failed(f"published: {published}")
    return "no root, no capabilities, read-only roots; one port, on 127.0.0.1"


def keeps_its_secrets(stack: Stack) -> str:
    """The secrets drawn at the first start: read-only in one volume, and nowhere else that Docker shows."""
    reader = stack.container("webhooks")
    drawn = {name: docker("exec", reader, "cat", f"/secrets/{name}") for name in SECRETS}
    if weak := [name for name, secret in drawn.items() if len(secret) < 40]:
        raise Failed(f"not drawn: {weak}")
    containers = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={stack.project}").split()
    images = sorted({stack.inspect(container)["Image"] for container in containers})
    shown = {f"container {each}": docker("inspect", each) + stack.logs(each) for each in containers}
    shown |= {f"image {each}": docker("inspect", each) + docker("history", "--no-trunc", each) for each in images}
    if leaks := [place for place, text in shown.items() if any(secret in text for secret in drawn.values())]:
        raise Failed(f"a secret is visible in {leaks}")
    _refused("exec", reader, "touch", "/secrets/new")
    said = _refused("exec", "-e", "DUET_S3_SECRET_KEY=wrong", reader, "python", "-c", OBJECTS, "none")
    if "SignatureDoesNotMatch" not in said:
        raise Failed(f"with another secret the store answered: {said}")
    stack.compose("up", "--no-deps", "secrets")
    if drawn != {name: docker("exec", reader, "cat", f"/secrets/{name}") for name in SECRETS}:
        raise Failed("a second start drew other secrets")
    return (
        f"in no log, layer or environment of {len(containers)} containers and {len(images)} images; read-only; "
        "the store refuses any other; unchanged by a second start"
    )


def shares_out_the_gpus(stack: Stack) -> str:
    """Containers lock files in the stack's own volume, as its user. Only the list of two GPUs replaces NVML's."""
    place = ("-v", f"{stack.project}_gpus:/gpus", "-e", "DUET_GPU_LOCKS=/gpus")
    line = ("run", "-d", "--read-only", "--cap-drop", "ALL", *place, "duet-worker:test", "python", "-c", CLAIM)
    started: list[str] = []

    def start() -> str:
        started.append(docker(*line).strip())
        return started[-1]

    def has(container: str) -> str:
        return "".join(re.findall(r"^GPU-\d$", stack.logs(container), re.MULTILINE))

    try:
        first, second = start(), start()
        _until(lambda: bool(has(first) and has(second)), "two containers have GPUs", 60)
        third = start()
        _until(lambda: "all GPUs are taken" in stack.logs(third), "the third says that it waits", 60)
        docker("kill", first)
        _until(lambda: has(third) == has(first), "the third has the GPU of the first", 30)
        if has(first) == has(second):
            raise Failed(f"both have {has(first)}")
    finally:
        docker("rm", "-f", *started)
    return "two simulated GPUs: two containers claim one each; a third waits, and takes over when the first is killed"


def does_the_three_jobs(stack: Stack) -> str:
    video, sound = _clips()
    seconds = {}
    with stack.client() as duet, tempfile.TemporaryDirectory() as folder:
        for kind, submit in {
            "generate": lambda: duet.generate(seed=7),
            "v2a": lambda: duet.v2a(video, seed=7, duration=1.6),
            "a2v": lambda: duet.a2v(sound, seed=7, duration=1.6),
        }.items():
            started = time.monotonic()
            job = submit().wait(timeout=PATIENCE)
            seconds[kind] = time.monotonic() - started
            _check_clip(job.save(Path(folder) / f"{kind}.mp4"))
            _check_objects(stack, job, Path(folder) / f"{kind}.mp4")
    took = ", ".join(f"{kind} {value:.1f} s" for kind, value in seconds.items())
    return f"{took}; the files in the store equal those from the API"


def survives_a_crash_of_the_worker(stack: Stack) -> str:
    container = stack.container("worker")
    with stack.client() as duet:
        job = _running(_long(duet, 11))
        stack.python(container, CRASH)
        crashed = time.monotonic()
        job.wait(timeout=PATIENCE)
    restarts = stack.inspect(container)["RestartCount"]
    if job.attempt < 2 or restarts < 1:
        raise Failed(f"attempt {job.attempt}, {restarts} restarts of the container")
    stack.healthy()
    return f"killed during a step; Docker restarts it, job done in attempt {job.attempt}, {_since(crashed)} later"


def survives_a_restart_of_redis(stack: Stack) -> str:
    with stack.client() as duet:
        before = {job.id for job in duet.jobs(limit=50)}
        job = _running(_long(duet, 12))
        restarted = time.monotonic()
        stack.compose("restart", "redis")
        job.wait(timeout=PATIENCE)
        if missing := before - {job.id for job in duet.jobs(limit=50)}:
            raise Failed(f"Redis lost {missing}")
    stack.healthy()
    return f"{len(before)} jobs kept; the running one done in attempt {job.attempt}, {_since(restarted)} later"


def scales_to_two_workers(stack: Stack) -> str:
    stack.compose("up", "-d", "--no-recreate", "--scale", "worker=2")
    stack.healthy()
    with stack.client() as duet:
        jobs = [_long(duet, seed) for seed in (20, 21)]
        holders = _holders(stack, jobs)
        victim = _running(jobs[0])
        docker("kill", holders[victim.id])
        killed = time.monotonic()
        for job in jobs:
            job.wait(timeout=PATIENCE)
        if victim.attempt < 2:
            raise Failed(f"{victim.id} was done in attempt {victim.attempt}, though its worker was killed")
    stack.keep_logs()
    stack.compose("up", "-d", "--scale", "worker=1")
    stack.healthy()
    return f"both took jobs; one killed while it ran a job, all done {_since(killed)} later"


def hands_back_when_stopped(stack: Stack) -> str:
    with stack.client() as duet:
        job = _running(_long(duet, 13))
        started = time.monotonic()
        stack.compose("stop", "worker")
        took = time.monotonic() - started
        code = stack.state(stack.container("worker"))["ExitCode"]
        waiting = job.refresh().status
        if code or waiting != "queued":
            raise Failed(f"the worker exited with {code}, its job is {waiting}")
        stack.compose("start", "worker")
        job.wait(timeout=PATIENCE)
    stack.healthy()
    return f"exit status 0 after {took:.1f} s; its job was queued again, and done in attempt {job.attempt}"


def starts_in_any_order(stack: Stack) -> str:
    """Everything that depends on Redis and the store starts before them."""
    stack.keep_logs()
    stack.down()
    stack.compose("up", "--no-deps", "secrets")
    stack.compose("up", "-d", "--no-deps", "worker", "api", "webhooks")
    _until(lambda: _answers(f"{stack.url}/healthz"), "the API answers", 60)
    time.sleep(10)
    started = time.monotonic()
    stack.compose("up", "-d", "--no-deps", "redis", "objects")
    stack.compose("up", "-d", "--no-deps", "bucket")
    stack.healthy()
    restarts = sum(stack.inspect(stack.container(service))["RestartCount"] for service in SERVICES)
    with stack.client() as duet:
        duet.generate(seed=14).wait(timeout=PATIENCE)
    return f"worker, API, webhooks first; all healthy {_since(started)} after Redis, {restarts} restarts, a job done"


def refuses_what_is_not_safe(stack: Stack) -> str:
    run = ("run", "--rm", "--no-deps")
    said = stack.refused(*run, "api", environment={"DUET_PUBLISHED_ON": "0.0.0.0"})
    if "DUET_API_KEYS is not set" not in said:
        raise Failed(f"published without keys, the API printed: {said}")
    said = stack.refused(*run, "worker", environment={"DUET_LEASE": "soon"})
    if "DUET_LEASE is 'soon'" not in said:
        raise Failed(f"with an invalid setting, the worker printed: {said}")
    return "without keys only loopback can be published; an invalid value stops the process, which names it"


def has_said_no_error(stack: Stack) -> str:
    stack.keep_logs()
    counts: dict[str, int] = {}
    bad = []
    for service, line in stack.lines():
        level = _level(line)
        counts[level] = counts.get(level, 0) + 1
        if level in ("error", "critical"):
            bad.append(f"{service}: {line}")
    if bad:
        raise Failed(f"{len(bad)} errors in the logs, such as\n" + "\n".join(bad[:10]))
    outage = counts.pop("outage", 0)
    said = ", ".join(f"{count} {level}" for level, count in sorted(counts.items()))
    return f"no errors ({said}), except {outage} of Celery's, which cannot connect while Redis restarts"


def leaves_nothing(stack: Stack) -> str:
    stack.down()
    return "no container, network or volume left"


SCENES: dict[str, Callable[[Stack], str]] = {
    "`build`": builds,
    "`up`": comes_up,
    "containers are confined": is_confined,
    "secrets": keeps_its_secrets,
    "GPUs are shared out": shares_out_the_gpus,
    "generate, v2a, a2v with real clips": does_the_three_jobs,
    "worker crashes during a job": survives_a_crash_of_the_worker,
    "Redis restarts during a job": survives_a_restart_of_redis,
    "two workers, one killed by `docker kill`": scales_to_two_workers,
    "worker is stopped during a job": hands_back_when_stopped,
    "any start order": starts_in_any_order,
    "unsafe configuration": refuses_what_is_not_safe,
    "logs": has_said_no_error,
    "`down -v`": leaves_nothing,
}


def _refused(*arguments: str) -> str:
    """The message with which `docker …` failed. Raises Failed if it did not."""
    try:
        docker(*arguments)
    except Failed as error:
        return str(error)
    raise Failed(f"docker {' '.join(arguments)} should have failed")


def _clips() -> tuple[Path, Path]:
    """A video and an audio file: from DUET_CLIPS_DIR, or generated."""
    folder = Path(tempfile.mkdtemp(prefix="duet-clips-"))
    return a_video(folder), a_sound(folder)


def _check_clip(path: Path) -> None:
    """Raise Failed unless the file has video and audio."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    if frames < 2 or samples < 1000:
        raise Failed(f"{path.name} has {frames} frames and {samples} samples")


def _check_objects(stack: Stack, job: Job, file: Path) -> None:
    """Raise Failed unless the store holds the same bytes, read through S3 from a container."""
    objects: dict[str, str] = json.loads(stack.python(stack.container("webhooks"), OBJECTS, job.id))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest not in objects.values():
        raise Failed(f"{file.name} is not among the objects {sorted(objects)}")


def _long(duet: Duet, seed: int) -> Job:
    """A job that runs long enough to be interrupted."""
    return duet.generate(seed=seed, steps=LONG, super_resolution=False)


def _running(job: Job) -> Job:
    """Return when the job has done a few of its steps."""

    def begun() -> bool:
        job.refresh()
        return job.status == "in_progress" and (job.step or 0) >= 3

    _until(begun, f"{job.id} runs", PATIENCE)
    return job


def _holders(stack: Stack, jobs: list[Job]) -> dict[str, str]:
    """Job id → container, once every worker has a job."""
    containers = stack.containers("worker")
    holders: dict[str, str] = {}

    def shared() -> bool:
        for container in containers:
            said = stack.logs(container)
            holders.update({job.id: container for job in jobs if job.id in said})
        return set(holders.values()) == set(containers)

    _until(shared, "both workers have jobs", PATIENCE)
    return holders


def _level(line: str) -> str:
    """Level of a log line. Duet's own are JSON; other lines, such as Celery's at its end, are searched for errors."""
    try:
        said = json.loads(line)
        return "outage" if OUTAGE.match(said["event"]) else str(said["level"])
    except (ValueError, KeyError, TypeError):
        trouble = re.search(r"Traceback|Error\b|HTTP/1\.1\" 5\d\d|\bFATAL\b|Can't|Failed", line)
        return "error" if trouble else "other"


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def _until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except ServerUnreachable:
            pass  # the API may still be starting
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.0f} s"
