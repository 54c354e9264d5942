"""Jobs on several devices, one process each."""

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from ..distributed.processes import forget_launch, num_ranks, worker_devices
from ..interrupted import end_without_a_word
from .job import Job, Settings, failed_record, run_job


def run_missing(
    missing: Mapping[str, Job], settings: Settings, num_workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs jobs, in this process or in `num_workers` others, and yields name and result of each as it ends."""
    num_workers = min(num_workers, len(missing))
    if num_workers == 0:
        return
    # a trainer would spread over all processes that were launched, or all GPUs that it sees
    if num_workers == 1 and num_ranks() == 1 and torch.cuda.device_count() < 2:
        for name, job in missing.items():
            yield name, run_job(job, settings)
        return
    left = dict(missing)
    while left:  # a pool ends with the first of its workers that dies; another does the rest
        for name, result in _run_in_pool(dict(left), settings, num_workers):
            job = left.pop(name)
            yield name, _run_alone(job, settings) if result is None else result


def _run_alone(job: Job, settings: Settings) -> dict[str, Any]:
    """Runs a job again that was running when a worker died, perhaps its own, and returns the result."""
    ((_, result),) = _run_in_pool({"": job}, settings, 1)
    if result is None and job.adversary is None:
        raise ChildProcessError(
            f"The worker that measured {job.model!r} died, most likely for lack of memory. Start again with the same "
            "output_dir where there is more: finished jobs are kept."
        )
    return result or failed_record(job, "RuntimeError: its worker died, most likely for lack of memory")


def _run_in_pool(
    jobs: Mapping[str, Job], settings: Settings, num_workers: int
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yields results as they come, until a worker dies: then `None` for each job that was running, and nothing for the rest.

    An error of a job is raised once the other workers are done."""
    context = get_context("spawn")
    gpus = context.SimpleQueue()
    for gpu in worker_devices(num_workers):
        gpus.put(gpu)
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(settings, gpus, num_ranks() > 1)
    )
    raised = None
    died: list[str] = []
    running: dict[Future, str] = {}
    waiting = iter(jobs.items())
    try:
        while True:
            with suppress(BrokenProcessPool):  # a worker died while nothing ran, or while jobs were handed out
                for name, job in itertools.islice(waiting, num_workers - len(running)):  # all handed out are running
                    running[pool.submit(_run_in_worker, job)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, error = running.pop(future), future.exception()
                if error is None:
                    yield name, future.result()
                    continue
                waiting = iter(())  # those that run go on
                if isinstance(error, BrokenProcessPool):
                    died.append(name)
                else:
                    raised = raised or error
    finally:
        pool.shutdown(cancel_futures=True)
    if raised is not None:
        raise raised
    yield from ((name, None) for name in died)


_worker_settings: Settings | None = None  # set once in each worker process, so that metrics keep their caches


def _start_worker(settings: Settings, gpus: Any, launched: bool) -> None:
    global _worker_settings
    end_without_a_word()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if launched:
        forget_launch()
    if not gpus.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # before this process has used a GPU
    torch.set_num_threads(1)
    _worker_settings = settings


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed: it would wait for another job for ever, and keep its memory."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(job: Job) -> dict[str, Any]:
    assert _worker_settings is not None
    return run_job(job, _worker_settings)
