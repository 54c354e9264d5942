"""What an outer step costs beside its arithmetic: [`TARTrainer`] and the bare loop, step by step in turn."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from scipy.stats import quantile_test
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging

from .adversary import Adversary
from .ledger import measure_memory
from .red_teaming.runner import environment
from .tar_config import TARConfig
from .tar_trainer import TARTrainer
from .testbed import KnowledgeWorld, knowledge_model_path
from .testbed.smollm2 import smollm2_path


MODELS = {"world": lambda: knowledge_model_path(KnowledgeWorld(0)), "smollm2": smollm2_path}
MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "offload": {"offload": True},
    "offload, optimizer in backward": {"offload": True, "optimizer_in_backward": True},
}
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


class BareLoop:
    """An outer step with nothing around it: no trainer, no snapshot, no checks; the weights are not put back.

    Its losses are written out, so that what ours cost more is counted too."""

    def __init__(self, model: PreTrainedModel, cost: Cost):
        self.model, self.cost = model, cost
        self.outer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """One forward pass of the reference, then the retain gradient, the attacks, and the step."""
        cost, model = self.cost, self.model
        ids = self._rows()
        with torch.no_grad():
            reference = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        out = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        anchor = [(h - r).pow(2).sum(-1).mean() for h, r in zip(out.hidden_states, reference, strict=True)]
        (next_token_loss(out.logits, ids) + torch.stack(anchor).mean()).backward()
        outer = {p: p.grad for p in model.parameters()}
        for _ in range(cost.adversaries):
            self._attack(outer)
        for p, gradient in outer.items():
            p.grad = gradient
        self.outer.step()
        self.outer.zero_grad()

    def _attack(self, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        x_tr = self._rows()
        inner = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        for step in range(self.cost.num_steps):
            ids = self._rows()
            inner.zero_grad()
            next_token_loss(self.model(input_ids=ids, use_cache=False).logits, ids).backward()
            inner.step()
            if (step + 1) % self.cost.interval == 0:
                log_p = self.model(input_ids=x_tr, use_cache=False).logits[:, :-1].log_softmax(-1)
                gradients = torch.autograd.grad((log_p.exp() * log_p).sum(-1).mean(), list(outer))
                for total, gradient in zip(outer.values(), gradients, strict=True):
                    total.add_(gradient)

    def _rows(self) -> torch.Tensor:
        size = (self.cost.batch_size, self.cost.length)
        return torch.randint(5, self.model.config.get_text_config().vocab_size, size, generator=self.generator).to(
            self.model.device
        )


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean over all positions but the last."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def trainer_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cost: Cost, steps: int, folder: Path, **settings: Any
) -> TARTrainer:
    """A trainer whose outer step has the same arithmetic: rows of random tokens, all of one length.

    `settings` are further ones of its [`TARConfig`]."""
    generator = torch.Generator().manual_seed(1)

    def rows(count: int) -> Dataset:
        ids = torch.randint(5, model.config.get_text_config().vocab_size, (count, cost.length), generator=generator)
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
    adversary = Adversary(
        "bench",
        "bench",
        learning_rate=1e-6,
        num_steps=cost.num_steps,
        batch_size=cost.batch_size,
        optimizer=cost.optimizer,
        lora_r=cost.lora_r,
    )
    trainer = TARTrainer(
        model,
        args,
        train_dataset=rows(count),
        tamper_resistance_dataset=rows(count),
        adversaries=[adversary],
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
        self.ended = _now()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = _now() - self.ended  # with data loading, logging and all else between two steps
        start = _now()
        self.bare.step()
        self.ended = _now()
        self.times.append((trainer, self.ended - start))


def _now() -> float:
    """Seconds of this process on a CPU, which other work does not move; on a GPU those of the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(model: str, cost: Cost, steps: int = 20) -> dict[str, Any]:
    """Time of an outer step of the trainer as a multiple of the bare loop's, and both peaks of memory.

    Args:
        model (`str`):
            `"world"` (0.2 M parameters), `"smollm2"`, a folder or a Hub id.
        cost ([`Cost`]):
            Size of a step.
        steps (`int`, *optional*, defaults to `20`):
            Pairs of steps that are counted.

    Returns:
        `dict`: `ratio` (median with its 95 % interval over pairs), `seconds` of both, `peak_memory` of both in bytes, each in
        a process of its own, and their ratio, `state` (memory mode → kind → bytes per parameter on `device` and `host`, at
        the last step of an attack), `num_parameters`, `passes`, `cost` and `environment`.
    """
    torch.set_num_threads(1)
    times = _times(model, cost, steps)
    peaks = {name: _in_own_process(_peak, name, model, cost) for name in ("trainer", "bare_loop")}
    return {
        "model": model,
        "num_parameters": load_model(model)[0].num_parameters(),
        "cost": asdict(cost),
        "passes": cost.passes,
        "ratio": median_interval([trainer / bare for trainer, bare in times]),
        "seconds": {
            "trainer": statistics.median(trainer for trainer, _ in times),
            "bare_loop": statistics.median(bare for _, bare in times),
        },
        "peak_memory": {**peaks, "ratio": peaks["trainer"] / peaks["bare_loop"]},
        "state": {name: _in_own_process(_state, model, cost, settings) for name, settings in MODES.items()},
        "environment": environment(),
    }


def load_model(model: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a name of `MODELS`, a folder or a Hub id, in float32, on the GPU where there is one."""
    path = str(MODELS[model]()) if model in MODELS else model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32").to(device), AutoTokenizer.from_pretrained(path)


def _times(model: str, cost: Cost, steps: int) -> list[tuple[float, float]]:
    loaded, tokenizer = load_model(model)
    with tempfile.TemporaryDirectory() as folder:
        times = time_in_turn(loaded, deepcopy(loaded), tokenizer, cost, steps + WARM_UP, Path(folder))
    return times[WARM_UP:]


def time_in_turn(
    model: PreTrainedModel,
    bare: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cost: Cost,
    steps: int,
    folder: Path,
) -> list[tuple[float, float]]:
    """Seconds of each outer step: of the trainer on `model`, and of the bare loop on `bare` right after it."""
    alternating = _Alternating(BareLoop(bare, cost))
    trainer = trainer_for(model, tokenizer, cost, steps, folder)
    trainer.add_callback(alternating)
    trainer.train()
    return alternating.times


def _in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak(name: str, model: str, cost: Cost, steps: int = 2) -> int:
    """Bytes: resident in this process at most, or allocated on the GPU at most."""
    loaded, tokenizer = _quietly_loaded(model)
    if name == "bare_loop":
        bare = BareLoop(loaded, cost)
        for _ in range(steps):
            bare.step()
    else:
        with tempfile.TemporaryDirectory() as folder:
            trainer_for(loaded, tokenizer, cost, steps, Path(folder)).train()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # not resource.getrusage: its peak of a new process begins with that of the process which started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def _state(model: str, cost: Cost, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Kind → place → bytes per parameter."""
    loaded, tokenizer = _quietly_loaded(model)
    count = loaded.num_parameters()
    with tempfile.TemporaryDirectory() as folder:
        kinds, _ = measure_memory(trainer_for(loaded, tokenizer, cost, 2, Path(folder), **settings))
    return {kind: {place: bytes / count for place, bytes in places.items()} for kind, places in kinds.items()}


def _quietly_loaded(model: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """In a process of its own."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    disable_progress_bars()
    return load_model(model)


def median_interval(values: Sequence[float]) -> dict[str, Any]:
    """Median with its exact 95 % interval, from order statistics; `None` for bounds that so few values do not have."""
    low, high = quantile_test(values, p=0.5).confidence_interval(0.95)
    bounds = {name: None if value != value else float(value) for name, value in (("low", low), ("high", high))}
    return {"median": statistics.median(values), **bounds, "n": len(values)}
