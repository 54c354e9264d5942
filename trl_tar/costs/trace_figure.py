"""A picture of one outer step: what host and device do when, from the trace of torch's profiler."""

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
OPTIMIZER = "Optimizer.step"  # how torch's profiler names it: of the attack, and of the outer step
KERNELS = ("kernel", "gpu_memset")  # categories
COPIES = {  # row → how the names of its events begin
    "copies to the host": "Memcpy DtoH",
    "copies from the host": "Memcpy HtoD",
    "copies within it": "Memcpy DtoD",
}
PICTURES = (".png", ".svg", ".pdf")
RESOLUTION = 4000  # gaps below this part of the step are not seen


@contextmanager
def annotated(trainer: "TARTrainer") -> Iterator[None]:
    """Names the phases of an outer step in traces that are taken meanwhile."""
    retain, attack, judgement = PHASES
    phases = {
        (trainer, "compute_loss"): record_function(retain),
        (trainer.accelerator, "backward"): record_function(retain),  # attacks take their gradients without it
        (trainer, "attack_steps"): lambda steps: _in_pieces(steps, attack),
        (trainer, "add_tamper_resistance_gradient"): record_function(judgement),
    }
    for (owner, name), wrap in phases.items():
        setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name in phases:
            delattr(owner, name)


def _in_pieces(attack_steps: Callable[..., Iterator[int]], phase: str) -> Callable[..., Iterator[int]]:
    """What happens up to a judgement, and from one to the next, is a piece of the phase each."""

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
    """What host and device do in an outer step, a row each, along the time in milliseconds.

    Args:
        events (`list[dict]`):
            `traceEvents` of a Chrome trace that [`write_trace`] took. Without a GPU there are the rows of the host alone.

    Returns:
        `Figure`: to show or `savefig`. Its title says which part of the step the device, or without one the host's operators,
        are busy; copies are not counted.
    """
    timed = [each for each in events if each.get("ph") == "X"]
    (step,) = [_span(each) for each in timed if each["name"] == STEP and _on_host(each)]
    rows = {f"host: {phase}": _spans(timed, phase) for phase in PHASES}
    rows["host: optimizers"] = _spans(timed, OPTIMIZER)
    busy = rows["host: operators"] = _merged(_span(each) for each in timed if each.get("cat") == "cpu_op")
    kernels = [_span(each) for each in timed if each.get("cat") in KERNELS]
    if kernels:
        busy = rows["GPU: kernels"] = _merged(kernels)
        for label, copy in COPIES.items():
            rows[f"GPU: {label}"] = _merged(_span(each) for each in timed if each["name"].startswith(copy))

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
    """Draws a Chrome trace into a file of [`PICTURES`]."""
    plot_trace(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]).savefig(file, dpi=150)


def _on_host(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "user_annotation"


def _spans(events: Iterable[Mapping[str, Any]], name: str) -> list[Span]:
    return _merged(_span(each) for each in events if _on_host(each) and each["name"].startswith(name))


def _span(event: Mapping[str, Any]) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def _merged(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """In order, those that overlap or lie within `gap` of each other as one."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
