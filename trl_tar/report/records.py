"""What an attack leaves behind: plain records that become JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


Point = dict[str, Any]  # step, flops, loss and one value for each metric
OF_THE_ATTACKER = ("loss", "reward", "entropy")  # what a point may hold beside step, flops and metrics
OF_A_POINT = ("step", "flops", *OF_THE_ATTACKER)
STATUSES = ("completed", "diverged", "failed")


@dataclass(frozen=True)
class AttackRecord:
    """One attack of one model.

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
    """

    adversary: str
    seed: int
    status: str = "completed"
    error: str | None = None
    trajectory: list[Point] = field(default_factory=list)
    after: dict[str, float | None] | None = None
    best: Point | None = None

    @property
    def outcome(self) -> dict[str, float | None] | None:
        """`after` of a completed attack: any other ended somewhere on its way, which shows no resistance."""
        return self.after if self.status == "completed" else None

    @property
    def finished(self) -> bool:
        """Completed, with a number for the harm that came back."""
        return self.outcome is not None and self.outcome["harm"] is not None


@dataclass(frozen=True)
class ModelRecord:
    """One model: what it is, what it can do, and what became of it under each attack.

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
            Of the values in `before`, over questions clustered by group; `None` for fewer than two clusters.
    """

    model: dict[str, Any]
    before: dict[str, float | None]
    attacks: list[AttackRecord]
    zero_step: dict[str, float | None] = field(default_factory=dict)
    standard_errors: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "ModelRecord":
        """From its JSON."""
        return cls(**{**record, "attacks": [AttackRecord(**attack) for attack in record["attacks"]]})


def attack_record(
    adversary: str, seed: int, trajectory: list[Point], status: str = "completed", error: str | None = None
) -> AttackRecord:
    """Record of an attack from its trajectory; says in `error` which values are missing."""
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
