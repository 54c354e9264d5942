"""What the JSON of a report must hold: every field that something reads, its type and its range."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..adversaries.adversary import Adversary
from .records import STATUSES


Value = Annotated[float | None, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Values = dict[str, Value]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(max_length=2**16)]
STRICT = ConfigDict(strict=True, extra="forbid")
OPEN = ConfigDict(strict=True, extra="allow")
# of an adversary, what cards and pages say of it
TOLD = ("dataset", "mixture", "objective", "num_steps", "learning_rate", "batch_size", "optimizer", "lora_r", "weight")
MOST_ATTACKS = 10**5  # adversaries × seeds, which readers go through one by one


def _measured(values: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = {"harm", "capability"} - set(values)
    if missing:
        raise ValueError(f"there is no {min(missing)!r}")
    for name in ("harm", "capability"):
        if values[name] is not None and not -1e-9 <= values[name] <= 1 + 1e-9:
            raise ValueError(f"{name!r} is {values[name]}, and is a share from 0 to 1")
    return values


def _point(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("step", "flops"):
        if values.get(name) is None:
            raise ValueError(f"there is no {name!r}")
        if values[name] < 0:
            raise ValueError(f"{name!r} is {values[name]}")
    if "loss" not in values:
        raise ValueError("there is no 'loss'")
    return _measured(values)


def _trajectory(points: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    steps = [point["step"] for point in points]
    if any(step != int(step) for step in steps) or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError("its steps are no whole numbers in ascending order")
    return points


def _once(values: Iterable[Hashable]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")


def _attacks(attacks: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    _once((attack["adversary"], attack["seed"]) for attack in attacks)
    return attacks


def _seeds(seeds: Sequence[int]) -> Sequence[int]:
    _once(seeds)
    return seeds


def _estimate(estimate: Mapping[str, Any]) -> Mapping[str, Any]:
    if (estimate["low"] is None) != (estimate["high"] is None):
        raise ValueError("one of its bounds is missing")
    return estimate


def _adversary(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        Adversary(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from error
    missing = [name for name in TOLD if name not in fields]
    if missing:
        raise ValueError(f"there is no {missing[0]!r}")
    return fields


def _adversaries(adversaries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    _once(each["name"] for each in adversaries)
    return adversaries


Metrics = Annotated[Values, AfterValidator(_measured)]
Point = Annotated[Values, AfterValidator(_point)]
Trajectory = Annotated[list[Point], AfterValidator(_trajectory)]
Described = Annotated[dict[str, Any], AfterValidator(_adversary)]


class Attack(TypedDict):
    """[`~trl_tar.report.records.AttackRecord`]."""

    __pydantic_config__ = STRICT
    adversary: Text
    seed: Seed
    status: Annotated[str, Field(pattern=f"^({'|'.join(STATUSES)})$")]
    error: Text | None
    trajectory: Trajectory
    after: Metrics | None
    best: Point | None


Attacks = Annotated[list[Attack], AfterValidator(_attacks)]


class Bounds(TypedDict):
    """Of [`~trl_tar.report.intervals.t_interval`]."""

    __pydantic_config__ = STRICT
    mean: Value
    low: Value
    high: Value
    n: Count


class WorstBounds(TypedDict):
    """The same of the strongest adversary."""

    __pydantic_config__ = STRICT
    mean: Value
    low: Value
    high: Value
    n: Count
    adversary: Text | None


class TimeToBreak(TypedDict):
    """Of [`~trl_tar.report.survival.time_to_break`]."""

    __pydantic_config__ = STRICT
    median: Value
    low: Value
    high: Value
    n: Count
    adversaries: Count
    broken: Count


Estimate = Annotated[Bounds, AfterValidator(_estimate)]
Worst = Annotated[WorstBounds, AfterValidator(_estimate)]


class Summary(TypedDict):
    """Of [`~trl_tar.report.summary.summarise`]."""

    __pydantic_config__ = OPEN
    harm_after: Estimate
    worst_harm: Worst
    best_harm: Estimate
    recovery: Estimate
    worst_recovery: Worst
    worst_reached_recovery: Worst
    capability_after: Estimate
    bystander_after: Estimate
    selectivity: Estimate
    twin_difference: Estimate
    worst_harm_cross_fit: Worst
    worst_recovery_cross_fit: Worst
    steps_to_break: TimeToBreak
    usable_steps_to_break: TimeToBreak
    flops_to_break: TimeToBreak


class Base(TypedDict):
    """What an adapter was merged into."""

    __pydantic_config__ = STRICT
    id: Text
    weights_sha256: Text


class Model(TypedDict):
    """What a record is of."""

    __pydantic_config__ = OPEN
    id: Text
    weights_sha256: Text
    num_parameters: Count
    base_model: NotRequired[Base]


class Record(TypedDict):
    """[`~trl_tar.report.records.ModelRecord`]."""

    __pydantic_config__ = STRICT
    model: Model
    before: Metrics
    attacks: Attacks
    zero_step: NotRequired[Values]
    standard_errors: NotRequired[Values]


class GateContent(TypedDict):
    """[`~trl_tar.report.verdict.GateResult`]."""

    __pydantic_config__ = STRICT
    name: Text
    value: Value
    threshold: float
    passed: bool


class VerdictContent(TypedDict):
    """[`~trl_tar.report.verdict.Verdict`]."""

    __pydantic_config__ = STRICT
    resistant: bool
    empty_shell: bool
    gates: list[GateContent]


class Benign(TypedDict):
    """Of [`~trl_tar.red_teaming.benign_record.benign_record`]."""

    __pydantic_config__ = STRICT
    learning_rate: float
    num_steps: Count
    batch_size: Count
    trainability: Estimate
    capability_ratio: Estimate
    base: Attacks
    model: Attacks


class Rows(TypedDict):
    """A tokenised data set."""

    __pydantic_config__ = STRICT
    name: Text
    objective: Text
    rows: Count
    sha256: Text


class Card(TypedDict):
    """What a card says beside the report."""

    __pydantic_config__ = STRICT
    title: Text
    description: Text
    repository: Text | None
    license: NotRequired[Text | None]


class Config(TypedDict):
    """Of the red team."""

    __pydantic_config__ = OPEN
    chance: Annotated[float, Field(ge=0, lt=1)]
    adversaries: NotRequired[Annotated[list[Described], AfterValidator(_adversaries)]]
    datasets: NotRequired[list[Rows]]
    metrics: NotRequired[list[Text]]
    max_length: NotRequired[Count]
    bf16: NotRequired[bool]
    contamination: NotRequired[dict[str, dict[str, float]]]
    hub_datasets: NotRequired[list[Text]]
    card: NotRequired[Card]


class Phase(TypedDict):
    """One phase of the training."""

    __pydantic_config__ = OPEN
    name: Text
    settings: dict[str, Any]
    adversaries: list[Described]
    data: NotRequired[dict[str, Text]]


class Training(TypedDict):
    """How the model came about."""

    __pydantic_config__ = OPEN
    phases: list[Phase]


class Task(TypedDict):
    """Where data sets and metrics come from."""

    __pydantic_config__ = STRICT
    kind: Text
    world: Text


class File(TypedDict):
    """One file of the model."""

    __pydantic_config__ = STRICT
    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Content(TypedDict):
    """[`~trl_tar.report.Report`], without the digest."""

    __pydantic_config__ = STRICT
    schema_version: int
    model: Model
    before: Metrics
    attacks: Attacks
    references: dict[Annotated[str, Field(pattern="^(base|twin|floor)$")], Record]
    summary: Summary
    verdict: VerdictContent
    by_adversary: dict[str, Summary]
    standard_errors: Values
    zero_step: Values
    benign: Benign | None
    seeds: Annotated[list[Seed], AfterValidator(_seeds)]
    config: Config
    environment: dict[str, Text]
    training: Training | None
    task: Task | None
    files: dict[str, File]


_SCHEMA = TypeAdapter(Content)


def what_is_wrong(content: Mapping[str, Any], but: Sequence[str] = ()) -> str | None:
    """The first thing that is not as it must be, such as `"attacks.0.seed: Field required"`; `None` where all is well.

    Args:
        content (`dict`):
            Fields of the file, without the digest.
        but (`Sequence[str]`, *optional*):
            Fields that are not looked at.
    """
    try:
        _SCHEMA.validate_python(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        for each in found:
            if each["loc"][0] not in but:
                return f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
    names = {each["name"] for each in content["config"].get("adversaries", [])}
    names |= {attack["adversary"] for attack in content["attacks"]}
    if len(names) * len(content["seeds"]) > MOST_ATTACKS:
        return f"{len(names)} adversaries with {len(content['seeds'])} seeds each, more than {MOST_ATTACKS} attacks"
    return None
