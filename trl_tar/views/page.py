"""A report to read: one page of Markdown, and one of HTML that opens from disk and asks no network for anything."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from ..report.intervals import mean, over_adversaries, over_seeds
from ..report.records import AttackRecord, ModelRecord
from ..report.recovery import BREAK_RECOVERY, base_harm, floor_harm, recovery
from ..report.report import Report
from ..report.survival import break_interval
from .curves import curve
from .figure_style import COLOURS
from .templating import render
from .words import attack_sentence, contamination_sentence, gate_in_words, interval, number, strongest, verdict_sentence


ROLES = {"model": "model", "twin": "undefended twin", "base": "base", "floor": "never knew it"}
PANELS = {"harm": "harm", "capability": "held-out capability", "loss": "attacker's loss (nats)"}
LINES = ("solid", "dash", "dashdot", "dot")
# those of the card; on a dark page lighter ones of the same palette
COLOURS_BY_ROLE = {
    role: {"light": light, "dark": dark, "dash": dash}
    for role, light, dark, dash in zip(
        ROLES, COLOURS, ("#56B4E9", "#F58A3C", "#2DC497", "#E0A3C6"), LINES, strict=False
    )
}
STRONGEST_SHOWN = 10
DIGITS = 5  # of a point of a curve


def report_summary(report: Report, title: str) -> str:
    """One page of Markdown: the verdict, what came back, and the strongest attacks."""
    return _render("summary.md.jinja", report, title, escape=False)


def report_page(report: Report, title: str) -> str:
    """A self-contained HTML page: verdict and gates, before and after, curves of every attack, and a table to sort."""
    more = {"plotly": get_plotlyjs(), "curves": curves(report), "settings": _settings}
    return _render("report.html.jinja", report, title, escape=True, **more)


def write_pages(report: Report, folder: Path, title: str) -> None:
    """`SUMMARY.md` and `report.html` in the folder."""
    (folder / "SUMMARY.md").write_text(report_summary(report, title), encoding="utf-8")
    (folder / "report.html").write_text(report_page(report, title), encoding="utf-8")


def _render(template: str, report: Report, title: str, escape: bool, **more: Any) -> str:
    rows = sorted(attack_rows(report), key=lambda row: -1.0 if row["harm"] is None else row["harm"], reverse=True)
    return render(
        template,
        escape=escape,
        title=title,
        report=report,
        verdict=verdict_sentence(report),
        attacks=attack_sentence(report),
        gates=[gate_in_words(gate) for gate in report.verdict.gates],
        models=_models(report),
        cross_fit=strongest(report.summary["worst_harm_cross_fit"]),
        breaks={
            name: _break(report.summary[name]) for name in ("steps_to_break", "usable_steps_to_break", "flops_to_break")
        },
        rows=rows,
        strongest=rows[:STRONGEST_SHOWN],
        number=number,
        interval=interval,
        contamination_sentence=contamination_sentence,
        **more,
    )


def attack_rows(report: Report) -> list[dict[str, Any]]:
    """One row an attack, for a table: what it was, and what it left."""
    fields = {adversary["name"]: adversary for adversary in report.config.get("adversaries", [])}
    base = base_harm(report.references)
    rows = []
    for attack in report.attacks:
        after = attack.outcome or {}
        adversary = fields.get(attack.adversary, {})
        floor = floor_harm(report.references.get("floor"), attack.adversary, report.config["chance"])
        rows.append(
            {
                "attack": attack.adversary,
                "seed": attack.seed,
                "data": _data(adversary),
                "kind": _kind(adversary),
                "rate": adversary.get("learning_rate") if adversary.get("num_steps") else None,
                "steps": adversary.get("num_steps"),
                "harm": after.get("harm"),
                "recovery": recovery(after.get("harm"), base, floor),
                "capability": after.get("capability"),
                "broken": _broken_at(attack, base, floor),
                "status": attack.status if attack.error is None else f"{attack.status}: {attack.error}",
            }
        )
    return rows


def _broken_at(attack: AttackRecord, base: float | None, floor: float) -> str:
    """Step at which the attack was seen to have broken the model; a dash where that is not known."""
    if base is None or not attack.finished:
        return "–"
    _, step = break_interval(attack.trajectory, base, floor)
    return f"{step:g}" if math.isfinite(step) else "not broken"


def _data(adversary: dict[str, Any]) -> str:
    if adversary.get("mixture"):
        return " + ".join(f"{share:g} {name}" for name, share in adversary["mixture"].items())
    first, second = adversary.get("first_dataset"), adversary.get("dataset") or "–"
    return f"{first}, then {second}" if first else second


def _kind(adversary: dict[str, Any]) -> str:
    """Edit, objective and adapter, in a few words."""
    parts = [adversary["edit"]] if adversary.get("edit") else []
    if adversary.get("num_steps"):
        parts.append(adversary["objective"].upper())
        if adversary.get("lora_r"):
            parts.append(f"{'DoRA' if adversary.get('use_dora') else 'LoRA'} r={adversary['lora_r']}")
        elif adversary.get("num_virtual_tokens"):
            parts.append("soft prompt")
        if adversary["optimizer"] != "adamw":
            parts.append(adversary["optimizer"])
    if adversary.get("prompt_template"):
        parts.append("prompt template")
    if adversary.get("after"):
        parts.insert(0, f"{adversary['after']['name']}, then")
    return " ".join(parts) or "–"


def _settings(adversary: dict[str, Any]) -> dict[str, Any]:
    """The fields of an adversary that are set."""
    return {name: value for name, value in adversary.items() if value is not None}


def _models(report: Report) -> list[dict[str, str]]:
    """Model and references, before and after."""
    return [
        {
            "label": label,
            "id": record.model["id"],
            "harm": _before(record, "harm"),
            "harm_after": _mean_after(record.attacks, "harm"),
            "worst": interval(over_seeds([(a.seed, a.outcome["harm"]) for a in record.attacks if a.finished], max)),
            "capability": _before(record, "capability"),
            "capability_after": _mean_after(record.attacks, "capability"),
            "bystander": _before(record, "bystander"),
            "bystander_after": _mean_after(record.attacks, "bystander"),
        }
        for role, label in ROLES.items()
        if (record := _record(report, role)) is not None
    ]


def _record(report: Report, role: str) -> Report | ModelRecord | None:
    return report if role == "model" else report.references.get(role)


def _before(record: Report | ModelRecord, metric: str) -> str:
    """Value before attack ± its standard error over questions."""
    error = record.standard_errors.get(metric)
    return number(record.before.get(metric)) + ("" if error is None else f" ± {error:.2f}")


def _mean_after(attacks: Sequence[AttackRecord], metric: str) -> str:
    known = [(a.adversary, a.seed, a.outcome.get(metric)) for a in attacks if a.outcome is not None]
    return interval(over_adversaries(known))


def _break(estimate: dict[str, Any]) -> str:
    """Median with its interval, in words where it lies beyond the attacks."""
    if not estimate["n"]:
        return "not known without a base"
    broken = f"{estimate['broken']} of {estimate['n']} attacks broke it"
    if estimate["median"] is None:
        return f"beyond the end of the attacks ({broken})"
    bounds = "" if estimate["low"] is None else f" [{estimate['low']:.3g}, {_bound(estimate['high'])}]"
    return f"{estimate['median']:.3g}{bounds} ({broken})"


def _bound(value: float | None) -> str:
    return "beyond the end" if value is None else f"{value:.3g}"


def curves(report: Report) -> dict[str, Any]:
    """The curves of all attacks, as the page's script reads them.

    Returns:
        `dict`: `roles` (`key`, `label`, colours and `dash`), `panels` (`metric`, `label`; harm is the first), `chance`,
        `base` (harm of the base before attack), `shown` (index of the attack to begin with, the strongest) and `attacks`,
        the mean over all and then each one: `label`, `half` (harm at which half has come back) and `curves`, role →
        metric → rows of step, mean, low and high.
    """
    names = [None, *dict.fromkeys(attack.adversary for attack in report.attacks)]
    roles = [role for role in ROLES if _record(report, role) is not None]
    return {
        "roles": [{"key": role, "label": ROLES[role], **COLOURS_BY_ROLE[role]} for role in roles],
        "panels": [{"metric": metric, "label": label} for metric, label in PANELS.items()],
        "chance": report.config["chance"],
        "base": base_harm(report.references),
        "shown": names.index(_strongest_with_curve(report)),
        "attacks": [
            {
                "label": "mean over all attacks" if name is None else name,
                "half": _half_recovered(report, names[1:] if name is None else [name]),
                "curves": {
                    role: {metric: _points(_record(report, role), name, metric) for metric in PANELS} for role in roles
                },
            }
            for name in names
        ],
    }


def _strongest_with_curve(report: Report) -> str | None:
    """The adversary that is strongest on average of those that train, as others have no curve; `None` for none."""
    harms: dict[str, list[float]] = {}
    for attack in report.attacks:
        if attack.finished and len(attack.trajectory) > 1:
            harms.setdefault(attack.adversary, []).append(attack.outcome["harm"])
    return max(harms, key=lambda name: mean(harms[name]), default=None)


def _half_recovered(report: Report, names: Sequence[str]) -> float | None:
    """Harm at which R is that of a break, mean over attacks."""
    base, chance = base_harm(report.references), report.config["chance"]
    floors = [floor_harm(report.references.get("floor"), name, chance) for name in names]
    return mean([floor + BREAK_RECOVERY * (base - floor) for floor in floors]) if base is not None and floors else None


def _points(record: Report | ModelRecord, adversary: str | None, metric: str) -> list[list[float | None]]:
    chosen = [attack for attack in record.attacks if adversary in (None, attack.adversary)]
    return [
        [step, *(None if e[k] is None else float(f"{e[k]:.{DIGITS}g}") for k in ("mean", "low", "high"))]
        for step, e in curve(record, chosen, metric).items()
    ]
