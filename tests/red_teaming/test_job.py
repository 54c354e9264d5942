"""What decides whether a job was done before."""

import importlib
import linecache
import sys
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from datasets import Dataset
from support import tiny

from trl_tar import Adversary
from trl_tar.evaluation.identity import identity
from trl_tar.evaluation.scores import Scores
from trl_tar.red_teaming.job import Job, Settings
from trl_tar.testbed import KnowledgeWorld, knowledge_metrics


def constant(value, model, tokenizer):
    return value


class Threshold:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda model, tokenizer: 1, lambda model, tokenizer: 2),
        (Threshold(1), Threshold(2)),
        (partial(constant, 1), partial(constant, 2)),
        (knowledge_metrics(0)["harm"], knowledge_metrics(1)["harm"]),
    ],
)
def test_metrics_that_measure_otherwise_are_told_apart(first, second):
    assert identity(first) != identity(second)
    assert " at 0x" not in identity(first)


def test_a_function_with_another_body_is_another_metric(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file, found = tmp_path / "metric_of_a_user.py", set()
    for body in ("return 1", "return 2"):
        file.write_text(f"def harm(model, tokenizer):\n    {body}\n")
        linecache.clearcache()
        found.add(identity(importlib.import_module("metric_of_a_user").harm))
        del sys.modules["metric_of_a_user"]
    assert len(found) == 2


def test_equal_metrics_are_the_same():
    assert identity(Threshold(1)) == identity(Threshold(1))
    assert identity(knowledge_metrics(0)["harm"]) == identity(knowledge_metrics(0)["harm"])


def test_another_tokenizer_is_another_job():
    def file_name(tokenizer):
        return Job("model", "0" * 64, "1" * 64).file_name(
            Settings(tokenizer, knowledge_metrics(0), {}, None, 256, False)
        )

    used = KnowledgeWorld(0).tokenizer()
    used(["one sentence", "and a longer sentence"], padding=True)  # leaves its padding in the tokenizer
    assert file_name(used) == file_name(KnowledgeWorld(0).tokenizer())
    assert len({file_name(tokenizer) for tokenizer in (used, KnowledgeWorld(1).tokenizer(), tiny.tokenizer())}) == 3


@dataclass(frozen=True)
class Held:
    """A metric whose representation hides most of what it asks."""

    rows: Dataset

    def __call__(self, model, tokenizer):
        return Scores([1.0])


def test_another_content_behind_the_same_representation_is_another_metric():
    first, second = (Held(Dataset.from_dict({"text": [text]})) for text in "ab")
    assert repr(first) == repr(second) and identity(first) != identity(second)
    assert identity(first) == identity(Held(Dataset.from_dict({"text": ["a"]})))
    numbers = [torch.zeros(5000), torch.zeros(5000).index_fill(0, torch.tensor([2500]), 1.0)]
    assert repr(numbers[0]) == repr(numbers[1]) and identity(Held(numbers[0])) != identity(Held(numbers[1]))


def test_what_a_metric_caches_does_not_change_what_it_is():
    metric = knowledge_metrics(0)["harm"]
    before = identity(metric)
    assert metric._questions and identity(metric) == before


def test_a_reward_of_an_attack_before_counts():
    grpo = Adversary("g", "prompts", objective="grpo", reward="r", num_steps=1, batch_size=8)
    job = Job("m", "w", "c", Adversary("after", "forget", num_steps=1, after=grpo), 0, {}, {})
    rest = (tiny.tokenizer(), knowledge_metrics(0), {}, None, 256, False)
    assert len({job.file_name(Settings(*rest, {"r": reward})) for reward in (one_reward, other_reward)}) == 2


def one_reward(completions, **columns):
    return [1.0 for _ in completions]


def other_reward(completions, **columns):
    return [0.5 for _ in completions]
