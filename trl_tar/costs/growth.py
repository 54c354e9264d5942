"""The growth of an outer step's time with K, interval, adversaries, sequence length and width of the model."""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from .cost import Cost
from .timing import WARM_UP, load_model, machine, time_in_turn


# quantity → its values: a choice of doublings, with the paper's K = 64 and the world's own width (80) among them
AXES: dict[str, tuple[int, ...]] = {
    "num_steps": (4, 8, 16, 32, 64),
    "interval": (1, 2, 4, 8),
    "adversaries": (1, 2, 4),
    "length": (16, 32, 64),
    "hidden_size": (80, 160, 320, 640),  # of the world's model; its other widths grow in proportion
}


def measure_growth(cost: Cost, steps: int, **settings: Any) -> dict[str, Any]:
    """Measures the seconds of an outer step on the world's model along each of `AXES`, with all else as in `cost`.

    Args:
        cost ([`Cost`]):
            Size of the step, but for the quantity of the axis.
        steps (`int`):
            Steps that are counted at each point, each followed by one of the bare loop.
        settings:
            Further settings of [`TARConfig`].

    Returns:
        `dict`: `points` (each with `axis`, `value`, `num_parameters`, `passes`, and the median seconds of `trainer` and
        `bare_loop`), `cost`, `settings` and `environment`.
    """
    torch.set_num_threads(1)
    points = []
    for axis, values in AXES.items():
        for value in values:
            size = cost if axis == "hidden_size" else replace(cost, **{axis: value})
            model, tokenizer = _model(value if axis == "hidden_size" else None)
            with tempfile.TemporaryDirectory() as folder:
                times = time_in_turn(model, deepcopy(model), tokenizer, size, steps + WARM_UP, Path(folder), **settings)
            points.append(
                {
                    "axis": axis,
                    "value": value,
                    "num_parameters": model.num_parameters(),
                    "passes": size.passes,
                    "trainer": median(trainer for trainer, _ in times[WARM_UP:]),
                    "bare_loop": median(bare for _, bare in times[WARM_UP:]),
                }
            )
    return {"points": points, "cost": asdict(cost), "settings": settings, "environment": machine()}


def _model(hidden_size: int | None) -> tuple[Any, Any]:
    """The world's model and tokenizer; with `hidden_size` a model of that width with random weights."""
    model, tokenizer = load_model("world")
    if hidden_size is None:
        return model, tokenizer
    config, factor = model.config, hidden_size / model.config.hidden_size
    config.intermediate_size = int(config.intermediate_size * factor)
    config.head_dim = hidden_size // config.num_attention_heads
    config.hidden_size = hidden_size
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(model.device), tokenizer


def growth_lines(record: dict[str, Any]) -> Iterator[str]:
    """One line for each axis: the seconds at each value, and their ratio to the bare loop's."""
    for axis in AXES:
        points = [point for point in record["points"] if point["axis"] == axis]
        values = ", ".join(
            f"{point['value']}: {point['trainer']:.3f} s ({point['trainer'] / point['bare_loop']:.2f})"
            for point in points
        )
        yield f"{axis} {values}"
