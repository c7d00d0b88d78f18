"""Running jobs that are not finished, one after the other or in worker processes."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from supcam.errors import SupcamError, UsageError
from supcam.experiments.jobs import Job, JobContext, run_job, track_kept
from supcam.progress import Progress
from supcam.workers import ended_on_error, worker_pool


@dataclass
class JobCounts:
    """How the jobs went: finished before, run now, and failed with the reason."""

    kept: int = 0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], context: JobContext, workers: int = 1, progress: Progress | None = None) -> JobCounts:
    """Run the jobs that are not finished, in ``workers`` processes; equal jobs run once.

    A job that fails is reported and the others go on.

    Raises:
        UsageError: for settings or crops that the first such job cannot be trained on.
        SupcamError: when a worker process was killed.
    """
    counts = JobCounts()
    unfinished: dict[str, Job] = {}
    for job in jobs:
        if context.result(job) is None:
            unfinished.setdefault(context.key(job), job)
        else:
            counts.kept += 1
            track_kept(job, context)
    progress = progress or (lambda done, total: None)
    progress(counts.kept, len(jobs))
    for job, error in _outcomes(list(unfinished.values()), context, workers):
        if error is None:
            counts.ran += 1
        else:
            counts.failed[job.name] = error
        progress(counts.kept + counts.ran + len(counts.failed), len(jobs))
    return counts


def _outcomes(jobs: Sequence[Job], context: JobContext, workers: int) -> Iterator[tuple[Job, str | None]]:
    """Each job as it ends, with the error of a failed one."""
    if workers == 1:
        for job in jobs:
            yield job, _attempt(job, context)
        return
    pool = worker_pool(min(workers, max(len(jobs), 1)), _start_worker, context)
    try:
        # Not waited for after an error: each job goes on from its last epoch when the table is run again.
        with ended_on_error():
            waiting = {pool.submit(_attempt_in_worker, job): job for job in jobs}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
    except BrokenProcessPool:
        raise SupcamError(
            f"one of {workers} workers was ended from outside, most likely for want of memory. Take fewer workers "
            "and run it again: finished jobs are kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_shared: JobContext  # in a worker process: the context, sent once and not with every job


def _start_worker(context: JobContext) -> None:
    """Take what all jobs share."""
    global _shared
    _shared = context


def _attempt_in_worker(job: Job) -> str | None:
    try:
        return _attempt(job)
    except (KeyboardInterrupt, SystemExit):
        os._exit(128 + signal.SIGTERM)  # the pool would hand this process the next job


def _attempt(job: Job, context: JobContext | None = None) -> str | None:
    """Run a job; the error as text where it failed by itself and not by a mistake that all jobs share."""
    try:
        run_job(job, context or _shared)
    except UsageError as error:
        raise UsageError(str(error)) from None  # an error that travels between processes is made of its text alone
    except SupcamError as error:
        return str(error)
    return None
