"""Booster: the model comes to where a step on harmful text gains little. Antibody's alignment stage is an option of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset

from ...data.dataset_types import check_dataset
from ...distributed.gradients import Batch
from ...files import write_json
from ...simulation.displaced import stepped
from ...validation import check_above_0, check_not_negative, coerce_numbers
from ..added_gradient_trainer import AddedGradientTrainer, cosine
from ..data_checks import check_forget_rows
from ..forget_config import ForgetConfig


STATE_FILE = "booster_state.json"


@dataclass
class BoosterConfig(ForgetConfig):
    r"""
    Configuration class for the [`BoosterTrainer`]. Its defaults are those of the paper, `presets["booster"]`;
    `BoosterConfig(…, **BoosterConfig.presets["antibody"])` is Antibody's alignment stage.

    Parameters:
        step_size (`float`, *optional*, defaults to `0.1`):
            α, length of the step on D_forget, above 0.
        target (`float`, *optional*):
            η, above 0, of Antibody: λ_forget is multiplied by an average of max(η − cos(∇f, ∇h(θ) − ∇h(θ′)), 0). By default
            it is constant, as in Booster.
        decay (`float`, *optional*, defaults to `0.99`):
            Decay of that average, in [0, 1).
        refusal_weight (`float`, *optional*, defaults to `0.0`):
            λ₂ of Antibody: weight of the cross-entropy at θ′ of `refusal_dataset`.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > `forget_weight` defaults to `5.0` instead of the `1.0` of [`ForgetConfig`].
    """

    method: ClassVar[str] = "Booster"
    # https://huggingface.co/papers/2409.01586, and https://huggingface.co/papers/2603.00498 as its released code has it
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "booster": {"step_size": 0.1, "forget_weight": 5.0, "target": None, "refusal_weight": 0.0},
        "antibody": {"step_size": 0.1, "forget_weight": 1.0, "target": 5.0, "decay": 0.99, "refusal_weight": 0.05},
    }

    step_size: float = field(default=0.1, metadata={"help": "Length of the step on D_forget."})
    target: float | None = field(default=None, metadata={"help": "What the cosine is taken from, in Antibody."})
    decay: float = field(default=0.99, metadata={"help": "Decay of Antibody's averaged weight."})
    refusal_weight: float = field(default=0.0, metadata={"help": "Weight of refusals after the step."})
    forget_weight: float = field(default=5.0, metadata={"help": "Weight of the gradients on D_forget."})

    def check(self) -> None:
        super().check()
        check_above_0(self, ("step_size",))
        check_not_negative(self, ("decay", "refusal_weight"))
        coerce_numbers(self, ("target",), float)
        for name, allowed, remedy in (
            ("decay", self.decay < 1, "at least 0 and less than 1"),
            ("target", self.target is None or 0 < self.target < math.inf, "None, or a finite number above 0"),
        ):
            if not allowed:
                raise ValueError(f"{type(self).__name__} has {name}={getattr(self, name)}. Use {remedy}.")

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "method": self.method if self.target is None else "Antibody, alignment stage"}


class BoosterTrainer(AddedGradientTrainer):
    """
    Trainer for Booster: the model comes to where a step on hazardous text gains little
    (https://huggingface.co/papers/2409.01586), while the next-token loss on retain data stays low.

        g = λ_retain ∇f(θ) + λ_forget [∇h(θ) − ∇h(θ′)]        θ′ = θ − α ∇h(θ) / ‖∇h(θ)‖

    with f the next-token cross-entropy on D_retain and h that on D_forget. The second derivative of h is left out, as there, and
    θ is what is trained: all weights, or the adapter. Booster slows an attack down; it does not hide what the model knows now.
    Differences to the released code: gradients and their norm are of the global batch, where that drops all micro-batches but
    the last, and θ is put back bitwise, where that adds the step again.

    With `target` and `refusal_weight` it is the alignment stage of Antibody (https://huggingface.co/papers/2603.00498): λ_forget is
    multiplied by λ_t, an exponential average of max(η − cos(∇f(θ), ∇h(θ) − ∇h(θ′)), 0) that starts at its first value, and
    λ₂ ∇L_LM(θ′; D_refusal) is added. The cosine is that of the released code; the paper divides the inner product by
    ‖∇h(θ) − ∇h(θ′)‖². Difference to that code: rows of D_refusal are drawn by themselves, where there each one answers a row
    of the harmful batch.

    Args:
        refusal_dataset ([`~datasets.Dataset`], *optional*):
            D_refusal, refusals of hazardous prompts, in a type that [`~trl.SFTTrainer`] takes. It is wanted with a
            `refusal_weight` above 0 alone.
        *args, **kwargs:
            As in [`ForgetTrainer`], whose errors are raised too.
    """

    _tag_names = ["trl", "trl-tar", "booster"]
    _name = "Booster"
    config_class = BoosterConfig

    def __init__(self, *args, refusal_dataset: Dataset | None = None, **kwargs):
        self.refusal_dataset = refusal_dataset
        self.averaged_weight: float | None = None  # λ_t of Antibody
        super().__init__(*args, **kwargs)
        if refusal_dataset is not None:
            self._refusal_rows = self.tokenised("refusal_dataset", refusal_dataset, "sft")
            wanted = self._rows_of_a_step(self.args.gradient_accumulation_steps)
            check_forget_rows(len(self._refusal_rows), wanted, "refusal_dataset")

    def check_data(self, args: BoosterConfig, train_dataset: Dataset) -> None:
        super().check_data(args, train_dataset)
        if (self.refusal_dataset is None) != (args.refusal_weight == 0):
            given = "none" if self.refusal_dataset is None else "one"
            raise ValueError(
                f"BoosterConfig has refusal_weight={args.refusal_weight}, and BoosterTrainer got {given} as `refusal_dataset`. "
                "Give both, or none of the two."
            )
        if self.refusal_dataset is not None:
            check_dataset("refusal_dataset", self.refusal_dataset, False, args.dataset_text_field)

    def added_gradient(self, retain: list[Batch], forget: list[Batch]) -> list[torch.Tensor]:
        """λ_forget λ_t [∇h(θ) − ∇h(θ′)] + λ₂ ∇L_LM(θ′; D_refusal)."""
        args, parameters = self.args, self.parameters
        loss, harm = self.gradient_of(forget)
        with stepped(parameters, harm, args.step_size):
            loss_after, harm_after = self.gradient_of(forget)
            refusal = self._refusal_gradient(len(forget)) if args.refusal_weight else None
        added = [g.sub_(after) for g, after in zip(harm, harm_after, strict=True)]
        self._log("forget_loss", loss)
        self._log("forget_loss/after_step", loss_after)
        weight = args.forget_weight
        if args.target is not None:
            weight *= self._averaged(max(args.target - cosine([p.grad for p in parameters], added), 0.0))
        for g in added:
            g.mul_(weight)
        for g, other in zip(added, refusal or (), strict=False):
            g.add_(other, alpha=args.refusal_weight)
        return added

    def _refusal_gradient(self, micro_batches: int) -> list[torch.Tensor]:
        loss, gradient = self.gradient_of(self.draw_batches("refusal", self._refusal_rows, micro_batches))
        self._log("refusal_loss/after_step", loss)
        return gradient

    def _averaged(self, value: float) -> float:
        """λ_t with the value of this step."""
        before, decay = self.averaged_weight, self.args.decay
        self.averaged_weight = value if before is None else decay * before + (1 - decay) * value
        self._log("forget_weight", self.averaged_weight)
        return self.averaged_weight

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.target is not None and self.args.should_save:
            write_json(Path(output_dir) / STATE_FILE, {"averaged_weight": self.averaged_weight})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.args.target is None:
            return
        file = Path(checkpoint) / STATE_FILE
        if not file.is_file():
            raise ValueError(
                f"The checkpoint {str(checkpoint)!r} has no {STATE_FILE}, which holds the averaged weight that `target` asks "
                "for. Resume from a checkpoint of the same settings."
            )
        self.averaged_weight = json.loads(file.read_text(encoding="utf-8"))["averaged_weight"]
