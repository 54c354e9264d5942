"""The time of an outer step of [`TARTrainer`] and of the bare loop, whose steps are taken in turn."""

import math
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from scipy.stats import quantile_test
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

from ..environment import environment
from ..models.adapters import adapter_configuration
from ..models.errors import NONSENSE, reason
from ..models.loading import from_files
from ..testbed.knowledge.models import knowledge_model_path
from ..testbed.knowledge.world import KnowledgeWorld
from ..testbed.smollm2.weights import smollm2_path
from ..trainers.tar_config import TARConfig
from ..trainers.tar_trainer import TARTrainer
from .bare_loop import FIRST_TOKEN, BareLoop, vocab_size
from .cost import Cost


MODELS = {"world": lambda: knowledge_model_path(KnowledgeWorld(0)), "smollm2": smollm2_path}
# Steps that are not counted: the first makes the state of the optimizers and takes memory from the system, the second is a margin.
WARM_UP = 2


def trainer_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cost: Cost, steps: int, folder: Path, **settings: Any
) -> TARTrainer:
    """Builds a trainer whose outer step has the arithmetic of the bare loop's, on random tokens in rows of one length.

    Args:
        model ([`~transformers.PreTrainedModel`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Model to train, and its tokenizer.
        cost ([`Cost`]):
            Size of the outer step.
        steps (`int`):
            Outer steps to train for.
        folder (`Path`):
            Output folder.
        settings:
            Further settings of [`TARConfig`].

    Raises:
        `ValueError`: for a LoRA attack whose rank is above that of every matrix.
    """
    generator = torch.Generator().manual_seed(1)
    largest = max(min(p.shape) for p in model.parameters() if p.ndim == 2)
    if cost.lora_r is not None and cost.lora_r > largest:
        raise ValueError(f"lora_r is {cost.lora_r}, and no matrix of the model has a rank above {largest}. Lower it.")

    def rows(count: int) -> Dataset:
        ids = torch.randint(FIRST_TOKEN, vocab_size(model), (count, cost.length), generator=generator)
        return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})

    count = max(64, cost.batch_size * 4)  # a choice: at least four batches of rows
    defaults: dict[str, Any] = {
        "optim": "adamw_torch_fused",  # as the bare loop's
        "bf16": False,
        "per_device_train_batch_size": cost.batch_size,
    }
    if cost.attackers:
        defaults |= {"steps_per_visit": cost.num_steps, "num_attackers": cost.attackers}
    args = TARConfig(
        str(folder),
        max_steps=steps,
        tamper_resistance_batch_size=cost.batch_size,
        tamper_resistance_interval=cost.interval,
        adversaries_per_step=cost.adversaries,
        representation_loss="l2_squared",
        kl_weight=float(cost.output_anchor),
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
    """Times each outer step of the trainer, and after it one of the bare loop."""

    def __init__(self, bare: BareLoop):
        self.bare, self.ended = bare, 0.0
        self.times: list[tuple[float, float]] = []  # trainer, bare loop

    def on_train_begin(self, args, state, control, **kwargs):
        self.ended = now()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = now() - self.ended  # includes data loading, logging and all else between two steps
        start = now()
        self.bare.step()
        self.ended = now()
        self.times.append((trainer, self.ended - start))


def now() -> float:
    """The time in seconds: on a GPU that of the clock, on a CPU that of this process, which other work does not change."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def load_model(model: str, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads model and tokenizer, to the GPU where there is one.

    Args:
        model (`str`):
            A name of `MODELS`, a folder or a Hub id. If [`is_configuration`] holds for it, the model has random weights and the
            tokenizer of the world's model.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Precision of the weights.

    Raises:
        `ValueError`: for an adapter, and for what cannot be loaded.
    """
    path = str(MODELS[model]()) if model in MODELS else model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if is_configuration(path):
            torch.manual_seed(0)
            with torch.device(device):
                config = AutoConfig.from_pretrained(path, trust_remote_code=False)
                random = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
            return random, load_model("world")[1]
        if adapter_configuration(path) is not None:
            raise ValueError("it is an adapter")
        loaded = from_files(AutoModelForCausalLM, path, dtype=dtype, trust_remote_code=False).to(device)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except NONSENSE as error:
        raise ValueError(
            f"{model!r} cannot be loaded ({reason(error)}). Give a causal language model with its tokenizer, as a folder "
            "or a Hub id, or a config.json."
        ) from error
    if tokenizer.pad_token is None:  # the trainer asks for one; rows of one length are not padded
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer


def is_configuration(model: str) -> bool:
    """Tells whether a path is a `config.json`, or a folder that has one but no weights."""
    path = Path(model)
    if path.is_dir():
        return (path / CONFIG_NAME).is_file() and not [*path.glob("*.safetensors"), *path.glob("*.bin")]
    return path.is_file()


def machine() -> dict[str, Any]:
    """Versions and device as in a report, and what times depend on in addition: the processor, its cores and the threads."""
    processors = Path("/proc/cpuinfo")  # on Linux only
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count()}
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
    """Seconds of each outer step of the trainer on `model`, and of the step of the bare loop on `bare` right after it.

    `settings` are further settings of [`TARConfig`]; the bare loop takes those of [`for_bare_loop`] too."""
    trainer = trainer_for(model, tokenizer, cost, steps, folder, **settings)
    alternating = _Alternating(BareLoop(bare, cost, **for_bare_loop(settings)))
    trainer.add_callback(alternating)
    trainer.train()
    return alternating.times


def for_bare_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change the passes themselves, and not only where memory is."""
    return {name: value for name, value in settings.items() if name in ("bf16", "activation_checkpointing")}


def median_interval(values: Sequence[float]) -> dict[str, Any]:
    """Median with its exact 95 % interval from order statistics; a bound is `None` where there are too few values for it."""
    low, high = quantile_test(values, p=0.5).confidence_interval(0.95)
    bounds = {name: None if math.isnan(value) else float(value) for name, value in (("low", low), ("high", high))}
    return {"median": statistics.median(values), **bounds, "n": len(values)}
