"""`trl-tar bench`: what an outer step costs beside its arithmetic."""

from pathlib import Path

from rich.console import Console

from ..bench import Cost, measure
from ..growth import growth_lines, measure_growth
from ..records import write_json
from .demo import quiet


GIGABYTE = 1e9


def bench(model: str, steps: int, output: Path | None, growth: bool = False, **cost: int | None) -> None:
    """Prints time and memory as multiples of the bare loop's, or with `growth` how the time grows; writes all of it as JSON
    where a file is given."""
    quiet()
    if growth:
        if model != "world":
            raise ValueError(
                f"--growth measures the world's model, and {model!r} was asked for. Leave one of the two out."
            )
        grown = measure_growth(Cost(**cost), steps)
        for line in growth_lines(grown):
            Console().print(line, highlight=False, soft_wrap=True)
        if output is not None:
            write_json(output, grown)
        return
    found = measure(model, Cost(**cost), steps)
    ratio, seconds, peak = found["ratio"], found["seconds"], found["peak_memory"]
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    Console().print(
        f"{found['num_parameters'] / 1e6:.1f} M parameters, {found['passes']} passes of {found['cost']['batch_size']} × "
        f"{found['cost']['length']} tokens an outer step\n"
        f"time: {seconds['trainer']:.3f} s, {ratio['median']:.3f}{interval} times the bare loop's (median of {ratio['n']} pairs)\n"
        f"peak memory: {peak['trainer'] / GIGABYTE:.2f} GB, {peak['ratio']:.2f} times the bare loop's",
        highlight=False,
        soft_wrap=True,
    )
    for mode, kinds in found["state"].items():
        held = {place: sum(each[place] for each in kinds.values()) for place in ("device", "host")}
        Console().print(
            f"state, {mode}: {held['device']:.1f} bytes per parameter on the device, {held['host']:.1f} on the host",
            highlight=False,
            soft_wrap=True,
        )
    if output is not None:
        write_json(output, found)
