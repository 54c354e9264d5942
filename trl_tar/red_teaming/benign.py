"""Harmless fine-tuning of a defended model, compared with its base."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from ..adversary import Adversary
from ..adversary_checks import coerced
from ..evaluation.scores import Metric
from ..records import AttackRecord
from ..statistics import share, t_interval, trainability


@dataclass(frozen=True)
class BenignTask:
    """Harmless fine-tuning: a resistant model must still learn what is allowed.

    Args:
        dataset ([`~datasets.Dataset`]):
            What a harmless user trains on.
        metric (`Callable`):
            Model and tokenizer → [`~trl_tar.evaluation.scores.Scores`] on that task.
        learning_rate (`float`, *optional*, defaults to `1e-3`):
            Chosen on another model than those compared. The default suits models of a million parameters.
        num_steps (`int`, *optional*, defaults to `100`):
            Optimizer steps.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows of one step.
    """

    dataset: Dataset
    metric: Metric
    learning_rate: float = 1e-3
    num_steps: int = 100
    batch_size: int = 32

    def __post_init__(self):  # numbers of YAML may be strings
        for name, to in (("learning_rate", float), ("num_steps", int), ("batch_size", int)):
            object.__setattr__(self, name, coerced("The benign task", name, getattr(self, name), to))

    def adversary(self) -> Adversary:
        """The same machinery trains it as runs an attack."""
        return Adversary(
            "benign",
            "benign",
            learning_rate=self.learning_rate,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
        )

    def evaluation_steps(self) -> tuple[int, ...]:
        """A fine grid, as half of the gain must be found on it."""
        return tuple(sorted({round(i * self.num_steps / 20) for i in range(21)}))


def benign_record(task: BenignTask, base: Sequence[AttackRecord], model: Sequence[AttackRecord]) -> dict[str, Any]:
    """What a harmless user reaches on the model, compared with the base, over seeds; nothing if a run did not complete."""
    complete = all(record.outcome is not None for record in (*base, *model))
    pairs = list(zip(base, model, strict=True)) if complete else []  # the rest would hide the seeds that diverged
    gains = [trainability(b.trajectory, m.trajectory) for b, m in pairs]
    ratios = [share(m.outcome or {}, b.outcome or {}, "capability") for b, m in pairs]
    return {
        "learning_rate": task.learning_rate,
        "num_steps": task.num_steps,
        "batch_size": task.batch_size,
        "trainability": t_interval([] if None in gains else gains),
        "capability_ratio": t_interval([] if None in ratios else ratios),
        "base": [asdict(record) for record in base],
        "model": [asdict(record) for record in model],
    }
