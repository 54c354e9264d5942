"""An outer step of [`TARTrainer`] and the bare loop, step by step in turn: what is measured in `bench_record.py`."""

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import get_peft_model
from safetensors import SafetensorError
from scipy.stats import quantile_test
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import CONFIG_NAME

from .adversary import Adversary
from .configuration_checks import NONSENSE
from .data import whole_model
from .red_teaming.runner import environment
from .simulation import lora_config, optimizer_class_and_arguments
from .tar_config import TARConfig
from .tar_trainer import TARTrainer
from .testbed import KnowledgeWorld, knowledge_model_path
from .testbed.smollm2 import smollm2_path


MODELS = {"world": lambda: knowledge_model_path(KnowledgeWorld(0)), "smollm2": smollm2_path}
WARM_UP = 2  # steps that are not counted: memory, and the state of optimizers, is made there


@dataclass(frozen=True)
class Cost:
    """The size of an outer step.

    Args:
        batch_size (`int`, *optional*, defaults to `4`):
            Rows of D_retain, of the adversary and of D_TR alike.
        length (`int`, *optional*, defaults to `64`):
            Tokens of each row.
        num_steps (`int`, *optional*, defaults to `8`):
            K.
        interval (`int`, *optional*, defaults to `4`):
            Attack steps from one tamper-resistance gradient to the next.
        adversaries (`int`, *optional*, defaults to `1`):
            Attacks in each outer step.
        lora_r (`int`, *optional*):
            Rank of a LoRA adversary; all parameters by default.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            Of the attack, as in [`Adversary`].
    """

    batch_size: int = 4
    length: int = 64
    num_steps: int = 8
    interval: int = 4
    adversaries: int = 1
    lora_r: int | None = None
    optimizer: str = "adamw"

    @property
    def passes(self) -> int:
        """Forward and backward passes of an outer step."""
        return self.adversaries * (self.num_steps + self.num_steps // self.interval) + 1

    @property
    def tokens(self) -> int:
        """Of all forward and backward passes of an outer step."""
        return self.passes * self.batch_size * self.length

    @property
    def adversary(self) -> Adversary:
        """Each attack."""
        return Adversary(
            "bench",
            "bench",
            learning_rate=1e-6,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lora_r=self.lora_r,
        )


class BareLoop:
    """An outer step with nothing around it: no trainer, no snapshot, no checks; the weights are not put back.

    Its losses are written out, so that what ours cost more is counted too. What is needed no more is freed at once.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model; a LoRA attack keeps its adapter from one outer step to the next.
        cost ([`Cost`]):
            Size of a step.
        bf16 (`bool`, *optional*, defaults to `False`), activation_checkpointing (`bool`, *optional*, defaults to `False`):
            As in [`TARConfig`].
    """

    def __init__(self, model: PreTrainedModel, cost: Cost, bf16: bool = False, activation_checkpointing: bool = False):
        self.cost, self.autocast = cost, torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
        self.whole = self.attacked = list(model.parameters())
        self.model: Any = model.train()  # of peft, with an adapter
        self.vocab_size = vocab_size(model)
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if cost.lora_r is not None:
            self.model = get_peft_model(model, lora_config(cost.adversary, model))
            self.attacked = [p for p in self.model.parameters() if p.requires_grad]
        self._freeze(False)
        self.outer = torch.optim.AdamW(self.whole, lr=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """One forward pass of the reference, then the retain gradient, the attacks, and the step."""
        outer = self._retain()
        for _ in range(self.cost.adversaries):
            self._attack(outer)
        for p, gradient in outer.items():
            p.grad = gradient
        self.outer.step()
        self.outer.zero_grad()

    def _retain(self) -> dict[nn.Parameter, torch.Tensor]:
        ids = self._rows()
        with self.model.disable_adapter() if self.cost.lora_r is not None else nullcontext():
            with torch.no_grad(), self.autocast:
                reference = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            with self.autocast:
                out = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
                anchor = [(h - r).pow(2).sum(-1).mean() for h, r in zip(out.hidden_states, reference, strict=True)]
                loss = next_token_loss(out.logits, ids) + torch.stack(anchor).mean()
            loss.backward()
        outer = {p: p.grad for p in self.whole if p.grad is not None}
        for p in outer:
            p.grad = None
        return outer

    def _attack(self, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        x_tr = self._rows()
        optimizer, arguments = optimizer_class_and_arguments(self.cost.adversary)
        inner = optimizer(self.attacked, **arguments)
        for step in range(self.cost.num_steps):
            ids = self._rows()
            self._freeze(True)
            with self.autocast:
                loss = next_token_loss(self.model(input_ids=ids, use_cache=False).logits, ids)
            loss.backward()
            self._freeze(False)
            inner.step()
            inner.zero_grad()
            if (step + 1) % self.cost.interval == 0:
                self._judge(x_tr, outer)

    def _judge(self, x_tr: torch.Tensor, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        with self.autocast:
            log_p = self.model(input_ids=x_tr, use_cache=False).logits[:, :-1].log_softmax(-1)
            loss = (log_p.exp() * log_p).sum(-1).mean()
        gradients = torch.autograd.grad(loss, list(outer))
        for total, gradient in zip(outer.values(), gradients, strict=True):
            total.add_(gradient)

    def _freeze(self, frozen: bool) -> None:
        """What a LoRA attack does not train takes no gradient in its passes."""
        if self.cost.lora_r is not None:
            for p in self.whole:
                p.requires_grad_(not frozen)

    def _rows(self) -> torch.Tensor:
        size = (self.cost.batch_size, self.cost.length)
        return torch.randint(5, self.vocab_size, size, generator=self.generator).to(self.model.device)


def vocab_size(model: PreTrainedModel) -> int:
    """Tokens that it embeds, wherever its configuration has the number."""
    return len(model.get_input_embeddings().weight)


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean over all positions but the last."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def trainer_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cost: Cost, steps: int, folder: Path, **settings: Any
) -> TARTrainer:
    """A trainer whose outer step has the same arithmetic: rows of random tokens, all of one length.

    `settings` are further ones of its [`TARConfig`]. `ValueError` for a LoRA attack of a rank that no matrix has."""
    generator = torch.Generator().manual_seed(1)
    largest = max(min(p.shape) for p in model.parameters() if p.ndim == 2)
    if cost.lora_r is not None and cost.lora_r > largest:
        raise ValueError(f"lora_r is {cost.lora_r}, and no matrix of the model has a rank above {largest}. Lower it.")

    def rows(count: int) -> Dataset:
        ids = torch.randint(5, vocab_size(model), (count, cost.length), generator=generator)
        return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})

    count = max(64, cost.batch_size * 4)
    defaults: dict[str, Any] = {
        "optim": "adamw_torch_fused",  # as the bare loop's
        "bf16": False,
        "per_device_train_batch_size": cost.batch_size,
    }
    args = TARConfig(
        str(folder),
        max_steps=steps,
        tamper_resistance_batch_size=cost.batch_size,
        tamper_resistance_interval=cost.interval,
        adversaries_per_step=cost.adversaries,
        representation_loss="l2_squared",
        max_length=cost.length,
        learning_rate=1e-5,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        logging_steps=10,
        disable_tqdm=True,
        **{**defaults, **settings},
    )
    trainer = TARTrainer(
        model,
        args,
        train_dataset=rows(count),
        tamper_resistance_dataset=rows(count),
        adversaries=[cost.adversary],
        adversary_datasets={"bench": rows(count)},
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Alternating(TrainerCallback):
    """After each outer step of the trainer one of the bare loop, both timed."""

    def __init__(self, bare: BareLoop):
        self.bare, self.ended = bare, 0.0
        self.times: list[tuple[float, float]] = []  # trainer, bare loop

    def on_train_begin(self, args, state, control, **kwargs):
        self.ended = now()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = now() - self.ended  # with data loading, logging and all else between two steps
        start = now()
        self.bare.step()
        self.ended = now()
        self.times.append((trainer, self.ended - start))


def now() -> float:
    """Seconds of this process on a CPU, which other work does not move; on a GPU those of the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def load_model(model: str, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the GPU where there is one; `ValueError` where they cannot be loaded.

    Args:
        model (`str`):
            A name of `MODELS`, a folder or a Hub id; of what [`is_configuration`] the weights are random, and the tokenizer is
            that of the world's model.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Of the weights.
    """
    path = str(MODELS[model]()) if model in MODELS else model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if is_configuration(path):
            torch.manual_seed(0)
            with torch.device(device):
                config = AutoConfig.from_pretrained(path, trust_remote_code=False)
                made = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
            return made, load_model("world")[1]
        if whole_model(path) != path:
            raise ValueError("it is an adapter")
        loaded = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False).to(device)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (*NONSENSE, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{model!r} cannot be loaded ({reason.rstrip('.')}). Give a causal language model with its tokenizer, as a folder "
            "or a Hub id, or a config.json."
        ) from error
    if tokenizer.pad_token is None:  # rows are of one length: nothing is padded
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer


def is_configuration(model: str) -> bool:
    """Whether it is a `config.json`, or a folder that has one and no weights."""
    path = Path(model)
    if path.is_dir():
        return (path / CONFIG_NAME).is_file() and not [*path.glob("*.safetensors"), *path.glob("*.bin")]
    return path.is_file()


def machine() -> dict[str, Any]:
    """Versions and device, as in a report, and what times depend on beside them."""
    processors = Path("/proc/cpuinfo")  # of Linux
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = {"cpu": named[0] if named else platform.machine(), "cores": os.cpu_count()}
    return {**environment(), **cpu, "threads": torch.get_num_threads()}


def time_in_turn(
    model: PreTrainedModel,
    bare: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cost: Cost,
    steps: int,
    folder: Path,
    **settings: Any,
) -> list[tuple[float, float]]:
    """Seconds of each outer step: of the trainer on `model`, and of the bare loop on `bare` right after it.

    `settings` are further ones of [`TARConfig`]; those that are no matter of memory are the bare loop's too."""
    trainer = trainer_for(model, tokenizer, cost, steps, folder, **settings)
    alternating = _Alternating(BareLoop(bare, cost, **for_bare_loop(settings)))
    trainer.add_callback(alternating)
    trainer.train()
    return alternating.times


def for_bare_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that change the passes themselves."""
    return {name: value for name, value in settings.items() if name in ("bf16", "activation_checkpointing")}


def median_interval(values: Sequence[float]) -> dict[str, Any]:
    """Median with its exact 95 % interval, from order statistics; `None` for bounds that so few values do not have."""
    low, high = quantile_test(values, p=0.5).confidence_interval(0.95)
    bounds = {name: None if value != value else float(value) for name, value in (("low", low), ("high", high))}
    return {"median": statistics.median(values), **bounds, "n": len(values)}
