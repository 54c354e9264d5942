"""A record of what an outer step costs: time, memory and FLOP/s of [`TARTrainer`] next to those of the bare loop."""

import gc
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from torch.profiler import profile, record_function
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import logging

from .bare_loop import BareLoop
from .cost import Cost
from .memory_ledger import measure_memory
from .mode import Mode
from .plan import plan
from .timing import (
    MODELS,
    WARM_UP,
    for_bare_loop,
    is_configuration,
    load_model,
    machine,
    median_interval,
    time_in_turn,
    trainer_for,
)
from .trace_figure import PICTURES, STEP, annotated, write_picture


MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "offload": {"offload": True},
    "offload, optimizer in backward": {"offload": True, "optimizer_in_backward": True},
}
# part of a device's name → its FLOP/s for dense matrices in bfloat16, and in float32 without TF32, from NVIDIA's data sheets;
# of two parts that match, the first counts
DEVICE_FLOPS = {
    "H200 NVL": (835e12, 60e12),
    "H200": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
}
# Environment under which glibc returns freed memory to the system at once, so that resident memory is memory in use. 64 KiB is
# small next to the tensors of any model that is measured.
RETURNED_AT_ONCE = {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")}


def measure(
    model: str,
    cost: Cost,
    steps: int = 20,
    *,
    dtype: str = "float32",
    device_flops: float | None = None,
    on_part: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures the time of the trainer's outer step as a multiple of the bare loop's, its share of the device's FLOP/s, and memory.

    Args:
        model (`str`):
            `"world"` (0.2 M parameters), `"smollm2"`, a folder or a Hub id. A `config.json`, or a folder without weights, gives
            a model with random weights.
        cost ([`Cost`]):
            Size of the outer step.
        steps (`int`, *optional*, defaults to `20`):
            Pairs of steps that are counted, one of the trainer and one of the bare loop in each.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Precision of the weights; `"bfloat16"` needs `bf16=True`.
        device_flops (`float`, *optional*):
            Floating-point operations per second of the device. By default those of `DEVICE_FLOPS`, if the device is there.
        on_part (`Callable`, *optional*):
            Called with the record so far after each part, as a part takes minutes on a large model.
        settings:
            Further settings of [`TARConfig`], such as `bf16`, `offload`, `optimizer_in_backward` or `activation_checkpointing`.

    Returns:
        `dict`: `ratio` (median over the pairs with its 95 % interval), `seconds` of both (medians), `tokens_per_second` of
        the trainer ([`Cost.tokens`] by its seconds), `utilisation` (`flops` of an outer step without what checkpointing
        repeats, `device_flops`, and `mfu`, their quotient by the seconds; `None` where the device's FLOP/s are unknown),
        `peak_memory` in bytes of both, each in its own process (on a CPU without what its imports take), and their ratio,
        `state` (memory mode → kind → bytes per parameter on `device` and `host`, at the last step of an attack), `weights`
        (`"random"` or `"loaded"`), `num_parameters`, `passes`, `cost`, `dtype`, `settings` and `environment`.

    Raises:
        `ValueError`: for a model that cannot be loaded, and for a step that the device's memory does not hold.
    """
    torch.set_num_threads(1)
    run = (model, cost, dtype, settings)
    device_flops = device_flops or known_flops(bool(settings.get("bf16")))
    count, flops, times = _in_own_process(_times, *run, steps, device_flops is not None)
    seconds = {name: statistics.median(pair[i] for pair in times) for i, name in enumerate(("trainer", "bare_loop"))}
    state: dict[str, Any] = {}
    record = {
        "model": model,
        "weights": "random" if model not in MODELS and is_configuration(model) else "loaded",
        "num_parameters": count,
        "cost": asdict(cost),
        "dtype": dtype,
        "settings": settings,
        "passes": cost.passes,
        "ratio": median_interval([trainer / bare for trainer, bare in times]),
        "seconds": seconds,
        "tokens_per_second": cost.tokens / seconds["trainer"],
        "utilisation": None
        if device_flops is None or flops is None
        else {"flops": flops, "device_flops": device_flops, "mfu": flops / seconds["trainer"] / device_flops},
        "peak_memory": None,
        "state": state,
        "environment": machine(),
    }
    on_part = on_part or (lambda record: None)
    on_part(record)
    record["peak_memory"] = peak_memory(*run)
    on_part(record)
    modes = MODES if settings.keys().isdisjoint(MODES["offload, optimizer in backward"]) else {"as asked": {}}
    for name, mode in modes.items():
        state[name] = _in_own_process(_state, model, cost, dtype, {**settings, **mode})
        on_part(record)
    return record


def known_flops(bf16: bool) -> float | None:
    """FLOP/s of the GPU, if it is one of `DEVICE_FLOPS`; `None` for another GPU, a part of one (MIG), and a CPU."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    matching = [flops for part, flops in DEVICE_FLOPS.items() if part in name and "MIG" not in name]
    return matching[0][0 if bf16 else 1] if matching else None


def peak_memory(
    model: str, cost: Cost, dtype: str = "float32", settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Peak memory of `trainer` and `bare_loop`, in bytes, each in its own process, and their `ratio`.

    The arguments are those of [`measure`]."""
    run = (model, cost, dtype, dict(settings or {}))
    with _set(RETURNED_AT_ONCE):
        peaks = {name: _in_own_process(_peak, name, *run) for name in ("trainer", "bare_loop")}
    return {**peaks, "ratio": peaks["trainer"] / peaks["bare_loop"]}


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment for the processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in variables if name in before})


def _in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"The device is too small for this step ({reason.rstrip('.')}). Use --offload, or a smaller step or model."
            ) from error


def _times(
    model: str, cost: Cost, dtype: str, settings: dict[str, Any], steps: int, counted: bool
) -> tuple[int, float | None, list[tuple[float, float]]]:
    """Returns the number of parameters, the FLOPs of an outer step if `counted`, and the seconds of each pair of steps."""
    loaded, tokenizer = _quietly_loaded(model, dtype)
    # utilisation counts only the operations that the method needs, not those that checkpointing repeats to save memory
    flops = _flops(loaded.config, cost) if counted else None
    with tempfile.TemporaryDirectory() as folder:
        times = time_in_turn(loaded, deepcopy(loaded), tokenizer, cost, steps + WARM_UP, Path(folder), **settings)
    return loaded.num_parameters(), flops, times[WARM_UP:]


def _flops(config: PretrainedConfig, cost: Cost) -> float | None:
    """FLOPs of an outer step; `None` for a model that cannot be planned, whose time and memory are measured all the same."""
    try:
        return plan(config, cost, Mode(cost.lora_r, bf16=False)).flops
    except ValueError as error:
        warnings.warn(f"FLOPs are not told: {error}", stacklevel=2)
        return None


def _peak(name: str, model: str, cost: Cost, dtype: str, settings: dict[str, Any]) -> int:
    """Peak memory of this process, in bytes: allocated on the GPU, or without one resident, less what imports take."""
    if torch.cuda.is_available():
        _train(name, model, cost, dtype, settings)
        return torch.cuda.max_memory_allocated()
    # a tiny run first, so that everything is imported before memory is read
    _train(name, "world", Cost(2, 8, num_steps=1, interval=1, lora_r=cost.lora_r and 1), "float32", {})
    gc.collect()
    before = _resident("VmRSS")
    _train(name, model, cost, dtype, settings)
    return _resident("VmHWM") - before


def _train(name: str, model: str, cost: Cost, dtype: str, settings: dict[str, Any], steps: int = 2) -> None:
    """Runs outer steps of the `"trainer"` or of the `"bare_loop"`, and nothing else."""
    loaded, tokenizer = _quietly_loaded(model, dtype)
    if name == "bare_loop":
        bare = BareLoop(loaded, cost, **for_bare_loop(settings))
        for _ in range(steps):
            bare.step()
    else:
        with tempfile.TemporaryDirectory() as folder:
            trainer_for(loaded, tokenizer, cost, steps, Path(folder), **settings).train()


def _resident(field: str) -> int:
    """Resident memory of this process, in bytes: `"VmRSS"` is the present value, `"VmHWM"` the peak."""
    # not resource.getrusage, whose peak a new process inherits from the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def _state(model: str, cost: Cost, dtype: str, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Kind of state → `"device"` or `"host"` → bytes per parameter, at the last step of an attack."""
    loaded, tokenizer = _quietly_loaded(model, dtype)
    count = loaded.num_parameters()
    with tempfile.TemporaryDirectory() as folder:
        kinds, _ = measure_memory(trainer_for(loaded, tokenizer, cost, 2, Path(folder), **settings))
    return {kind: {place: bytes / count for place, bytes in places.items()} for kind, places in kinds.items()}


def _quietly_loaded(model: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads model and tokenizer in a worker process, which is left to one thread and without progress bars."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    disable_progress_bars()
    return load_model(model, dtype)


class _Traced(TrainerCallback):
    """Profiles one outer step, the first after the warm-up."""

    def __init__(self) -> None:
        self.profile = profile()  # of the CPU, and of the GPU where there is one
        self.step = record_function(STEP)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.profile.start()
            self.step.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP + 1:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # the step ends when the GPU has finished it
            self.step.__exit__(None, None, None)
            self.profile.stop()


def write_trace(model: str, cost: Cost, file: Path, *, dtype: str = "float32", **settings: Any) -> None:
    """Writes one outer step of the trainer as a Chrome trace (for chrome://tracing or Perfetto) or as a picture.

    Args:
        model (`str`), cost ([`Cost`]), dtype (`str`, *optional*, defaults to `"float32"`), settings:
            As in [`measure`].
        file (`Path`):
            File to write: a picture if its name ends with `.png`, `.svg` or `.pdf`, otherwise a trace, compressed if its name
            ends with `.gz`.
    """
    _in_own_process(_trace, model, cost, dtype, settings, file)


def _trace(model: str, cost: Cost, dtype: str, settings: dict[str, Any], file: Path) -> None:
    loaded, tokenizer = _quietly_loaded(model, dtype)
    traced = _Traced()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(loaded, tokenizer, cost, WARM_UP + 1, Path(folder), **settings)
        trainer.add_callback(traced)
        with annotated(trainer):
            trainer.train()
        trace = Path(folder) / "trace.json" if file.suffix in PICTURES else file
        traced.profile.export_chrome_trace(str(trace))
        if trace != file:
            write_picture(trace, file)
