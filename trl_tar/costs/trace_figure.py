"""The figure of one outer step over time: what host and device do, from a trace of torch's profiler."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from torch.profiler import record_function

from ..views.figure_style import COLOURS


if TYPE_CHECKING:
    from ..trainers.tar_trainer import TARTrainer


Span = tuple[float, float]  # begin and end, in µs
STEP = "outer step"
PHASES = ("retain pass", "attack", "judgement")  # in the order of the rows
OPTIMIZER = "Optimizer.step"  # the profiler's name for steps of the attack and of the outer optimizer
KERNELS = ("kernel", "gpu_memset")  # categories
COPIES = {  # row → beginning of its events' names
    "copies to the host": "Memcpy DtoH",
    "copies from the host": "Memcpy HtoD",
    "copies within it": "Memcpy DtoD",
}
PICTURES = (".png", ".svg", ".pdf")
# Bars with a gap below this part of the step are drawn as one: at 11 inches and 150 dpi a step is at most 1,650 pixels wide.
RESOLUTION = 4000


@contextmanager
def annotated(trainer: "TARTrainer") -> Iterator[None]:
    """Names the phases of an outer step in traces that are taken inside."""
    retain, attack, judgement = PHASES
    phases = {
        (trainer, "compute_loss"): record_function(retain),
        (trainer.accelerator, "backward"): record_function(
            retain
        ),  # only of the retain pass: attacks call `torch.autograd` directly
        (trainer, "attack_steps"): lambda steps: _in_pieces(steps, attack),
        (trainer, "add_outer_gradient"): record_function(judgement),
    }
    for (owner, name), wrap in phases.items():
        setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name in phases:
            delattr(owner, name)


def _in_pieces(attack_steps: Callable[..., Iterator[int]], phase: str) -> Callable[..., Iterator[int]]:
    """Wraps `attack_steps` so that the time up to each judgement is recorded as one piece of the phase."""

    def pieces(*arguments: Any) -> Iterator[int]:
        steps = None
        while True:
            with record_function(phase):
                steps = attack_steps(*arguments) if steps is None else steps
                step = next(steps, None)
            if step is None:
                return
            yield step

    return pieces


def plot_trace(events: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws what host and device do in an outer step, in rows of bars over the time in milliseconds.

    Args:
        events (`list[dict]`):
            `traceEvents` of a Chrome trace that [`write_trace`] took. Without a GPU the figure has the rows of the host only.

    Returns:
        `Figure`: for `savefig`. Its title states the share of the step in which the device computes, or without a GPU the
        host's operators run; copies are not counted.
    """
    timed = [event for event in events if event.get("ph") == "X"]  # complete events, which have a duration
    (step,) = [_span(event) for event in timed if event["name"] == STEP and _on_host(event)]
    rows = {f"host: {phase}": _spans(timed, phase) for phase in PHASES}
    rows["host: optimizers"] = _spans(timed, OPTIMIZER)
    busy = rows["host: operators"] = _merged(_span(event) for event in timed if event.get("cat") == "cpu_op")
    kernels = [_span(event) for event in timed if event.get("cat") in KERNELS]
    if kernels:
        busy = rows["GPU: kernels"] = _merged(kernels)
        for label, copy in COPIES.items():
            rows[f"GPU: {label}"] = _merged(_span(event) for event in timed if event["name"].startswith(copy))

    begin, end = step
    figure = Figure(figsize=(11, 0.38 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, spans in enumerate(rows.values()):
        gap = (end - begin) / RESOLUTION
        drawn = [((low - begin) / 1e3, (high - low) / 1e3) for low, high in _merged(spans, gap)]
        axes.broken_barh(drawn, (place - 0.4, 0.8), color=COLOURS[place % len(COLOURS)])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, (end - begin) / 1e3)
    axes.set_xlabel("time (ms)")
    share = sum(high - low for low, high in busy) / (end - begin)
    axes.set_title(
        f"One outer step: {'the GPU computes' if kernels else 'operators run'} {share:.0%} of the time", fontsize=10
    )
    return figure


def write_picture(trace: Path, file: Path) -> None:
    """Draws the figure of a Chrome trace, and saves it in a format of `PICTURES`."""
    plot_trace(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]).savefig(file, dpi=150)


def _on_host(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "user_annotation"


def _spans(events: Iterable[Mapping[str, Any]], name: str) -> list[Span]:
    return _merged(_span(event) for event in events if _on_host(event) and event["name"].startswith(name))


def _span(event: Mapping[str, Any]) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def _merged(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """The spans in order; those that overlap, or are within `gap` µs of each other, become one."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
