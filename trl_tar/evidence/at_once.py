"""Trainings that run at the same time, each in a process of its own."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from ..pipeline.console import without_a_terminal


Name = TypeVar("Name")


def run_at_once(function: Callable[..., None], jobs: Mapping[Name, tuple[Any, ...]], workers: int) -> Iterator[Name]:
    """Calls the function with the arguments of each job, in as many processes as there are workers; yields the name of each job
    that is done. With one worker it is called in this process. An error of one job is raised when those that have begun end, and
    no other is begun."""
    if workers == 1:
        for name, arguments in jobs.items():
            function(*arguments)
            yield name
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=without_a_terminal)
    try:
        futures = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)
