"""A metric over the steps of an attack, as figures and pages draw it."""

from collections.abc import Mapping, Sequence

from ..evaluation.scores import is_share
from ..report.intervals import SHARE, Estimate, over_adversaries
from ..report.records import AttackRecord, ModelRecord
from ..report.report import Report


Attacked = Mapping[str, Report | ModelRecord]  # label → what has `before` and `attacks`


def curve(record: Report | ModelRecord, attacks: Sequence[AttackRecord], metric: str) -> dict[int, Estimate]:
    """Step → estimate over seeds of the metric under some of the record's attacks.

    Only steps that all completed attacks share are in it, since a mean over fewer attacks would jump where one of them ends.
    Step 0 is the model before attack. An edit of the weights has one point and no curve, and is left out where other attacks
    have one."""
    complete = [a for a in attacks if a.outcome is not None]
    complete = [a for a in complete if len(a.trajectory) > 1] or complete
    if not complete:
        return {}
    shared = set.intersection(*({int(point["step"]) for point in a.trajectory} for a in complete))
    values: dict[int, list[tuple[str, int, float]]] = {step: [] for step in sorted(shared)}
    for attack in complete:
        for point in attack.trajectory:
            if point["step"] in shared and point[metric] is not None:
                values[int(point["step"])].append((attack.adversary, attack.seed, point[metric]))
    within = SHARE if is_share(metric) else None
    estimates = {step: over_adversaries(found, within) for step, found in values.items() if found}
    before = record.before.get(metric)
    if not estimates or before is None:
        return estimates
    return {0: over_adversaries([("", 0, before)]), **estimates}
