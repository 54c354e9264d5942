"""The models of a report side by side: the model itself and its references."""

from typing import Any

from ..report.records import ModelRecord
from ..report.recovery import recovery_before
from ..report.report import Report
from ..report.summary import after_attack
from .words import interval, number, with_error


ROLES = {"model": "this model", "twin": "undefended twin", "base": "base", "floor": "never knew it"}


def records_by_role(report: Report) -> dict[str, Report | ModelRecord]:
    """Role → record, for the report itself and the references that it has, in the order of `ROLES`."""
    records = {"model": report, **report.references}
    return {role: records[role] for role in ROLES if role in records}


def model_rows(report: Report) -> list[dict[str, Any]]:
    """One row a model, for a table: `role`, `label`, `id`, and what was measured before and after attack, in words."""
    rows = []
    for role, record in records_by_role(report).items():
        summary = (
            report.summary
            if role == "model"
            else after_attack(record.attacks, report.references, report.config["chance"])
        )
        rows.append(
            {
                "role": role,
                "label": ROLES[role],
                "id": record.model["id"],
                "harm": with_error(record, "harm"),
                "harm_after": interval(summary["harm_after"]),
                "worst": interval(summary["worst_harm"]),
                "recovery_before": number(recovery_before(record, report.references, report.config["chance"])),
                "recovery": interval(summary["recovery"]),
                "worst_recovery": interval(summary["worst_recovery"]),
                "worst_reached_recovery": interval(summary["worst_reached_recovery"]),
                "capability": with_error(record, "capability"),
                "capability_after": interval(summary["capability_after"]),
                "bystander": with_error(record, "bystander"),
                "bystander_after": interval(summary["bystander_after"]),
            }
        )
    return rows
