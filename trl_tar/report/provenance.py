"""Fields of a report that say where its numbers come from: the model, its training and files, and its attacks."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, with_config
from typing_extensions import TypedDict

from ..adversaries.adversary import Adversary
from .schema import OPEN, STRICT, Count, Number, OneByOne, Several, Text, check_once


# fields of an adversary that cards and pages speak of, so that a report has to hold them
SHOWN = ("dataset", "mixture", "objective", "num_steps", "learning_rate", "batch_size", "optimizer", "lora_r", "weight")


def _adversary(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        Adversary(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from error
    missing = [name for name in SHOWN if name not in fields]
    if missing:
        raise ValueError(f"there is no {missing[0]!r}")
    return fields


def _each_name_once(adversaries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    check_once(adversary["name"] for adversary in adversaries)
    return adversaries


MOST_ADVERSARIES = 4000  # as many attacks as a report may have, with one seed each
AdversaryFields = Annotated[dict[str, Any], AfterValidator(_adversary)]
Adversaries = Annotated[Several[AdversaryFields], Field(max_length=MOST_ADVERSARIES)]


@with_config(STRICT)
class Base(TypedDict):
    """The model that an adapter was merged into."""

    id: Text
    weights_sha256: Text


@with_config(OPEN)
class Model(TypedDict):
    """The model that a record is about; `config_sha256` of configuration and generation configuration; `base_model` for an
    adapter."""

    id: Text
    weights_sha256: Text
    num_parameters: Count
    config_sha256: NotRequired[Text]
    base_model: NotRequired[Base]


@with_config(STRICT)
class Difference(TypedDict):
    """One thing that a model brings along otherwise than the model that it is compared with, both in words."""

    what: Text
    reference: Text
    model: Text


@with_config(STRICT)
class Rows(TypedDict):
    """A data set of the attacks, tokenised for one objective; `sha256` of its rows, and `source` its Hub id and commit, where it
    was read from there.

    `left_out` is the number of further rows, which had no token to learn within `max_length`, and `full` that of rows as long as
    `max_length`, of which the ends may be cut off; neither is there where it is 0."""

    name: Text
    objective: Text
    rows: Count
    sha256: Text
    source: NotRequired[Text]
    left_out: NotRequired[Count]
    full: NotRequired[Count]


@with_config(STRICT)
class Search(TypedDict):
    """A search for the strongest attack on a model, whose winner is one of the report's adversaries.

    `adversary` is the winner's name, which was attacked with again, with the report's seeds; `trials` are those on the model,
    and `weights_sha256` says which that was; `metric` is what they maximised, and `space_sha256` the hash of what they chose from."""

    adversary: Text
    trials: Count
    metric: Text
    space_sha256: Text
    weights_sha256: Text


@with_config(STRICT)
class Card(TypedDict):
    """The words of the model card that nobody measured."""

    title: Text
    description: Text
    repository: Text | None
    license: NotRequired[Text | None]


@with_config(OPEN)
class Config(TypedDict):
    """The settings of the red team, and what a recipe adds to them.

    `tokenizer_sha256` is of the tokenizer that the attacks are made with, and of its chat template.
    `chance` is the harm of a model that guesses; `asked` says of each metric whether its questions went through the chat template
    or were plain text, where it says so itself; `graded` of each metric with a judge how answers were written, and who graded them by
    what; `custom` has the SHA-256 of the file of each
    attack from outside the package; `budget` is the number of attacks at most, where there was one; `searches`
    are those that adversaries were found by; `contamination` is from [`~trl_tar.report.contamination.contamination`]."""

    chance: Annotated[Number, Field(ge=0, lt=1)]
    adversaries: NotRequired[Annotated[Adversaries, AfterValidator(_each_name_once)]]
    datasets: NotRequired[Several[Rows]]
    metrics: NotRequired[Several[Text]]
    asked: NotRequired[dict[str, Text]]
    graded: NotRequired[dict[str, Text]]
    tokenizer_sha256: NotRequired[Text]
    max_length: NotRequired[Count]
    bf16: NotRequired[bool]
    custom: NotRequired[dict[str, Text]]
    budget: NotRequired[Count]
    searches: NotRequired[Several[Search]]
    contamination: NotRequired[OneByOne[dict[str, dict[str, Number]]]]
    hub_datasets: NotRequired[Several[Text]]
    base_model: NotRequired[Text | None]
    card: NotRequired[Card]


@with_config(OPEN)
class Phase(TypedDict):
    """One phase of the training; `adversaries` is A_train, empty for a phase without attacks."""

    name: Text
    settings: dict[str, Any]
    adversaries: Adversaries
    data: NotRequired[dict[str, Text]]


@with_config(OPEN)
class Training(TypedDict):
    """The phases that made the model, in order."""

    phases: Several[Phase]


@with_config(STRICT)
class Task(TypedDict):
    """Arguments of [`~trl_tar.tasks.built_in.built_in_task`], which gives the data sets and metrics of the attacks."""

    kind: Text
    world: Text


@with_config(STRICT)
class File(TypedDict):
    """One file of the model; `size` in bytes."""

    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
