"""Benign fine-tuning, for the report."""

from collections.abc import Sequence

from ..report.intervals import t_interval
from ..report.records import AttackRecord, Benign
from ..report.recovery import share, trainability
from ..tasks.benign import BenignTask


def benign_record(task: BenignTask, base: Sequence[AttackRecord], model: Sequence[AttackRecord]) -> Benign:
    """Compares what a harmless user reaches on the model with what the base reaches, over seeds.

    Args:
        task ([`BenignTask`]):
            The harmless task.
        base, model (`Sequence[AttackRecord]`):
            A run of each for each seed.

    Returns:
        [`~trl_tar.report.records.Benign`]: settings, runs and two intervals, which are empty if a run did not complete.
    """
    complete = all(record.outcome is not None for record in (*base, *model))
    pairs = list(zip(base, model, strict=True)) if complete else []  # the rest would hide the seeds that diverged
    gains = [trainability(b.trajectory, m.trajectory) for b, m in pairs]
    ratios = [share(m.outcome or {}, b.outcome or {}, "capability") for b, m in pairs]
    return {
        "learning_rate": task.learning_rate,
        "num_steps": task.num_steps,
        "batch_size": task.batch_size,
        "trainability": t_interval([] if None in gains else gains),
        "capability_ratio": t_interval([] if None in ratios else ratios),
        "base": list(base),
        "model": list(model),
    }
