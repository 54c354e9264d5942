"""One attack of one model, by TRL's own trainers."""

import contextlib
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ..adversary import Adversary, draw_batches
from ..averaged_weights import AveragedWeightsMixin
from ..data import drop_fused_head, tokenised_pairs, tokenised_rows
from ..records import AttackRecord, Point, attack_record
from ..simulation import AttackDiverged, in_eval_mode, lora_config, optimizer_class_and_arguments


Evaluate = Callable[[nn.Module], dict[str, float | None]]
TOKENISED_COLUMNS = {"sft": ["input_ids", "labels"], "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"]}


def run_attack(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    datasets: Mapping[str, Dataset],
    seed: int,
    evaluate: Evaluate,
    *,
    evaluation_steps: Sequence[int] | None = None,
    max_length: int = 256,
    bf16: bool = False,
) -> AttackRecord:
    """Attacks `model` in place, with TRL's `SFTTrainer` or `DPOTrainer`; an adapter is merged at the end.

    Data order, optimizer and schedule are those of the simulated attack: with the same seed both reach the same weights.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model; it is changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        adversary ([`Adversary`]):
            The attack.
        datasets (`dict[str, Dataset]`):
            The data sets that the adversary names, raw or from [`tokenised_datasets`].
        seed (`int`):
            Seed of data order, adapter and dropout.
        evaluate (`Callable`):
            Model → value of each metric. It sees the model in evaluation mode, a Schedule-Free one at its averaged point.
        evaluation_steps (`Sequence[int]`, *optional*):
            Steps after which to evaluate; [`default_evaluation_steps`] by default.
        max_length (`int`, *optional*, defaults to `256`):
            Longest row in tokens.
        bf16 (`bool`, *optional*, defaults to `False`):
            bf16 autocast.

    Returns:
        [`AttackRecord`]: with status `"completed"` or `"diverged"`.
    """
    steps = default_evaluation_steps(adversary.num_steps) if evaluation_steps is None else evaluation_steps
    progress = Progress(evaluate, frozenset(steps), model.num_parameters())
    with rng_as_found():
        try:
            if adversary.num_steps == 0:
                check_finite(model, 0)
                progress.measure(model, 0)
            else:
                tokenised = tokenised_datasets(model, tokenizer, adversary, datasets, max_length)
                _train(model, tokenizer, adversary, attack_rows(adversary, tokenised, seed), seed, bf16, progress)
        except AttackDiverged as error:
            return attack_record(adversary.name, seed, progress.trajectory, "diverged", str(error))
    return attack_record(adversary.name, seed, progress.trajectory)


def default_evaluation_steps(num_steps: int) -> list[int]:
    """0, 1, 2, 5, 10, 20, 50, then every 50 steps, and the last one."""
    regular = [0, 1, 2, 5, 10, 20, *range(50, num_steps + 1, 50)]
    return sorted({step for step in regular if step <= num_steps} | {num_steps})


def check_finite(model: nn.Module, step: int) -> None:
    """Raises [`~trl_tar.simulation.AttackDiverged`] for a parameter that is not finite: its answers say nothing."""
    broken = next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)
    if broken is not None:
        raise AttackDiverged(f"parameter {broken!r} is not finite at step {step}")


def tokenised_datasets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    datasets: Mapping[str, Dataset],
    max_length: int,
) -> dict[str, Dataset]:
    """The adversary's data sets, prepared by the functions that prepare them for the simulated attack, and cut to
    `max_length`; `ValueError` for a pair whose prompt alone is as long."""
    columns = TOKENISED_COLUMNS[adversary.objective]
    wanted = {name: datasets[name] for name in adversary.datasets}
    if all(_is_tokenised(dataset, columns, max_length) for dataset in wanted.values()):
        return {name: dataset.select_columns(columns) for name, dataset in wanted.items()}
    with rng_as_found(), tempfile.TemporaryDirectory() as folder:
        nothing = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        args = SFTConfig(folder, max_length=max_length, **_QUIET)
        preparer = _SFTAttack(model, args, train_dataset=nothing, processing_class=tokenizer)
        drop_fused_head(model)
        if adversary.objective == "sft":
            rows = {name: tokenised_rows(preparer, dataset, name) for name, dataset in wanted.items()}
        else:
            pairs = {name: tokenised_pairs(preparer, dataset, name) for name, dataset in wanted.items()}
            rows = {name: [_cut(name, pair, max_length) for pair in each] for name, each in pairs.items()}
    return {name: Dataset.from_list(each) for name, each in rows.items()}


def _is_tokenised(dataset: Dataset, columns: Sequence[str], max_length: int) -> bool:
    """Whether nothing is left to do: SFT rows are one sequence, the two sequences of a pair begin with its prompt."""
    if not set(columns) <= set(dataset.column_names):
        return False
    if columns == TOKENISED_COLUMNS["sft"]:
        return all(len(row) <= max_length for row in dataset["input_ids"])
    return all(_longest(pair) <= max_length for pair in dataset.select_columns(columns))


def _longest(pair: Mapping[str, list[int]]) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def _cut(name: str, pair: dict[str, list[int]], max_length: int) -> dict[str, list[int]]:
    """The pair with its answers cut, as TRL's collator cuts them in the simulated attack."""
    prompt = pair["prompt_ids"]
    if len(prompt) >= max_length:
        raise ValueError(
            f"`datasets[{name!r}]` has a prompt of {len(prompt)} tokens, and max_length={max_length} leaves none of "
            "its answers. Raise max_length or remove the row."
        )
    answers = {column: pair[column][: max_length - len(prompt)] for column in ("chosen_ids", "rejected_ids")}
    return {"prompt_ids": prompt, **answers}


def attack_rows(adversary: Adversary, tokenised: Mapping[str, Dataset], seed: int) -> Dataset:
    """The rows of all batches, one after the other, in the order of [`~trl_tar.adversary.draw_batches`]."""
    sizes = {name: len(dataset) for name, dataset in tokenised.items()}
    starts, start = {}, 0
    for name, size in sizes.items():
        starts[name] = start
        start += size
    order = [starts[name] + i for batch in draw_batches(adversary, sizes, seed) for name, i in batch]
    return concatenate_datasets(list(tokenised.values())).select(order)


@dataclass
class Progress:
    """What is seen of a running attack."""

    evaluate: Evaluate
    steps: frozenset[int]
    num_parameters: int
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last point
    trajectory: list[Point] = field(default_factory=list)

    def measure(self, model: nn.Module, step: int) -> None:
        """Adds a point."""
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses.clear()
        with as_found(model):
            values = self.evaluate(model)
        self.trajectory.append({"step": step, "flops": 6 * self.num_parameters * self.tokens, "loss": loss, **values})


class _AttackMixin(AveragedWeightsMixin):
    """Keeps the loss of every step, ends a diverged attack, evaluates on the way, and tells nobody."""

    def attack_by(self, progress: Progress) -> None:
        self.progress = progress
        self._step_loss = 0.0
        self.add_callback(_Evaluation(self))

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.progress.tokens += int(inputs["attention_mask"].sum())
        loss = super().training_step(model, inputs, num_items_in_batch)  # this micro-batch's part of the mean
        self._step_loss += loss.item()
        if self.accelerator.sync_gradients:
            if not math.isfinite(self._step_loss):
                raise AttackDiverged(f"loss {self._step_loss} at step {self.state.global_step}")
            self.progress.losses.append(self._step_loss)
            self._step_loss = 0.0
        return loss

    def _send_telemetry(self) -> None:
        """Which models are attacked is nobody's business."""


class _SFTAttack(_AttackMixin, SFTTrainer):
    pass


class _DPOAttack(_AttackMixin, DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # tokenised already, which `SFTTrainer` sees for itself


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
                    trainer.progress.measure(trainer.model, step)


_QUIET = {
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_strategy": "no",
    "save_strategy": "no",
    "activation_checkpointing": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": torch.cuda.is_available(),
}


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    rows: Dataset,
    seed: int,
    bf16: bool,
    progress: Progress,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(model, tokenizer, adversary, rows, seed, folder, bf16)
        trainer.attack_by(progress)
        try:
            trainer.train()
        finally:
            drop_fused_head(trainer.model)
            if adversary.lora_r is not None and adversary.quantization is None:
                trainer.model.merge_and_unload()


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    rows: Dataset,
    seed: int,
    folder: str,
    bf16: bool,
) -> _SFTAttack | _DPOAttack:
    # the global batch in equal micro-batches; the mean over its tokens does not depend on their size
    wanted = adversary.micro_batch_size or adversary.batch_size
    micro_batch_size = next(n for n in range(wanted, 0, -1) if adversary.batch_size % n == 0)
    arguments = {
        **_QUIET,
        "bf16": bf16,
        "use_cpu": bf16 and not torch.cuda.is_available(),  # else bf16 without a GPU is refused
        "seed": seed,
        "max_steps": adversary.num_steps,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": adversary.batch_size // micro_batch_size,
        "learning_rate": adversary.learning_rate,
        "lr_scheduler_type": adversary.lr_scheduler,
        "warmup_steps": adversary.warmup_steps,
        "weight_decay": adversary.weight_decay,
        "max_grad_norm": adversary.max_grad_norm,
        "train_sampling_strategy": "sequential",
        "max_length": None,  # the rows are cut already
    }
    if adversary.objective == "dpo":
        # without precomputed log-probabilities DPOTrainer would load the reference from the model's name
        args = DPOConfig(folder, beta=adversary.beta, precompute_ref_log_probs=True, disable_dropout=False, **arguments)
        trainer_class = _DPOAttack
    else:
        args, trainer_class = SFTConfig(folder, **arguments), _SFTAttack
    trainer = trainer_class(
        model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if adversary.lora_r is None else lora_config(adversary),
    )
    trainer.optimizer_cls_and_kwargs = optimizer_class_and_arguments(adversary)  # no argument of DPOTrainer
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; on exit the mode of every module and all random number generators are as before."""
    with in_eval_mode(model), rng_as_found(), torch.no_grad():
        yield


@contextlib.contextmanager
def rng_as_found() -> Iterator[None]:
    """On exit python's, numpy's and torch's random number generators are as before."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
