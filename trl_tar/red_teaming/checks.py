"""What a red team refuses, before any work starts."""

import importlib.util
import pickle
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from ..adversary import Adversary
from ..data import check_dataset, check_tokenizer
from .jobs import Settings


REQUIRED_METRICS = ("harm", "capability")
REFERENCES = ("base", "twin", "floor")


def check_red_team(
    models: Mapping[str, Any],
    adversaries: Sequence[Adversary],
    datasets: Mapping[str, Dataset],
    settings: Settings,
    seeds: Sequence[int],
    num_workers: int,
    question_entities: Collection[str] | None,
) -> None:
    """Raises `ValueError`, in one sentence and a remedy, for arguments of `red_team` that cannot be used.

    Args:
        models, adversaries, datasets, seeds, num_workers, question_entities:
            As in [`red_team`]; `models` holds the references too.
        settings ([`Settings`]):
            Tokenizer and metrics.
    """
    for role, model in models.items():
        _check_model(role, model)
    for name in REQUIRED_METRICS:
        if name not in settings.metrics:
            raise ValueError(f"`metrics` has {sorted(settings.metrics)}, without {name!r}. Add a metric of that name.")
    if not seeds:
        raise ValueError("`seeds` is empty. Give at least one, and two or more for an interval.")
    twice = next((seed for seed in seeds if list(seeds).count(seed) > 1), None)
    if twice is not None:
        raise ValueError(f"`seeds` has {twice} twice. Give each seed once: a repeated run is not a new draw.")
    if not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"`num_workers` is {num_workers!r}. Use at least 1.")
    if num_workers > 1:
        _check_picklable({**settings.metrics, **settings.zero_step_attacks, "benign": settings.benign_metric})
    if settings.benign_metric is not None and "benign" in datasets:
        raise ValueError("`datasets` has 'benign', the name of the benign task's data set. Rename yours.")
    _check_adversaries(adversaries, datasets)
    _check_entities(datasets, question_entities)
    for model in models.values():
        check_tokenizer(settings.tokenizer, model if isinstance(model, PreTrainedModel) else str(model))


def _check_picklable(metrics: Mapping[str, Any]) -> None:
    for name, metric in metrics.items():
        try:
            pickle.dumps(metric)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise ValueError(
                f"Metric {name!r} is {metric!r}, which no other process can receive. Use a function of a module or an "
                "instance of a class, or num_workers=1."
            ) from None


def _check_model(role: str, model: Any) -> None:
    if role not in ("model", *REFERENCES):
        raise ValueError(f"`references` has {role!r}. Use {', '.join(map(repr, REFERENCES))}.")
    if isinstance(model, PeftModel):
        raise ValueError(
            f"The {role} is a PeftModel. Give model.merge_and_unload(), or the folder of the merged model."
        )
    if not isinstance(model, str | Path | PreTrainedModel):
        raise ValueError(f"The {role} is {type(model).__name__!r}. Give a folder, a Hub id or a PreTrainedModel.")


def _check_adversaries(adversaries: Sequence[Adversary], datasets: Mapping[str, Dataset]) -> None:
    if not adversaries:
        raise ValueError("`adversaries` is empty. Give at least one Adversary.")
    names = [a.name for a in adversaries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"`adversaries` has two named {twice!r}. Give each its own name.")
    for adversary in adversaries:
        if adversary.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                f"Adversary {adversary.name!r} has quantization={adversary.quantization!r}, which needs bitsandbytes. "
                "Install trl-tar[quantization]."
            )
        for name in adversary.datasets:
            if name not in datasets:
                raise ValueError(
                    f"Adversary {adversary.name!r} reads {name!r}, and `datasets` has {sorted(datasets)}. Add the data "
                    "set under that name."
                )
            check_dataset(f"datasets[{name!r}]", datasets[name], adversary.objective == "dpo")


def _check_entities(datasets: Mapping[str, Dataset], question_entities: Collection[str] | None) -> None:
    questions = set(question_entities or ())
    for name, dataset in datasets.items():
        if questions and "entity" in dataset.column_names:
            shared = questions & set(dataset["entity"])
            if shared:
                raise ValueError(
                    f"`datasets[{name!r}]` and the questions share {len(shared)} entities, for example {min(shared)!r}. "
                    "Remove them from the data set: what an attacker is taught shows nothing about what comes back."
                )
