'''Attacks from outside the package: a function of anybody's own, which `custom` of an adversary names.

    def one_step_to_the_side(model, tokenizer, data, seed, evaluate, budget, **options):
        """Changes `model` in place.

        model: what is attacked, in float32 and training mode, on its device
        tokenizer: its tokenizer
        data: name of each data set that the adversary reads → its rows, tokenised: `input_ids` and `labels`, -100 where none
        seed: of every random draw; torch's generator is seeded with it
        evaluate: `evaluate(loss)` after each optimizer step, with the attacker's own loss: counts and measures
        budget: `num_steps` at most, `batch_size` and `learning_rate`, as the adversary has them
        options: those of the adversary
        """

An adapter or hook may be left in the model: what counts is how it answers. FLOPs are counted at the model itself, 6 for each parameter
and token of a forward pass with gradients, and 2 for one without; what an attack computes elsewhere is not seen.
'''

import importlib.util
import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adversaries.adversary import Adversary
from ..adversaries.diverged import AttackDiverged
from ..fingerprints import file_sha256
from ..tasks.from_yaml import function_of, import_from_here
from .trl_attackers import AttackedModel, Progress, check_finite


ARGUMENTS = ("model", "tokenizer", "data", "seed", "evaluate", "budget")


@dataclass(frozen=True)
class Budget:
    """What an attack from outside the package may spend.

    Args:
        num_steps (`int`):
            Optimizer steps at most.
        batch_size (`int`):
            Rows of one step.
        learning_rate (`float`):
            Peak learning rate.
    """

    num_steps: int
    batch_size: int
    learning_rate: float


def module_of(custom: str) -> str:
    """The module that an attack from outside the package is in."""
    return custom.split(":")[0]


def custom_sources(adversaries: Iterable[Adversary]) -> dict[str, str]:
    """Each attack from outside the package with the SHA-256 of the file that it is in; the file is not run, unlike the package
    that holds it."""
    named = (part.custom for adversary in adversaries for part in adversary.sequence if part.custom is not None)
    return {custom: file_sha256(file_of(custom)) for custom in dict.fromkeys(named)}


def check_custom(adversary: Adversary) -> None:
    """Raises `ValueError` for an attack from outside the package that cannot be imported, or called as it is."""
    function = _function(adversary)
    try:
        inspect.signature(function).bind(**dict.fromkeys([*ARGUMENTS, *(adversary.options or {})]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Adversary {adversary.name!r} has custom={adversary.custom!r} with options={dict(adversary.options or {})!r} "
            f"({error}). Let it take {', '.join(ARGUMENTS)} and its options by name."
        ) from error


def run_custom(attacked: AttackedModel, adversary: Adversary, progress: Progress) -> None:
    """Lets an attack from outside the package change the model, and measures on the way.

    Raises:
        `ValueError`: for one that takes no step, or more than it may: either would pass for another attack.
        [`~trl_tar.adversaries.diverged.AttackDiverged`]: for a loss or a weight that is not finite.
    """
    steps = _Steps(attacked, adversary, progress)
    steps.measure_if(0 in progress.steps)
    attacked.model.train()
    torch.manual_seed(attacked.seed)
    with steps.counted():
        _function(adversary)(
            model=attacked.model,
            tokenizer=attacked.tokenizer,
            data={name: attacked.tokenised[name] for name in adversary.datasets},
            seed=attacked.seed,
            evaluate=steps.evaluate,
            budget=Budget(adversary.num_steps, adversary.batch_size, adversary.learning_rate),
            **(adversary.options or {}),
        )
    if steps.taken == 0:
        raise ValueError(
            f"Adversary {adversary.name!r} took no step: {adversary.custom} never called `evaluate`. Call it after each step."
        )
    check_finite(attacked.model, steps.taken)
    ended_early = bool(progress.trajectory) and progress.trajectory[-1]["step"] < steps.taken
    steps.measure_if(ended_early)  # what came after the last point is the attack's result


class _Steps:
    """Counts the steps and tokens of an attack, and measures when it is time to."""

    def __init__(self, attacked: AttackedModel, adversary: Adversary, progress: Progress):
        self.model, self.adversary, self.progress = attacked.model, adversary, progress
        self.taken = 0
        self._measuring = False

    def evaluate(self, loss: float) -> None:
        """Counts one step, whose loss is given."""
        if self.taken == self.adversary.num_steps:
            raise ValueError(
                f"Adversary {self.adversary.name!r} has num_steps={self.taken}, and {self.adversary.custom} took another step. "
                "Raise num_steps, or end it there."
            )
        loss = float(loss)
        if not math.isfinite(loss):
            raise AttackDiverged(f"loss {loss} at step {self.taken}")
        self.taken += 1
        self.progress.losses.append(loss)
        self.measure_if(self.taken in self.progress.steps)

    def measure_if(self, wanted: bool) -> None:
        if not wanted:
            return
        check_finite(self.model, self.taken)
        self._measuring = True
        try:
            self.progress.measure(self.model, self.taken)
        finally:
            self._measuring = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the tokens that the model reads, in the 6 FLOPs for each parameter of a step."""
        # the stack of layers below the head, which a loss on hidden states calls too
        handle = self.model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, module: torch.nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        if self._measuring:
            return
        ids = named.get("input_ids", arguments[0] if arguments else None)
        ids = named["inputs_embeds"][..., 0] if ids is None else ids
        mask = named.get("attention_mask")
        is_mask = isinstance(mask, torch.Tensor) and mask.dim() == 2
        tokens = int((mask != 0).sum()) if is_mask else ids.numel()
        self.progress.tokens += tokens if torch.is_grad_enabled() else tokens / 3


def _function(adversary: Adversary) -> Any:
    custom = str(adversary.custom)
    function = function_of("Adversary", adversary.name, custom)
    if function.__module__ != module_of(custom):
        raise ValueError(
            f"Adversary {adversary.name!r} has custom={custom!r}, which is defined in {function.__module__!r}. Name that module: "
            "the report holds the hash of the file that the attack is in."
        )
    return function


def file_of(custom: str) -> Path:
    """The file that an attack from outside the package is in."""
    import_from_here()
    try:
        spec = importlib.util.find_spec(module_of(custom))
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"The custom attack {custom!r} is not importable from here ({error}). Check its spelling."
        ) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(f"The custom attack {custom!r} is in no file that can be found from here. Check its spelling.")
    return Path(spec.origin)
