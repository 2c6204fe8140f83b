"""The Celery task. Its message carries only a job's id; the record has the rest."""

from __future__ import annotations

from celery import Celery
from celery.exceptions import Reject

from service.jobs.connection import StoreUnavailable
from service.jobs.queue import RUN_JOB, JobQueue
from workers.runner import BackInQueue, Runner


def register(celery: Celery, runner: Runner, queue: JobQueue) -> None:
    """Register the task that runs a job with `runner`. It tells `queue` first that the message was taken."""

    @celery.task(name=RUN_JOB)
    def run_job(job_id: str) -> None:
        queue.taken(job_id)
        try:
            runner.run(job_id)
        except (BackInQueue, StoreUnavailable) as error:
            # The job has not ended: the message goes back to the queue.
            raise Reject(str(error), requeue=True) from error
