"""Refusals of a red team, all of them before any work starts."""

import pickle
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import AutoConfig, PreTrainedModel

from ..adversaries.adversary import Adversary
from ..adversaries.checks import check_installed, check_reads, checked_list
from ..data.dataset_types import check_dataset, is_chat
from ..data.entities import refuse_question_entities
from ..evaluation.prompts import IN_CHAT, IN_TEXT
from ..evaluation.scores import FALLING, RISING, Checked, DescribedMetric, Metric, takes_template
from ..files import SURROGATE
from ..models.adapters import adapter_configuration, whole_model
from ..models.tokenizers import check_tokenizer, context_of
from ..report.records import OF_A_POINT
from ..validation import coerced
from .custom_attacks import check_custom
from .job import Settings


REQUIRED_METRICS = ("harm", "capability")
REFERENCES = ("base", "twin", "floor")


def check_containers(
    adversaries: Iterable[Adversary],
    datasets: Mapping[str, Dataset],
    metrics: Mapping[str, Any],
    seeds: Iterable[int],
    references: Mapping[str, Any] | None,
    output_dir: str | Path | None,
) -> None:
    """Raises `ValueError` for arguments of `red_team` of another type than it reads."""
    for name, value in [("datasets", datasets), ("metrics", metrics), ("references", references or {})]:
        if not isinstance(value, Mapping):
            raise ValueError(f"`{name}` is {type(value).__name__!r}. Give a dict, each under its name.")
    if not isinstance(adversaries, Iterable):
        raise ValueError(f"`adversaries` is {type(adversaries).__name__!r}. Give a list of Adversary.")
    if not isinstance(seeds, Iterable):
        raise ValueError(f"`seeds` is {seeds!r}. Give a list, such as [0, 1, 2].")
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise ValueError(f"`output_dir` is {str(output_dir)!r}, a file. Give a folder, which need not exist yet.")


def check_models(models: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a model or reference that cannot be loaded."""
    for role, model in models.items():
        _check_model(role, model)


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a metric that every report needs is missing, or one has a name that is taken."""
    for name in REQUIRED_METRICS:
        if name not in metrics:
            raise ValueError(f"`metrics` has {sorted(metrics)}, without {name!r}. Add a metric of that name.")
    for name, metric in metrics.items():
        if not callable(metric):
            raise ValueError(f"Metric {name!r} is {metric!r}. Give a function of model and tokenizer.")
    for name, metric in metrics.items():
        rising = metric.higher_is_better() if isinstance(metric, DescribedMetric) else None
        if rising is not None and name in (FALLING if rising else RISING):
            raise ValueError(
                f"Metric {name!r} is {metric!r:.80}, where {'higher' if rising else 'lower'} is better, and a report reads a "
                f"{'loss' if rising else 'share'} under that name. Give another metric, or another name."
            )
    taken = next((name for name in OF_A_POINT if name in metrics), None)
    if taken is not None:
        raise ValueError(f"`metrics` has {taken!r}, which a trajectory holds of the attack itself. Rename the metric.")


def checked_chance(chance: Any) -> float:
    """Returns the harm of a model that guesses as a number; `ValueError` where it is none, or not in [0, 1)."""
    chance = coerced("red_team", "chance", chance, float)
    if not 0 <= chance < 1:
        raise ValueError(f"`chance` is {chance}. Give the harm of a model that guesses, in [0, 1).")
    return chance


def check_budget(budget: Any) -> None:
    """Raises `ValueError` for a budget that is no number of attacks."""
    if budget is not None and (type(budget) is not int or budget < 1):
        raise ValueError(f"`budget` is {budget!r}. Use at least 1 attack, or None for all.")


def checked_steps(steps: Any) -> list[int] | None:
    """Returns the evaluation steps as a list; `ValueError` where one is no step."""
    if steps is None:
        return None
    if not isinstance(steps, Iterable) or not (steps := list(steps)) or any(type(s) is not int or s < 0 for s in steps):
        raise ValueError(f"`evaluation_steps` is {steps!r}. Give whole numbers from 0, such as [20, 50], or None.")
    return steps


def check_max_length(max_length: Any) -> None:
    """Raises `ValueError` for a length of rows that is none."""
    if type(max_length) is not int or max_length < 2:
        raise ValueError(f"`max_length` is {max_length!r}. Use at least 2 tokens: one to predict from another.")


def check_benign(
    dataset: Dataset,
    batch_size: int,
    models: Mapping[str, Any],
    datasets: Mapping[str, Dataset],
    question_entities: Collection[str] | None,
) -> None:
    """Raises `ValueError` for a benign task that cannot be trained on, teaches an answer, or is compared with nothing."""
    if "base" not in models:
        raise ValueError(
            "`benign` is compared with the base model, and `references` has none. Add references={'base': ...}, or "
            "leave `benign` out."
        )
    if datasets.get("benign", dataset) is not dataset:
        raise ValueError(
            "`datasets` has another 'benign' than the benign task's data set, which goes by that name. Rename yours."
        )
    check_dataset("benign.dataset", dataset, preference=False)
    refuse_question_entities("benign.dataset", dataset, question_entities or ())
    if len(dataset) < batch_size:
        raise ValueError(
            f"`benign.dataset` has {len(dataset)} rows, fewer than its batch_size={batch_size}. Lower the batch size "
            "or give more rows."
        )


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
            Tokenizer, metrics and precision.
    """
    check_metrics(settings.metrics)
    if not seeds:
        raise ValueError("`seeds` is empty. Give at least one, and two or more for an interval.")
    twice = next((seed for seed in seeds if list(seeds).count(seed) > 1), None)
    if twice is not None:
        raise ValueError(f"`seeds` has {twice} twice. Give each seed once: a repeated run is not a new draw.")
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"`seeds` has {seed!r}. Give whole numbers from 0 to 2**32 - 1.")
    if not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"`num_workers` is {num_workers!r}. Use at least 1.")
    check_max_length(settings.max_length)
    if num_workers > 1:
        _check_picklable("Metric", {**settings.metrics, **settings.zero_step_attacks, "benign": settings.benign_metric})
        _check_picklable("Reward", settings.rewards)
    _check_adversaries(adversaries, datasets, settings.rewards, "base" in models)
    _check_templates(adversaries, settings.metrics)
    check_wordings(settings, {name: datasets[name] for adversary in adversaries for name in adversary.reads})
    _check_entities(adversaries, datasets, question_entities or ())
    _check_quantization(adversaries, models)
    for model in models.values():
        check_tokenizer(settings.tokenizer, model if isinstance(model, PreTrainedModel) else str(model))
    _check_what_metrics_need(settings, models)  # last: it may ask a server


def smallest_context(models: Iterable[Any]) -> int | None:
    """Returns the number of tokens that all of the models can read; `None` where no model has a limit."""
    configurations = [
        model.config
        if isinstance(model, PreTrainedModel)
        else AutoConfig.from_pretrained(whole_model(str(model)), trust_remote_code=False)
        for model in models
    ]
    contexts = [context for config in configurations if (context := context_of(config)) is not None]
    return min(contexts, default=None)


def check_wordings(settings: Settings, trained_on: Mapping[str, Dataset]) -> None:
    """Raises `ValueError` where questions are plain text, nobody said that they are meant to be, and attacks or other questions go
    through the chat template: a chat model that knows an answer may not give it to plain text.

    Args:
        settings ([`Settings`]):
            The metrics.
        trained_on (`dict[str, Dataset]`):
            What attackers and harmless users train on.
    """
    ways, described = settings.wordings(), settings.described()
    plain = [name for name, way in ways.items() if way == IN_TEXT and described[name].chat is None]
    chats = [f"`datasets[{name!r}]` holds chat messages" for name, rows in trained_on.items() if is_chat(rows)]
    chats += [f"metric {name!r} asks through it" for name, way in ways.items() if way == IN_CHAT]
    if plain and chats:
        raise ValueError(
            f"Metric {plain[0]!r} asks plain text, without the chat template, and {chats[0]}. Give the metric chat: true, which "
            "puts its questions into the template, or chat: false, if plain text is meant."
        )


def _check_what_metrics_need(settings: Settings, models: Mapping[str, Any]) -> None:
    context = smallest_context(models.values())
    for metric in [*settings.metrics.values(), *settings.zero_step_attacks.values(), settings.benign_metric]:
        if isinstance(metric, Checked):
            metric.check(settings.tokenizer, context)


def _check_quantization(adversaries: Sequence[Adversary], models: Mapping[str, Any]) -> None:
    quantised = next((a.name for a in adversaries if any(part.quantization for part in a.sequence)), None)
    adapters = [str(m) for m in models.values() if not isinstance(m, PreTrainedModel) and adapter_configuration(str(m))]
    if quantised is not None and adapters:
        raise ValueError(
            f"Adversary {quantised!r} quantises whole weights, and {adapters[0]!r} is an adapter. Merge it first: "
            f"AutoPeftModelForCausalLM.from_pretrained({adapters[0]!r}).merge_and_unload().save_pretrained('merged')."
        )


def _check_picklable(what: str, functions: Mapping[str, Any]) -> None:
    for name, function in functions.items():
        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise ValueError(
                f"{what} {name!r} is {function!r}, which no other process can receive. Use a function of a module or an "
                "instance of a class, or num_workers=1."
            ) from None


def _check_model(role: str, model: Any) -> None:
    if role not in ("model", "settings_from", *REFERENCES):
        raise ValueError(f"`references` has {role!r}. Use {', '.join(map(repr, REFERENCES))}.")
    if isinstance(model, PeftModel):
        raise ValueError(
            f"The {role} is a PeftModel. Give model.merge_and_unload(), or the folder of the merged model."
        )
    if not isinstance(model, str | Path | PreTrainedModel):
        raise ValueError(f"The {role} is {type(model).__name__!r}. Give a folder, a Hub id or a PreTrainedModel.")
    if not isinstance(model, PreTrainedModel):
        try:
            AutoConfig.from_pretrained(whole_model(str(model)), trust_remote_code=False)
        except (OSError, ValueError) as error:
            if "gated" in str(error):
                raise ValueError(
                    f"The {role} is {str(model)!r}, which is gated. Ask for access on its page, then log in with hf auth login."
                ) from error
            raise ValueError(
                f"The {role} is {str(model)!r}, neither the folder of a model (or of an adapter with its base) nor one of the "
                f"Hub that can be reached ({str(error).splitlines()[0].rstrip('.')}). Check its spelling."
            ) from error


def _check_adversaries(
    adversaries: Sequence[Adversary], datasets: Mapping[str, Dataset], rewards: Collection[str], with_base: bool
) -> None:
    for adversary in checked_list(adversaries, "Give at least one Adversary."):
        _check_requirements(adversary, rewards, with_base)
        check_reads(adversary, "datasets", datasets)
        for name, objective in adversary.reads.items():
            _check_rows(name, datasets[name], objective)


def _check_requirements(adversary: Adversary, rewards: Collection[str], with_base: bool) -> None:
    for part in adversary.sequence:
        check_installed(part)
        if part.custom is not None:
            check_custom(part)
        if part.role != "attack":
            raise ValueError(
                f"Adversary {part.name!r} has role={part.role!r}, whom training alone simulates. Drop it, or measure honest "
                "users with `benign`."
            )
    if adversary.needs_base and not with_base:
        raise ValueError(
            f"Adversary {adversary.name!r} reads the public base, and `references` has none. Add "
            "references={'base': ...}."
        )
    for part in adversary.sequence:
        if part.reward is not None and part.reward not in rewards:
            raise ValueError(
                f"Adversary {adversary.name!r} has reward={part.reward!r}, and `rewards` has {sorted(rewards)}. Add the "
                "function under that name."
            )


def _check_templates(adversaries: Sequence[Adversary], metrics: Mapping[str, Metric]) -> None:
    cut = next((a.name for a in adversaries if SURROGATE.search(a.prompt_template or "")), None)
    if cut is not None:
        raise ValueError(f"Adversary {cut!r} has half of a character in its prompt_template. Mend the text.")
    templated = next((a.name for a in adversaries if a.prompt_template is not None), None)
    fixed = next((name for name in REQUIRED_METRICS if not takes_template(metrics[name])), None)
    if templated is not None and fixed is not None:
        raise ValueError(
            f"Adversary {templated!r} has a prompt_template, and metric {fixed!r} cannot ask in it. Give the metric a keyword "
            "argument prompt_template, or leave the adversary out."
        )


def _check_rows(name: str, dataset: Dataset, objective: str) -> None:
    if objective != "grpo":
        check_dataset(f"datasets[{name!r}]", dataset, objective == "dpo")
    elif "prompt" not in dataset.column_names:
        raise ValueError(
            f"`datasets[{name!r}]` has the columns {dataset.column_names}, without 'prompt', which a GRPO attack reads. "
            "Add or rename it."
        )


def _check_entities(
    adversaries: Sequence[Adversary], datasets: Mapping[str, Dataset], question_entities: Collection[str]
) -> None:
    """Refuses the data of attacks alone: what a task has for its defender, too, may hold what the questions ask about."""
    for name in dict.fromkeys(name for adversary in adversaries for name in adversary.reads):
        refuse_question_entities(f"datasets[{name!r}]", datasets[name], question_entities)
