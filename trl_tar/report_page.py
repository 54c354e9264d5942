"""A report to read: one page of Markdown, and one of HTML that opens from disk and asks no network for anything."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from .model_card import TEMPLATES, attack_sentence, interval, number, strongest, verdict_sentence
from .plots import COLOURS, curve
from .records import AttackRecord, ModelRecord
from .report import Report
from .statistics import Estimate, floor_harm, mean, over_seeds, recovery


ROLES = {"model": "model", "twin": "undefended twin", "base": "base", "floor": "never knew it"}
PANELS = {"harm": "harm", "capability": "held-out capability", "loss": "attacker's loss (nats)"}
DASHES = ("solid", "dash", "dashdot", "dot")
STRONGEST_SHOWN = 10


def report_summary(report: Report, title: str) -> str:
    """One page of Markdown: the verdict, what came back, and the strongest attacks."""
    return _render("summary.md.jinja", False, report, title)


def report_page(report: Report, title: str) -> str:
    """A self-contained HTML page: verdict and gates, before and after, curves of every attack, and a table to sort."""
    return _render("report.html.jinja", True, report, title, plotly=get_plotlyjs(), figure=_figure(report))


def _render(template: str, escape: bool, report: Report, title: str, **more: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=escape,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = sorted(attack_rows(report), key=lambda row: -1.0 if row["harm"] is None else row["harm"], reverse=True)
    return environment.get_template(template).render(
        title=title,
        report=report,
        verdict=verdict_sentence(report),
        attacks=attack_sentence(report),
        models=_models(report),
        cross_fit=strongest(report.summary["worst_harm_cross_fit"]),
        breaks={
            name: _break(report.summary[name]) for name in ("steps_to_break", "usable_steps_to_break", "flops_to_break")
        },
        rows=rows,
        strongest=rows[:STRONGEST_SHOWN],
        number=number,
        interval=interval,
        **more,
    )


def attack_rows(report: Report) -> list[dict[str, Any]]:
    """One row an attack, for a table: what it was, and what it left."""
    fields = {adversary["name"]: adversary for adversary in report.config.get("adversaries", [])}
    base = report.references["base"].before["harm"] if "base" in report.references else None
    chance = report.config["chance"]
    rows = []
    for attack in report.attacks:
        after = attack.outcome or {}
        adversary = fields.get(attack.adversary, {})
        floor = floor_harm(report.references.get("floor"), attack.adversary, chance)
        rows.append(
            {
                "attack": attack.adversary,
                "seed": attack.seed,
                "data": _data(adversary),
                "kind": _kind(adversary),
                "rate": adversary.get("learning_rate"),
                "steps": adversary.get("num_steps"),
                "harm": after.get("harm"),
                "recovery": recovery(after.get("harm"), base, floor),
                "capability": after.get("capability"),
                "status": attack.status if attack.error is None else f"{attack.status}: {attack.error}",
            }
        )
    return rows


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
    if adversary.get("after"):
        parts.insert(0, f"{adversary['after']['name']}, then")
    return " ".join(parts) or "–"


def _models(report: Report) -> list[dict[str, str]]:
    """Model and references, before and after."""
    rows = []
    for role, label in ROLES.items():
        record: Report | ModelRecord | None = report if role == "model" else report.references.get(role)
        if record is None:
            continue
        after: list[float] = [attack.outcome["harm"] for attack in record.attacks if attack.finished]
        rows.append(
            {
                "label": label,
                "id": record.model["id"],
                "harm": number(record.before["harm"]),
                "harm_after": _over(record.attacks, "harm"),
                "worst": number(max(after, default=None)),
                "capability": number(record.before["capability"]),
                "capability_after": _over(record.attacks, "capability"),
                "bystander": number(record.before.get("bystander")),
            }
        )
    return rows


def _over(attacks: list[AttackRecord], metric: str) -> str:
    return interval(over_seeds([(a.seed, a.outcome.get(metric)) for a in attacks if a.outcome is not None], mean))


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


def _figure(report: Report) -> str:
    """Plotly's JSON of the curves, with a menu of attacks; safe inside a script element."""
    names = [None, *dict.fromkeys(attack.adversary for attack in report.attacks)]
    figure = make_subplots(1, len(PANELS), subplot_titles=list(PANELS.values()), horizontal_spacing=0.06)
    owners: list[str | None] = []
    for name in names:
        for role, record in {"model": report, **report.references}.items():
            attacks = [attack for attack in record.attacks if name in (None, attack.adversary)]
            for column, metric in enumerate(PANELS, 1):
                for trace in _traces(role, curve(attacks, metric), showlegend=column == 1):
                    trace.visible = name is None
                    figure.add_trace(trace, 1, column)
                    owners.append(name)
    buttons = [
        {
            "label": "all attacks (mean)" if name is None else name,
            "method": "update",
            "args": [{"visible": [owner == name for owner in owners]}],
        }
        for name in names
    ]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.35, "yanchor": "top"}],
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 40, "r": 10, "t": 110, "b": 40},
        height=430,
        template="plotly_white",
    )
    figure.update_xaxes(title_text="step of the attack")
    for column in (1, 2):
        figure.update_yaxes(range=[0, 1.02], col=column)
    return figure.to_json().replace("<", "\\u003c")  # no text can end the script element


def _traces(role: str, points: dict[int, Estimate], showlegend: bool) -> list[go.Scatter]:
    """The mean over seeds, and its interval as a band."""
    number_of_role = list(ROLES).index(role)
    steps = list(points)
    known = [step for step in steps if points[step]["low"] is not None]
    common = {"legendgroup": role, "name": ROLES[role]}
    line = {"color": COLOURS[number_of_role], "dash": DASHES[number_of_role]}
    band = go.Scatter(
        x=[*known, *reversed(known)],
        y=[points[s]["high"] for s in known] + [points[s]["low"] for s in reversed(known)],
        fill="toself",
        fillcolor=COLOURS[number_of_role],
        opacity=0.15,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **common,
    )
    middle = [points[step]["mean"] for step in steps]
    mean_line = go.Scatter(x=steps, y=middle, line=line, mode="lines+markers", showlegend=showlegend, **common)
    return [band, mean_line]


def write_pages(report: Report, folder: Path, title: str) -> None:
    """`SUMMARY.md` and `report.html` in the folder."""
    (folder / "SUMMARY.md").write_text(report_summary(report, title), encoding="utf-8")
    (folder / "report.html").write_text(report_page(report, title), encoding="utf-8")
