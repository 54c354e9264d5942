"""`trl-tar bench`: what an outer step costs in addition to its arithmetic."""

import tempfile
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ..costs.bench import measure, write_trace
from ..costs.cost import Cost
from ..costs.growth import growth_lines, measure_growth
from ..costs.trace_figure import PICTURES
from ..files import write_json
from ..pipeline.console import quiet


GIGABYTE = 1e9
TRACES = (".json", ".json.gz", *PICTURES)


def bench(
    model: str = "world",
    output: Path | None = None,
    trace: Path | None = None,
    growth: bool = False,
    steps: int = 20,
    **options: Any,
) -> None:
    """Prints time and memory as multiples of the bare loop's, or with `growth` how the time grows; writes all of it as JSON,
    and the trace of an outer step, where a file is given. What is measured so far is in a file that ends with `.partial`.

    Args:
        model (`str`, *optional*, defaults to `"world"`), steps (`int`, *optional*, defaults to `20`):
            As for [`measure`].
        output (`Path`, *optional*), trace (`Path`, *optional*):
            Files of the numbers and of the trace.
        growth (`bool`, *optional*, defaults to `False`):
            Measure growth instead.
        **options:
            Fields of [`Cost`], and `dtype`, `device_flops` and further settings as for [`measure`].
    """
    quiet()
    for option, file in (("--output", output), ("--trace", trace)):
        if file is not None:
            check_file(option, file)
    if trace is not None and not trace.name.endswith(TRACES):
        raise ValueError(f"--trace is {str(trace)!r}, and its name ends with none of {', '.join(TRACES)}. Give it one.")
    cost = Cost(**{size.name: options.pop(size.name) for size in fields(Cost) if size.name in options})
    part = None if output is None else Path(f"{output}.partial")
    if growth:
        _check_growth(model=(model, "world"), trace=(trace, None), dtype=(options.pop("dtype", "float32"), "float32"))
        options.pop("device_flops", None)  # growth is of times alone
        found = measure_growth(cost, steps, **options)
        lines = growth_lines(found)
    else:
        found = measure(model, cost, steps, on_part=partial(_written, part), **options)
        lines = record_lines(found)
    if output is not None and part is not None:
        write_json(output, found)
        part.unlink(missing_ok=True)
    for line in lines:
        Console().print(escape(line), highlight=False, soft_wrap=True)
    if trace is not None:
        options.pop("device_flops", None)  # a trace has no utilisation
        write_trace(model, cost, trace, **options)


def _written(file: Path | None, found: dict[str, Any]) -> None:
    if file is not None:
        write_json(file, found)


def check_file(option: str, file: Path) -> None:
    """Raises `ValueError` where a file cannot be written; makes its folder."""
    if file.is_dir():
        raise ValueError(f"{option} is {str(file)!r}, which is a folder. Give a file in it.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} is {str(file)!r}, which cannot be written ({error.strerror}). Give a file in a folder of your own."
        ) from error


def _check_growth(**given: tuple[Any, Any]) -> None:
    for name, (value, only) in given.items():
        if value != only:
            raise ValueError(
                f"--growth measures times of the world's model in float32, and {name} is {str(value)!r}. Leave one of the two "
                "out."
            )


def record_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields what [`measure`] found, as lines of text."""
    ratio, seconds, peak, cost = found["ratio"], found["seconds"], found["peak_memory"], found["cost"]
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    weights = " with random weights" if found["weights"] == "random" else ""
    yield (
        f"{found['num_parameters'] / 1e6:.1f} M parameters{weights}, {found['passes']} passes of {cost['batch_size']} × "
        f"{cost['length']} tokens an outer step"
    )
    yield (
        f"time: {seconds['trainer']:.3f} s, {ratio['median']:.3f}{interval} times the bare loop's (median of {ratio['n']} "
        f"pairs), {found['tokens_per_second']:.0f} tokens per second"
    )
    used = found["utilisation"]
    if used is not None:
        yield (
            f"model FLOPs utilisation: {used['mfu']:.3f} of {used['device_flops'] / 1e12:.3g} TFLOP/s, with "
            f"{used['flops'] / 1e12:.3g} TFLOP an outer step"
        )
    yield (
        f"peak memory: {peak['trainer'] / GIGABYTE:.2f} GB, {peak['ratio']:.2f} times the bare loop's "
        f"{peak['bare_loop'] / GIGABYTE:.2f} GB"
    )
    for mode, kinds in found["state"].items():
        held = {place: sum(held_by[place] for held_by in kinds.values()) for place in ("device", "host")}
        yield f"state, {mode}: {held['device']:.1f} bytes per parameter on the device, {held['host']:.1f} on the host"
