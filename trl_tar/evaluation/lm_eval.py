"""Tasks of the LM Evaluation Harness on the model at hand: WMDP, MMLU, and any other."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import file_sha256, json_sha256
from ..models.tokenizers import check_chat_template
from ..validation import check_at_least, shortened
from .prompts import IN_CHAT, IN_TEXT
from .scores import DescribedMetric, Scores


MEANS = ("mean", "nanmean")  # of lm-eval's ways to make one number of those of all questions
WORD = re.compile(r"""[^\s'",\[\]{}]+""")  # of YAML; one may be the path of a file
OWN_TASKS = Path(__file__).parent / "lm_eval_tasks"  # that lm-eval has not
ROUNDING = 1e-6  # a choice far above the rounding of float64 in a mean, and below what lm-eval prints


@dataclass(frozen=True)
class LMEvalTask(DescribedMetric):
    """A task or group of [lm-eval](https://github.com/EleutherAI/lm-evaluation-harness), one score a question.

    The mean of the scores is the number that lm-eval prints, sign and scale included; what is no mean of one number a question,
    such as a perplexity, is refused.

    Args:
        task (`str`):
            Its name, such as `wmdp_bio` or `mmlu`; or one of this package's, `wmdp_bio_robust` and, with the metric `acc_norm`,
            `wmdp_bio_cloze_verified`, which no shortcut solves (https://huggingface.co/papers/2508.06601).
        metric (`str`, *optional*, defaults to `"acc"`):
            Name of the score; each question must have one.
        filter (`str`, *optional*):
            Name of the filter of answers, such as `strict-match` of `gsm8k`; may be left out where a task has one alone.
        limit (`int`, *optional*):
            Questions of each task at most.
        num_fewshot (`int`, *optional*):
            Examples before each question; the task's own by default.
        include_path (`str`, *optional*):
            Folder with tasks of one's own, as YAML.
        batch_size (`int`, *optional*, defaults to `16`):
            Rows in a forward pass.
        chat (`bool`, *optional*):
            `True` asks through the chat template, as lm-eval's `apply_chat_template` does; `False` says that plain text is meant,
            also where attacks train on chats.
    """

    yaml_key = "task"
    yaml_words = "`task` for lm-eval"

    task: str
    metric: str = "acc"
    filter: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    batch_size: int = 16
    chat: bool | None = None
    files: str = field(default="", init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        check_at_least(f"The task {self.task!r} of lm-eval", self, limit=1, num_fewshot=0, batch_size=1)
        object.__setattr__(self, "files", _files_sha256(self.include_path))

    def wording(self) -> str:
        return IN_CHAT if self.chat else IN_TEXT

    def higher_is_better(self) -> bool | None:
        return next((task.higher_is_better().get(self.metric) for task in self._loaded()["tasks"].values()), None)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` where lm-eval is not installed, has no such task, cannot read its data set, or prints no single
        number of that metric and filter that is the mean over questions. Questions longer than the context are refused when they
        are asked."""
        if self.chat:
            check_chat_template(tokenizer)
        loaded = self._loaded()
        for name, task in loaded["tasks"].items():
            self._check_task(name, task)
        self._check_group(loaded)

    def _loaded(self) -> Mapping[str, Any]:
        self._checked_manager()
        with self._readable(RuntimeError, KeyError):  # for a data set that is a script, or has no such split
            return _tasks(self.include_path, self.task)

    def _check_task(self, name: str, task: Any) -> None:
        owner, aggregation = f"The task {name!r} of lm-eval", task.aggregation()
        if self.metric not in aggregation:
            raise ValueError(f"{owner} has {sorted(aggregation)}, without {self.metric!r}. Name one of them.")
        if aggregation[self.metric].__name__ not in MEANS:
            raise ValueError(
                f"{owner} has {self.metric!r} as {aggregation[self.metric].__name__} over all questions, which is no mean of one "
                f"number a question. Name another of {sorted(aggregation)}."
            )
        filters = [each["name"] for each in task.get_config("filter_list") or []] or ["none"]
        if self.filter not in filters and (self.filter is not None or len(filters) > 1):
            chosen = "" if self.filter is None else f", without {self.filter!r}"
            raise ValueError(f"{owner} has the filters {filters}{chosen}. Name one: filter={filters[0]!r}.")
        if self.num_fewshot and task.get_config("num_fewshot") == 0:
            raise ValueError(
                f"{owner} is asked without examples only, and num_fewshot is {self.num_fewshot}. Leave it out."
            )

    def _check_group(self, loaded: Mapping[str, Any]) -> None:
        """Raises `ValueError` for several tasks whose mean over all questions lm-eval does not print."""
        if len(loaded["tasks"]) == 1:
            return
        group = loaded["groups"].get(self.task)
        printed = [] if group is None else group.aggregate_metric_list or []
        if not any(each.metric == self.metric and each.weight_by_size for each in printed):
            raise ValueError(
                f"lm-eval prints no mean of {self.metric!r} over all questions of {self.task!r}. Name one of its tasks: "
                f"{', '.join(sorted(loaded['tasks']))}."
            )

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

        manager = self._checked_manager()
        with self._readable():
            found = lm_eval.simple_evaluate(
                _whole_texts()(
                    pretrained=model,
                    tokenizer=tokenizer,
                    batch_size=self.batch_size,
                    add_bos_token=False if self.chat else None,  # the template writes its own
                ),
                tasks=[self.task],
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                log_samples=True,
                bootstrap_iters=0,
                task_manager=manager,
                apply_chat_template=bool(self.chat),
            )
        samples = [(name, sample) for name, rows in found["samples"].items() for sample in rows]
        filters = list(dict.fromkeys(sample["filter"] for _, sample in samples))
        if self.filter not in filters and (self.filter is not None or len(filters) > 1):
            raise ValueError(
                f"The task {self.task!r} of lm-eval has the filters {filters}. Name one: filter={filters[0]!r}."
            )
        chosen = filters[0] if self.filter is None else self.filter
        samples = [(name, sample) for name, sample in samples if sample["filter"] == chosen]
        for name, sample in samples:
            if self.metric not in sample["metrics"]:
                known = sorted(sample["metrics"])
                raise ValueError(
                    f"The task {name!r} of lm-eval has {known}, without {self.metric!r}. Name one of them."
                )
            if not isinstance(sample[self.metric], Real):
                raise ValueError(
                    f"The task {name!r} of lm-eval has {self.metric}={shortened(sample[self.metric])} of a question. Name a "
                    "metric with one number a question."
                )
        groups = [f"{name}/{sample['doc_id']}" for name, sample in samples]
        scores = Scores([float(sample[self.metric]) for _, sample in samples], groups)
        names = list(found["samples"])
        results = found["results"].get(names[0] if len(names) == 1 else self.task, {})
        self._check_printed(scores, results.get(f"{self.metric},{chosen}"))
        return scores

    def _check_printed(self, scores: Scores, printed: Any) -> None:
        if not isinstance(printed, Real) or not math.isclose(
            scores.mean(), printed, rel_tol=ROUNDING, abs_tol=ROUNDING
        ):
            raise ValueError(
                f"lm-eval prints {self.metric}={printed} of {self.task!r}, and the mean over its questions is {scores.mean():g}. "
                "Name a metric that is such a mean, or one task alone."
            )


@cache
def _manager(include_path: str | None) -> Any:
    """Returns the list of tasks, which is made once in a process, since that takes seconds."""
    folders = [str(OWN_TASKS), *([] if include_path is None else [include_path])]
    return _library().tasks.TaskManager(include_path=folders)


@cache
def _tasks(include_path: str | None, task: str) -> Mapping[str, Any]:
    """Returns the task, or those of the group, with their data sets, which are read once in a process: MMLU has 57."""
    return _manager(include_path).load([task])


def _files_sha256(include_path: str | None) -> str:
    """Returns the hash of what decides the questions: the version of lm-eval, this package's tasks, all files beside tasks of one's
    own, and files on this machine that those name."""
    try:
        parts = [version("lm_eval")]
    except PackageNotFoundError:  # which `check` says
        parts = []
    beside = sorted(file for file in Path(include_path or os.devnull).rglob("*") if file.is_file())
    words = {
        word for file in beside if file.suffix in (".yaml", ".yml") for word in WORD.findall(file.read_text("utf-8"))
    }
    named = sorted(word for word in words if "/" in word and Path(word).is_file())
    own = sorted(OWN_TASKS.iterdir())
    return json_sha256([*parts, *(file_sha256(Path(file)) for file in [*own, *beside, *named])])


@cache
def _whole_texts() -> Any:
    """Returns lm-eval's way to a model, which here refuses what does not fit the model's context instead of cutting off its
    beginning, where the question may be."""
    from lm_eval.models.huggingface import HFLM

    def check(length: int, longest: int) -> None:
        if length > longest:
            raise ValueError(
                f"lm-eval asks something of {length} tokens, of which the model's context leaves {longest}, and would cut off its "
                "beginning. Lower num_fewshot, or name a task with shorter questions."
            )

    class WholeTexts(HFLM):
        def _loglikelihood_tokens(self, requests, *arguments, **named):
            longest = max((len(before) + len(after) for _, before, after in requests), default=0)
            check(longest, self.max_length + 1)  # nothing is predicted from the last one
            return super()._loglikelihood_tokens(requests, *arguments, **named)

        def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, **named):
            ids, mask = super().tok_batch_encode(strings, padding_side, **named)
            check(ids.shape[1], left_truncate_len or ids.shape[1])
            return ids, mask

    return WholeTexts


def _library() -> Any:
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise ValueError("A metric asks for lm-eval, which is not installed. Install trl-tar[eval].") from error
    return lm_eval
