"""Harmless fine-tuning of a defended model, compared with its base."""

from dataclasses import dataclass

from datasets import Dataset

from ..adversaries.adversary import Adversary
from ..evaluation.scores import Metric
from ..validation import coerced


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
        """Returns the training as an adversary, since the same machinery runs it as an attack."""
        return Adversary(
            "benign",
            "benign",
            learning_rate=self.learning_rate,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
        )

    def evaluation_steps(self) -> tuple[int, ...]:
        """Returns 21 steps, a grid fine enough to find the half of the gain on it."""
        return tuple(sorted({round(i * self.num_steps / 20) for i in range(21)}))
