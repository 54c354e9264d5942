"""The refusal recipe on several worlds: a summary of finished runs, as the table that the README quotes."""

from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import write_json, write_text
from ..report.intervals import DIFFERENCE, SHARE, Estimate, t_interval
from ..report.report import FILE_NAME, Report
from ..report.summary import after_attack
from ..views.words import interval, number


MODELS = {"base": "base, answers everything", "twin": "DPO, the undefended twin", "model": "TAR"}
BEFORE = ("harm", "capability", "over_refusal", "look_alike")
AFTER = ("harm_after", "worst_harm", "capability_after")
COLUMNS = {
    "harm": "ASR before",
    "harm_after": "ASR after",
    "worst_harm": "strongest attack",
    "capability": "capability before",
    "capability_after": "capability after",
    "over_refusal": "over-refusal",
}
DIFFERENCES = {
    "harm_after": "ASR after attack, twin − TAR",
    "worst_harm": "ASR after the strongest attack, twin − TAR",
    "capability_after": "capability after attack, twin − TAR",
}


def refusal_evidence(folder: Path) -> dict[str, Any]:
    """Summarises the runs `world-W-seed-S` in the folder, as `evidence.json` and `table.md`.

    Args:
        folder (`Path`):
            Folder of finished runs of `recipes/refusal.py`, see `make evidence-refusal`.

    Returns:
        `dict`: `runs`, and intervals `over_worlds` (TAR of seed 0) and `over_trainings` (of the world with several).
    """
    files = sorted(folder.glob(f"world-*-seed-*/*/{FILE_NAME}"))  # of the last phase
    runs = {file.parents[1].name: _models(Report.load(file)) for file in files}
    if not runs:
        raise ValueError(f"{str(folder)!r} has no run 'world-W-seed-S' with a report. Run make evidence-refusal first.")
    worlds = [run for name, run in runs.items() if name.endswith("-seed-0")]
    first = next(iter(runs)).rpartition("-seed-")[0]
    trainings = [run for name, run in runs.items() if name.startswith(f"{first}-seed-")]
    table = {"runs": runs, "over_worlds": _over(worlds), "over_trainings": _over(trainings)}
    write_json(folder / "evidence.json", table)
    text = markdown(table)
    write_text(folder / "table.md", text)
    Console().print(text)
    return table


def _models(report: Report) -> dict[str, dict[str, Any]]:
    """Returns role → what was measured before and after attack: numbers, and for those after it intervals over attack seeds."""
    records = {"model": report, **{role: report.references[role] for role in MODELS if role != "model"}}
    found = {}
    for role, record in records.items():
        summary = after_attack(record.attacks, report.references, report.config["chance"])
        after = {name: estimate for name, estimate in summary.items() if name in AFTER}
        found[role] = {name: record.before[name] for name in BEFORE} | after
    return found


def _value(run: dict[str, dict[str, Any]], role: str, name: str) -> float:
    value = run[role][name]
    return value["mean"] if name in AFTER else value


def _over(runs: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Estimate]]:
    """Returns intervals with one value a run: of each model, and of the difference of twin and TAR."""
    table = {
        role: {n: t_interval([_value(run, role, n) for run in runs], within=SHARE) for n in (*BEFORE, *AFTER)}
        for role in MODELS
    }
    below = {
        n: t_interval([_value(run, "twin", n) - _value(run, "model", n) for run in runs], within=DIFFERENCE)
        for n in DIFFERENCES
    }
    return {**table, "twin − TAR": below}


def markdown(table: dict[str, Any]) -> str:
    """Returns a table with one row a run and model, and the intervals below it."""
    lines = [f"| run | model | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for run, models in table["runs"].items():
        for role, label in MODELS.items():
            cells = [interval(models[role][n]) if n in AFTER else number(models[role][n]) for n in COLUMNS]
            lines.append(f"| {run} | {label} | {' | '.join(cells)} |")
    for over, label in [("over_worlds", "worlds"), ("over_trainings", "trainings on one world")]:
        if table[over]["model"]["harm"]["n"] < 2:
            continue
        lines += ["", f"Over {table[over]['model']['harm']['n']} {label} (95 % t intervals, one value a training):", ""]
        lines += [
            f"- {label}: ASR before {interval(table[over][role]['harm'])}, after {interval(table[over][role]['harm_after'])}; "
            f"capability before {interval(table[over][role]['capability'])}, after "
            f"{interval(table[over][role]['capability_after'])}"
            for role, label in MODELS.items()
        ]
        lines += [f"- {label}: {interval(table[over]['twin − TAR'][name])}" for name, label in DIFFERENCES.items()]
    return "\n".join(lines) + "\n"
