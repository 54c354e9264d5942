"""Tasks of the LM Evaluation Harness on the model at hand: WMDP, MMLU, and any other."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from datasets.exceptions import DatasetsError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..validation import check_at_least
from .scores import DescribedMetric, Scores


@dataclass(frozen=True)
class LMEvalTask(DescribedMetric):
    """A task or group of [lm-eval](https://github.com/EleutherAI/lm-evaluation-harness), one score a question.

    Args:
        task (`str`):
            Its name, such as `wmdp_bio` or `mmlu`.
        metric (`str`, *optional*, defaults to `"acc"`):
            Name of the score; each question must have one.
        limit (`int`, *optional*):
            Questions of each task at most.
        num_fewshot (`int`, *optional*):
            Examples before each question; the task's own by default.
        include_path (`str`, *optional*):
            Folder with tasks of one's own, as YAML.
        batch_size (`int`, *optional*, defaults to `16`):
            Rows in a forward pass.
    """

    yaml_key = "task"
    yaml_words = "`task` for lm-eval"

    task: str
    metric: str = "acc"
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    batch_size: int = 16

    def __post_init__(self):
        check_at_least(f"The task {self.task!r} of lm-eval", self, limit=1, num_fewshot=0, batch_size=1)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` where lm-eval is not installed, has no such task, or cannot read its data set."""
        manager = self._checked_manager()
        with self._readable(RuntimeError, KeyError):  # for a data set that is a script, or has no such split
            manager.load_task_or_group([self.task])

    def _checked_manager(self) -> Any:
        manager = _manager(self.include_path)
        if self.task not in manager.all_tasks:
            raise ValueError(f"lm-eval has no task {self.task!r}. List those it has with lm-eval ls tasks.")
        return manager

    @contextlib.contextmanager
    def _readable(self, *others: type[Exception]) -> Iterator[None]:
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress bars
                yield
        except (OSError, DatasetsError, *others) as error:
            raise ValueError(
                f"The task {self.task!r} of lm-eval cannot be loaded ({str(error).splitlines()[0]}). Its data set must be "
                "in the cache, or within reach."
            ) from error

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        lm_eval = _library()
        from lm_eval.models.huggingface import HFLM

        manager = self._checked_manager()
        with self._readable():
            found = lm_eval.simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size),
                tasks=[self.task],
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                log_samples=True,
                bootstrap_iters=0,
                task_manager=manager,
            )
        samples = [(name, sample) for name, rows in found["samples"].items() for sample in rows]
        without = next((name for name, sample in samples if self.metric not in sample), None)
        if without is not None:
            known = sorted(samples[0][1]["metrics"])
            raise ValueError(f"The task {without!r} of lm-eval has {known}, without {self.metric!r}. Name one of them.")
        groups = [f"{name}/{sample['doc_id']}" for name, sample in samples]
        return Scores([float(sample[self.metric]) for _, sample in samples], groups)


@cache
def _manager(include_path: str | None) -> Any:
    """Returns the list of tasks, which is made once in a process, since that takes seconds."""
    return _library().tasks.TaskManager(include_path=include_path)


def _library() -> Any:
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise ValueError("A metric asks for lm-eval, which is not installed. Install trl-tar[eval].") from error
    return lm_eval
