"""Metrics of a worker and of the webhook sender: with real jobs, real failures and a real port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.checkpoint.manifest import find_models
from model.runtime.pipeline import Pipeline
from model.sampling.samplers import EvaluateFrames
from service.jobs.reaper import Reaper
from service.jobs.record import Status
from service.storage import FolderStorage, StorageUnavailable
from service.webhooks.metrics import WebhookMetrics
from service.webhooks.sender import Answer
from tests.exposition import scraped, series
from tests.waiting import until
from tests.workers.conftest import TINY, Stack
from tests.workers.fake import Failing, FakeWorker, parts
from workers.metrics import WorkerMetrics
from workers.model_maker import ModelMaker
from workers.runner import BackInQueue, CannotBeMade, Runner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def maker(models: Path) -> Iterator[ModelMaker]:
    maker = ModelMaker({"tiny": Pipeline.load(find_models(models)["tiny"], device="cpu")})
    yield maker
    maker.stop()
    maker.close()


def shown(runner: Runner) -> dict[str, float]:
    return series(runner.metrics.registry.collect())


def test_a_job_is_counted_from_its_claim_to_its_clips_with_every_stage(stack: Stack, maker: ModelMaker) -> None:
    runner = parts(stack, maker, slots=3)[0]
    runner.metrics.registry.register(maker.collectors[0])
    runner.run(stack.create(steps=3, num_outputs=2, super_resolution=True, sr_steps=2).id)
    found = shown(runner)
    assert found['duet_worker_claims_total{kind="generate"}'] == 1
    assert found['duet_worker_attempts_total{kind="generate",outcome="completed"}'] == 1
    assert found['duet_worker_clips_total{kind="generate"}'] == 2
    assert found['duet_job_wait_seconds_count{priority="normal"}'] == 1
    assert (found["duet_worker_slots"], found["duet_worker_jobs_in_hand"]) == (3, 0)
    spent = 'duet_job_stage_seconds_sum{stage="%s"}'
    stages = {stage: found[spent % stage] for stage in ("base", "sr", "encode", "upload")}
    assert all(seconds > 0 for seconds in stages.values())
    assert spent % "fetch" not in found, "there was nothing to fetch"
    run = found['duet_job_run_seconds_sum{kind="generate"}']
    assert max(stages.values()) <= run < 60

    speed = stack.store.speeds.of(["tiny"])["tiny"]["generate"]
    assert speed.step == pytest.approx(stages["base"] / (3 * 2), rel=1e-3)
    assert speed.sr_step == pytest.approx(stages["sr"] / (2 * 2), rel=1e-3)
    # The time of the files is taken by a clock of its own, and a busy processor may come between the two.
    assert speed.files == pytest.approx(stages["encode"] / 2, rel=0.25)

    # Two clips side by side: each of three steps is one tick with both, and one frame budget a tick for sr.
    assert found['duet_engine_batch_size_sum{network="base"}'] == 2 * 3
    assert found['duet_engine_batch_size_sum{network="sr"}'] == 2 * 2 * TINY.frames
    ticks = found["duet_engine_ticks_total"]
    steps = [found[f'duet_engine_step_seconds_count{{network="{name}"}}'] for name in ("base", "sr", "both")]
    assert sum(steps) == ticks == found['duet_engine_step_seconds_bucket{le="+Inf",network="base"}'] + sum(steps[1:])
    seconds = sum(found[f'duet_engine_step_seconds_sum{{network="{name}"}}'] for name in ("base", "sr", "both"))
    assert seconds == pytest.approx(found["duet_engine_working_seconds_total"])


def test_a_batch_that_was_halved_is_counted(maker: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = maker.models.pipelines[0].evaluator
    forward = evaluator._frames

    def small(x: torch.Tensor, *others: object) -> object:
        if len(x) > 4:
            raise torch.OutOfMemoryError("too many frames")
        return forward(x, *others)

    monkeypatch.setattr(evaluator, "_frames", small)
    frames = torch.zeros(16, 3, 64, 64)
    evaluator([EvaluateFrames(frames, frames, 1.0)])
    found = series(maker.collectors[0].collect())
    assert found['duet_engine_out_of_memory_total{network="sr"}'] == 2, "16 → 8 → 4"
    assert found['duet_engine_out_of_memory_total{network="base"}'] == 0


def test_failures_are_counted_by_reason_and_strike(stack: Stack) -> None:
    runner = parts(stack, Failing(MemoryError("no room")))[0]
    job = stack.create()
    for _ in range(2):
        with pytest.raises(BackInQueue):
            runner.run(job.id)
    runner.run(job.id)
    assert stack.store.get(job.id).status is Status.FAILED
    found = shown(runner)
    assert found['duet_worker_failures_total{reason="out_of_memory",strike="yes"}'] == 3
    assert found['duet_worker_attempts_total{kind="generate",outcome="retried"}'] == 2
    assert found['duet_worker_attempts_total{kind="generate",outcome="failed"}'] == 1
    assert found['duet_job_wait_seconds_count{priority="normal"}'] == 1, "it waits for its first claim once"

    runner = parts(stack, Failing(CannotBeMade("undecodable_input", "no film")))[0]
    runner.run(stack.create().id)
    assert shown(runner)['duet_worker_failures_total{reason="undecodable_input",strike="no"}'] == 1


def test_a_spooled_result_does_not_count_as_a_clip(stack: Stack) -> None:
    class Full(FolderStorage):
        def put_file(self, key: str, path: Path, content_type: str) -> None:
            raise StorageUnavailable("nobody answers")

    runner = parts(stack, storage=Full(Path(stack.settings.storage_url)))[0]
    runner.run(stack.create().id)
    found = shown(runner)
    assert found['duet_worker_attempts_total{kind="generate",outcome="spooled"}'] == 1
    assert found['duet_worker_clips_total{kind="generate"}'] == 0


def test_a_lost_lease_is_counted_by_the_loser_and_the_reaper(stack: Stack) -> None:
    runner, leases, _ = parts(stack)
    leases._lost = runner.metrics.lease_lost
    stack.store.lease = 0.2
    reaper = Reaper(stack.store, stack.queue, abandoned=runner.metrics.abandoned)
    reaper._away = -1e9  # Redis has been there for long
    job = stack.create()
    claimed = stack.store.claim(job.id, "slow")
    assert claimed is not None
    with leases.hold(job.id, claimed.attempt):
        until(lambda: reaper.round() or stack.store.get(job.id).holder is None, "the reaper took it")
        leases.renew()
    found = shown(runner)
    assert found["duet_worker_leases_lost_total"] == 1
    assert found['duet_reaper_abandoned_total{status="queued"}'] == 1


def test_webhooks_are_counted_by_outcome() -> None:
    metrics = WebhookMetrics()
    metrics.sent(Answer(204), 0.1, given_up=False)
    metrics.sent(Answer(500, "the receiver answered 500"), 0.1, given_up=False)
    metrics.sent(Answer(error="no answer within 15 s"), 15.0, given_up=True)
    found = series(metrics.registry.collect())
    for outcome in ("received", "refused", "unreachable"):
        assert found[f'duet_webhooks_sent_total{{outcome="{outcome}"}}'] == 1
    assert found["duet_webhooks_given_up_total"] == 1
    assert found["duet_webhook_seconds_count"] == 3


def test_counts_of_many_threads_are_complete(stack: Stack) -> None:
    metrics, job = WorkerMetrics(), stack.create()

    def work() -> None:
        for _ in range(500):
            metrics.claimed(job)
            metrics.ended(job, "completed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = series(metrics.registry.collect())
    assert found['duet_worker_attempts_total{kind="generate",outcome="completed"}'] == 2000
    assert found["duet_worker_jobs_in_hand"] == 0


def test_a_worker_process_serves_its_metrics(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    worker = FakeWorker(stack.settings.model_copy(update={"metrics_port": port}), tmp_path)
    try:
        stack.ended(stack.submit())
        completed = 'duet_worker_attempts_total{kind="generate",outcome="completed"}'
        until(lambda: scraped(f"http://127.0.0.1:{port}/metrics")[completed] == 1, "it is counted")
        found = scraped(f"http://127.0.0.1:{port}/metrics")
        assert found["process_resident_memory_bytes"] > 0
    finally:
        assert worker.stop() == 0
