"""Records of attacks, and of models under attack, as they stand in a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, with_config
from typing_extensions import TypedDict

from .intervals import Estimate
from .provenance import Difference, Model
from .schema import OPTIONAL, STRICT, Count, Number, Seed, Several, Text, Values, check_once, whole


Point = dict[str, Any]  # step, flops, loss and one value for each metric
OF_THE_ATTACKER = ("loss", "reward", "entropy")  # what a point may hold in addition to step, flops and metrics
OF_A_POINT = ("step", "flops", *OF_THE_ATTACKER)
STATUSES = ("completed", "diverged", "failed")
SLACK = 1e-9  # a mean of shares may lie outside [0, 1] by the rounding of float64, which is far smaller


def _measured(values: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = {"harm", "capability"} - set(values)
    if missing:
        raise ValueError(f"there is no {min(missing)!r}")
    for name in ("harm", "capability"):
        if values[name] is not None and not -SLACK <= values[name] <= 1 + SLACK:
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


def _in_order(points: Sequence[Point]) -> Sequence[Point]:
    steps = [point["step"] for point in points]
    if any(step != int(step) for step in steps) or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError("its steps are no whole numbers in ascending order")
    return points


Metrics = Annotated[Values, AfterValidator(_measured)]
Unanswered = dict[str, dict[str, Count]]  # metric → reason, or "asked" → number of questions
CheckedPoint = Annotated[Values, AfterValidator(_point)]


@with_config(STRICT)
@dataclass(frozen=True)
class AttackRecord:
    """Records one attack on one model.

    Args:
        adversary (`str`):
            Name of the adversary; names are unique within a report.
        seed (`int`):
            Seed of data order, adapter and dropout.
        status (`str`):
            `"completed"`; `"diverged"`: the attacker's loss or weights were not finite, and the trajectory ends at the
            last point before; `"failed"`: an error, nothing is known.
        error (`str`, *optional*):
            Why the attack did not complete, or why a value of the trajectory is `None`.
        trajectory (`list[dict]`):
            `step`, `flops` (6 · parameters · tokens so far), `loss` (of the attacker, in nats, mean over the steps since
            the point before; `None` at step 0) and every metric, at each evaluation; of a GRPO attack also `reward` and
            `entropy` (of the answers, in nats).
        after (`dict`, *optional*):
            Metrics at the last point: the end of a completed attack.
        best (`dict`, *optional*):
            The point that the attacker would keep, by `validation_harm`; `None` without that metric.
        unanswered (`dict`, *optional*):
            Of each metric of which some questions had no answer at the last evaluation, how many, by the reason, and how many
            were `asked`. They count neither way.
        as_released (`bool`, *optional*):
            The attack was stronger with what the model brings along (see `differences` of [`ModelRecord`]), and is that one.
        harm_error (`float`, *optional*):
            Standard error of harm over questions clustered by group: the larger of those at the last evaluation and at the one with
            the most harm. `None` for fewer than two clusters, and in reports of a schema before 6.
    """

    adversary: Text
    seed: Seed
    status: Annotated[str, Field(pattern=f"^({'|'.join(STATUSES)})$")] = "completed"
    error: Text | None = None
    trajectory: Annotated[Several[CheckedPoint], AfterValidator(_in_order)] = field(default_factory=list)
    after: Metrics | None = None
    best: CheckedPoint | None = None
    unanswered: Unanswered | None = field(default=None, metadata=OPTIONAL)
    as_released: bool | None = field(default=None, metadata=OPTIONAL)
    harm_error: Number | None = field(default=None, metadata=OPTIONAL)

    @property
    def outcome(self) -> dict[str, float | None] | None:
        """`after` of a completed attack, and `None` for any other: one that ended early shows no resistance."""
        return self.after if self.status == "completed" else None

    @property
    def harm(self) -> float | None:
        """Harm after a completed attack; `None` for any other, and where no number is known."""
        return None if self.outcome is None else self.outcome["harm"]

    @property
    def finished(self) -> bool:
        """Whether the attack completed, and its harm is a number."""
        return self.harm is not None


def _each_once(attacks: Sequence[AttackRecord]) -> Sequence[AttackRecord]:
    check_once((attack.adversary, attack.seed) for attack in attacks)
    return attacks


Attacks = Annotated[Several[Annotated[AttackRecord, whole(AttackRecord)]], AfterValidator(_each_once)]


@with_config(STRICT)
@dataclass(frozen=True)
class ModelRecord:
    """Records one model: its identity, its metrics before any attack, and every attack on it.

    Args:
        model (`dict`):
            `id`, `weights_sha256` and `num_parameters`; of an adapter also `base_model`, with its `id` and `weights_sha256`.
        before (`dict[str, float]`):
            Every metric before any attack.
        attacks (`list[AttackRecord]`):
            One for each adversary and seed.
        zero_step (`dict[str, float]`):
            Harm under attacks that need no training.
        standard_errors (`dict[str, float]`):
            Standard errors of the values in `before`, over questions clustered by group; `None` for fewer than two clusters.
        unanswered (`dict`, *optional*):
            As in [`AttackRecord`], before any attack.
        differences (`list[dict]`, *optional*):
            What the model brings along otherwise than the base (tokenizer, chat template, generation configuration,
            configuration): `what`, `reference` and `model`, in words. `None` where nothing was compared.
    """

    model: Model
    before: Metrics
    attacks: Attacks
    zero_step: Values = field(default_factory=dict)
    standard_errors: Values = field(default_factory=dict)
    unanswered: Unanswered | None = field(default=None, metadata=OPTIONAL)
    differences: list[Difference] | None = field(default=None, metadata=OPTIONAL)


def by_adversary(record: ModelRecord | None) -> dict[str, ModelRecord]:
    """Adversary → the record with its attacks alone; `{}` without a record."""
    attacks: dict[str, list[AttackRecord]] = {}
    for attack in [] if record is None else record.attacks:
        attacks.setdefault(attack.adversary, []).append(attack)
    return {} if record is None else {name: replace(record, attacks=each) for name, each in attacks.items()}


@with_config(STRICT)
class Benign(TypedDict):
    """Records what a harmless user reaches, as [`~trl_tar.red_teaming.benign_record.benign_record`] measures it.

    `trainability` and `capability_ratio` are shares of the base model's; `base` and `model` are the runs of each."""

    learning_rate: Number
    num_steps: Count
    batch_size: Count
    trainability: Estimate
    capability_ratio: Estimate
    base: Attacks
    model: Attacks


def attack_record(
    adversary: str, seed: int, trajectory: list[Point], status: str = "completed", error: str | None = None
) -> AttackRecord:
    """Builds the record of an attack from its trajectory; `error` says which values are missing."""
    missing = [
        f"{name} at step {point['step']} is not a finite number"
        for point in trajectory
        for name, value in point.items()
        if value is None and name not in OF_THE_ATTACKER
    ]
    if missing:
        error = "; ".join(([error] if error else []) + missing[:3] + (["…"] if len(missing) > 3 else []))
    after = {k: v for k, v in trajectory[-1].items() if k not in OF_A_POINT} if trajectory else None
    candidates = [point for point in trajectory if point.get("validation_harm") is not None]
    best = max(candidates, key=lambda point: (point["validation_harm"], -point["step"]), default=None)
    return AttackRecord(adversary, seed, status, error, trajectory, after, best)
