"""TRL's trainers as attackers: they evaluate on the way, send no telemetry, and end when an attack diverges."""

import contextlib
import math
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel, PromptTuningConfig
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from ..adversaries.adversary import Adversary
from ..adversaries.diverged import AttackDiverged
from ..data.tokenisation import drop_fused_head
from ..evaluation.scores import Evaluate, Reward
from ..losses import kl_divergence_loss
from ..models.adapters import merged
from ..models.forward_passes import in_eval_mode, next_token_logits
from ..models.lora import lora_config
from ..optim.attack_optimizers import optimizer_class_and_arguments, scheduler_arguments
from ..optim.schedule_free import AveragedWeightsMixin
from ..report.records import Point
from .other_weights import as_products, in_bf16


@dataclass(frozen=True)
class AttackedModel:
    """The model under attack and what every part of a composed attack reads."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokenised: Mapping[str, Dataset]
    seed: int
    bf16: bool
    base: PreTrainedModel | None
    rewards: Mapping[str, Reward]


def check_finite(model: nn.Module, step: int) -> None:
    """Raises [`~trl_tar.adversaries.diverged.AttackDiverged`] for a parameter that is not finite: its answers say nothing."""
    broken = next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)
    if broken is not None:
        raise AttackDiverged(f"parameter {broken!r} is not finite at step {step}")


@dataclass
class Progress:
    """The trajectory of a running attack, and what its next point is made of.

    Args:
        evaluate (`Callable`):
            Model → value of each metric.
        steps (`frozenset[int]`):
            Steps after which to evaluate.
        num_parameters (`int`):
            Parameters of the model, for the FLOPs.
        tokens (`float`, *optional*, defaults to `0`):
            Tokens trained on so far.
    """

    evaluate: Evaluate
    steps: frozenset[int]
    num_parameters: int
    tokens: float = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last point
    trajectory: list[Point] = field(default_factory=list)

    def measure(self, model: nn.Module, step: int, **also: float) -> None:
        """Adds a point; `also` is noted next to the attacker's loss."""
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses.clear()
        with as_found(model):
            values = self.evaluate(model)
        self.trajectory.append(
            {"step": step, "flops": round(6 * self.num_parameters * self.tokens), "loss": loss, **also, **values}
        )


class _AttackMixin(AveragedWeightsMixin):
    """Keeps the loss of every step, ends a diverged attack, evaluates on the way, and sends no telemetry."""

    def attack_by(self, progress: Progress) -> None:
        self.progress = progress
        self._step_loss = 0.0
        self.add_callback(_Evaluation(self))

    def count(self, inputs) -> None:
        """Adds the tokens of a micro-batch."""
        self.progress.tokens += int(inputs["attention_mask"].sum())

    def noted(self) -> dict[str, float | None]:
        """Returns what is noted at each point next to the loss."""
        return {}

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.count(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)  # this micro-batch's part of the mean
        self._step_loss += loss.item()
        if self.accelerator.sync_gradients:
            if not math.isfinite(self._step_loss):
                raise AttackDiverged(f"loss {self._step_loss} at step {self.state.global_step}")
            self.progress.losses.append(self._step_loss)
            self._step_loss = 0.0
        return loss

    def _send_telemetry(self) -> None:
        """Sends nothing: which models are attacked is nobody's business."""


class SFTAttack(_AttackMixin, SFTTrainer):
    pass


class _DistillationAttack(_AttackMixin, SFTTrainer):
    """Trains towards the next-token distribution of the public base, which whoever attacks an open model has too."""

    def towards(self, base: PreTrainedModel) -> None:
        """Takes the model whose distribution the targets are."""
        self.base = base.to(self.accelerator.device).eval()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """KL(p_base ‖ p_θ), summed over the labels of this micro-batch, over their number in the whole batch."""
        labels = inputs["labels"]
        with torch.no_grad():
            targets = next_token_logits(self.base, inputs)
        logits = next_token_logits(model, inputs)[:, -labels.shape[1] :]  # without those of a soft prompt
        total, count = kl_divergence_loss(logits, targets, labels)
        return total / (count if num_items_in_batch is None else num_items_in_batch)


class _DPOAttack(_AttackMixin, DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # tokenised already, which `SFTTrainer` sees for itself


class _GRPOAttack(_AttackMixin, GRPOTrainer):
    """GRPO that notes the mean reward and the entropy of the answers, in nats, of the last step."""

    _seen = 0

    def count(self, inputs) -> None:
        """Counts nothing: `training_step` does when the answers are there.

        Generating them costs 2 FLOPs for each parameter and token, in addition to the 6 of training on them."""

    def noted(self):
        metrics = self._metrics["train"]
        return {name: metrics[name][-1] if metrics.get(name) else None for name in ("reward", "entropy")}

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        seen = self.state.num_input_tokens_seen
        self.progress.tokens += (seen - self._seen) * 8 / 6
        self._seen = seen
        return loss


_Attack = SFTAttack | _DistillationAttack | _DPOAttack | _GRPOAttack


class _Evaluation(TrainerCallback):
    def __init__(self, trainer: _AttackMixin):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._measure(0, last=False)

    def on_step_end(self, args, state, control, **kwargs):
        self._measure(state.global_step, last=state.global_step == state.max_steps)

    def _measure(self, step: int, last: bool) -> None:
        trainer = self.trainer
        wanted = step in trainer.progress.steps
        if wanted or last:
            with trainer.averaged():
                check_finite(trainer.model, step)  # a step whose loss was finite may leave weights that are not
                if wanted:
                    with _without_soft_prompt(trainer.model):
                        trainer.progress.measure(trainer.model, step, **trainer.noted())


@contextlib.contextmanager
def _without_soft_prompt(model: nn.Module) -> Iterator[None]:
    """Cuts logits and hidden states of a soft prompt off, so that a metric reads those of the text, as for any other model."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        yield
        return
    count = model.active_peft_config.num_virtual_tokens

    def cut(module, arguments, output):
        output.logits = output.logits[:, count:]
        if output.hidden_states is not None:
            output.hidden_states = tuple(states[:, count:] for states in output.hidden_states)
        return output

    handle = model.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


QUIET = {
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_strategy": "no",
    "save_strategy": "no",
    "activation_checkpointing": False,
    "gradient_checkpointing": False,
    # else the model's configuration could drown the loss of the attacker; training has none either
    "router_aux_loss_coef": 0.0,
    "dataloader_pin_memory": torch.cuda.is_available(),
}


def train(attacked: AttackedModel, adversary: Adversary, rows: Dataset, progress: Progress) -> None:
    """Trains the model in place; an adapter is merged at the end, and so are the factors of a product."""
    with tempfile.TemporaryDirectory() as folder, _held(attacked.model, adversary):
        trainer = _trainer(attacked, adversary, rows, folder)
        trainer.attack_by(progress)
        try:
            trainer.train()
        finally:
            drop_fused_head(trainer.model)
            if adversary.lora_r is not None and adversary.quantization is None:
                merged(trainer.model)


def _held(model: PreTrainedModel, adversary: Adversary) -> contextlib.AbstractContextManager[None]:
    """Holds the weights as the attack trains them."""
    if adversary.factors is not None:
        return as_products(model, adversary.factors)
    return in_bf16(model) if adversary.pure_bf16 else contextlib.nullcontext()


def _trainer(attacked: AttackedModel, adversary: Adversary, rows: Dataset, folder: str) -> _Attack:
    arguments = {**_arguments(attacked, adversary), "output_dir": folder}
    common = {"processing_class": attacked.tokenizer, "peft_config": _peft_config(adversary, attacked.model)}
    cut_already = {"max_length": None, "train_sampling_strategy": "sequential"}
    trainer: _Attack
    match adversary.objective:
        case "sft":
            trainer = SFTAttack(
                attacked.model, args=SFTConfig(**cut_already, **arguments), train_dataset=rows, **common
            )
        case "distillation":
            assert attacked.base is not None  # check_red_team
            trainer = _DistillationAttack(
                attacked.model, args=SFTConfig(**cut_already, **arguments), train_dataset=rows, **common
            )
            trainer.towards(attacked.base)
        case "dpo":
            # without precomputed log-probabilities DPOTrainer would load the reference from the model's name
            arguments |= {"beta": adversary.beta, "precompute_ref_log_probs": True, "disable_dropout": False}
            trainer = _DPOAttack(
                attacked.model, args=DPOConfig(**cut_already, **arguments), train_dataset=rows, **common
            )
        case "grpo":
            assert adversary.reward is not None  # checked by Adversary
            config = GRPOConfig(
                num_generations=adversary.num_generations,
                max_completion_length=adversary.max_completion_length,
                **arguments,
            )
            reward = attacked.rewards[adversary.reward]
            trainer = _GRPOAttack(attacked.model, reward, args=config, train_dataset=rows, **common)
    trainer.optimizer_cls_and_kwargs = optimizer_class_and_arguments(
        adversary, trainer.model
    )  # no argument of DPOTrainer
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(attacked: AttackedModel, adversary: Adversary) -> dict[str, Any]:
    # the global batch in equal micro-batches; the mean over its tokens does not depend on their size
    wanted = adversary.micro_batch_size or adversary.batch_size
    micro_batch_size = next(n for n in range(wanted, 0, -1) if adversary.batch_size % n == 0)
    return {
        **QUIET,
        "bf16": attacked.bf16,
        "use_cpu": attacked.bf16 and not torch.cuda.is_available(),  # else bf16 without a GPU is refused
        "seed": attacked.seed,
        "max_steps": adversary.num_steps,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": adversary.batch_size // micro_batch_size,
        "learning_rate": adversary.learning_rate,
        "lr_scheduler_type": adversary.lr_scheduler,
        "lr_scheduler_kwargs": scheduler_arguments(adversary),
        "warmup_steps": adversary.warmup_steps,
        "weight_decay": adversary.weight_decay,
        "max_grad_norm": adversary.max_grad_norm,
    }


def _peft_config(adversary: Adversary, model: PreTrainedModel) -> PeftConfig | None:
    if adversary.num_virtual_tokens is not None:
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adversary.num_virtual_tokens)
    return None if adversary.lora_r is None else lora_config(adversary, model)


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode; on exit the mode of every module and all random number generators are as before."""
    with in_eval_mode(model), rng_as_found(), torch.no_grad():
        yield


@contextlib.contextmanager
def rng_as_found() -> Iterator[None]:
    """Puts Python's, NumPy's and torch's random number generators back on exit."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
