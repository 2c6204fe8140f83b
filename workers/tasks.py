"""The Celery task: a wake-up with a job's id. What is to be done stands in the record."""

from __future__ import annotations

from celery import Celery
from celery.exceptions import Reject

from service.jobs.queue import RUN_JOB, JobQueue
from service.jobs.store import StoreUnavailable
from workers.runner import BackInQueue, Runner


def register(celery: Celery, runner: Runner, queue: JobQueue) -> None:
    """Give `celery` the task that runs a job with `runner`; `queue` is told that its message is taken."""

    @celery.task(name=RUN_JOB)
    def run_job(job_id: str) -> None:
        queue.taken(job_id)
        try:
            runner.run(job_id)
        except (BackInQueue, StoreUnavailable) as error:
            # The record could not be brought to an end: the message goes back, for whoever takes it next.
            raise Reject(str(error), requeue=True) from error
