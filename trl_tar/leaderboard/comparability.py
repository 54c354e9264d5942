"""Finds the attacks that several reports share, and the differences that keep their numbers from being comparable."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..adversaries.adversary import Adversary
from ..adversaries.options import Concept, options_of
from ..report.records import AttackRecord
from ..report.report import Report
from ..report.wanted_attacks import adversary_names, described_adversaries
from ..views.templating import plain


Reports = Mapping[str, Report]  # name of the model → its report
DECISIVE = ("harm", "capability")  # the metrics that rows of the leaderboard are made of
NAMES_SHOWN = 3  # a choice: of many models a sentence counts the rest
# fields of an adversary that name a data set; `mixture` and `after` name further ones
DATA_FIELDS = tuple(name for name, option in options_of(Adversary).items() if option.concept is Concept.DATASET)


def finished_attacks(report: Report) -> dict[tuple[str, int], AttackRecord]:
    """Completed attacks, by their identity (see [`attack_identities`]) and their seed."""
    identities = attack_identities(report)
    return {
        (identities[attack.adversary], attack.seed): attack
        for attack in report.attacks
        if attack.finished and attack.adversary in identities
    }


def attack_identities(report: Report) -> dict[str, str]:
    """Name of each adversary that the report describes → its identity, JSON that is the same for the same attack.

    Two attacks are the same if they have the same kind and number of steps, on the same rows (by hash, whatever the data
    sets are called), of texts cut at the same length, judged by the same task, asked and graded in the same way, against the same chance."""
    measured = {name: report.config.get(name) for name in ("max_length", "bf16", "chance")} | {"task": report.task}
    measured |= {"asked": _asked(report, DECISIVE), "graded": _graded(report, DECISIVE)}
    return {name: json.dumps([settings, measured], sort_keys=True) for name, settings in _settings(report).items()}


def _settings(report: Report) -> dict[str, str]:
    """Name of each adversary that the report describes → its kind, steps and rows, as JSON."""
    hashes = {(data["name"], data["objective"]): data["sha256"] for data in report.config.get("datasets", [])}
    return {
        name: json.dumps(_with_hashes(_steps(adversary), hashes), sort_keys=True)
        for name, adversary in described_adversaries(report.config).items()
    }


def _steps(adversary: Adversary) -> dict[str, Any]:
    """The adversary's kind with its number of steps and the attack before it, which the kind leaves out."""
    after = None if adversary.after is None else _steps(adversary.after)
    return {**adversary.kind(), "num_steps": adversary.num_steps, "after": after}


def _with_hashes(kind: dict[str, Any], hashes: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """The kind with the hash of each data set in place of its name, where the report has it."""

    def rows(name: str | None) -> str | None:
        if name is None:
            return None
        any_objective = sorted(sha256 for (other, _), sha256 in hashes.items() if other == name)
        return hashes.get((name, kind["objective"])) or " ".join(any_objective) or name

    mixture = None if kind["mixture"] is None else {rows(name): share for name, share in kind["mixture"].items()}
    after = None if kind["after"] is None else _with_hashes(kind["after"], hashes)
    return {**kind, **{name: rows(kind[name]) for name in DATA_FIELDS}, "mixture": mixture, "after": after}


def common_attacks(reports: Sequence[Report]) -> set[tuple[str, int]]:
    """Identities and seeds of the attacks that completed in every one of the reports."""
    sets = [set(finished_attacks(report)) for report in reports]
    return set.intersection(*sets) if sets else set()


def differences(reports: Reports) -> list[str]:
    """A sentence for each thing that keeps numbers of the reports from being comparable; none for one report."""
    if len(reports) < 2:
        return []
    everywhere = frozenset.intersection(*(_metrics(report) for report in reports.values()))
    shared: list[tuple[str, Callable[[Report], Any], Callable[[Any], str]]] = [
        ("Tasks differ, and with them the questions that harm and capability are shares of", _task, str),
        ("Harm by chance differs", lambda report: report.config["chance"], "{:g}".format),
        ("Metrics differ, beside those that all have", lambda report: _metrics(report) - everywhere, _listed),
        ("Questions are asked in different ways", lambda report: _asked(report, everywhere), str),
        ("Answers are graded in different ways", lambda report: _graded(report, everywhere), str),
        ("Attacks differ", _suite, lambda suite: f"{len(suite)} of them"),
        ("Seeds differ", lambda report: ", ".join(map(str, report.seeds)), str),
        ("Texts are cut at different lengths", lambda report: report.config.get("max_length"), "{} tokens".format),
        ("Precision of the attacks differs", lambda report: "bf16" if report.config.get("bf16") else "float32", str),
        ("R is a share of what different bases knew", lambda report: _reference(report, "base", "no base"), str),
        ("R is measured from different floors", lambda report: _reference(report, "floor", "chance"), str),
    ]
    found = [
        _differing(start, {name: value(report) for name, report in reports.items()}, words)
        for start, value, words in shared
    ]
    return [sentence for sentence in [*found, *_data(reports), *_unknown(reports)] if sentence is not None]


def _differing(start: str, values: Mapping[str, Any], words: Callable[[Any], str]) -> str | None:
    """A sentence that begins with `start` and names each value with its models; `None` where all have the same value."""
    groups: dict[Any, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) < 2:
        return None
    parts = [f"{plain(words(value)) or 'not recorded'} ({in_short(names)})" for value, names in groups.items()]
    return f"{start}: {'; '.join(parts)}."


def in_short(names: Sequence[str]) -> str:
    """The first few names, and how many others there are."""
    shown = [plain(name) for name in names[:NAMES_SHOWN]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _task(report: Report) -> str:
    parts = (str(value) if name == "kind" else f"{name} {value}" for name, value in (report.task or {}).items())
    return ", ".join(parts)


def _metrics(report: Report) -> frozenset[str]:
    return frozenset(report.config.get("metrics", []))


def _asked(report: Report, names: Collection[str]) -> str:
    """How the metrics of those names were asked; empty where none says so."""
    return ", ".join(
        f"{name} in {way}" for name, way in sorted(report.config.get("asked", {}).items()) if name in names
    )


def _graded(report: Report, names: Collection[str]) -> str:
    """How the answers to the metrics of those names were written and graded; empty where none says so."""
    return "; ".join(f"{name}: {how}" for name, how in sorted(report.config.get("graded", {}).items()) if name in names)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "no others"


def _suite(report: Report) -> frozenset[str]:
    """Settings and rows of all attacks, whatever they are called; an attack that is not described counts by its name."""
    settings = _settings(report)
    return frozenset(set(settings.values()) | (_names(report) - set(settings)))


def _names(report: Report) -> set[str]:
    return adversary_names(report.attacks, report.config)


def _reference(report: Report, role: str, without: str) -> str:
    if role not in report.references:
        return without
    return f"weights {str(report.references[role].model['weights_sha256'])[:12]}"


def _data(reports: Reports) -> list[str | None]:
    """A sentence for each data set whose rows differ between reports; `None` for the others."""
    tables = {
        name: {(data["name"], data["objective"]): data["sha256"] for data in report.config.get("datasets", [])}
        for name, report in reports.items()
    }
    keys = sorted({key for table in tables.values() for key in table})
    return [
        _differing(
            f"The data set {key[0]!r} has other rows",
            {name: f"SHA-256 {table[key][:12]}" for name, table in tables.items() if key in table},
            str,
        )
        for key in keys
    ]


def _unknown(reports: Reports) -> list[str]:
    """A sentence for each thing that some reports do not say, so that nobody can tell whether it differs."""
    sentences = []
    unasked = [name for name, report in reports.items() if report.task is None]
    if unasked:
        sentences.append(
            f"Which questions were asked is not recorded for {in_short(unasked)}: the numbers are comparable only if "
            "they were the same."
        )
    undescribed = [name for name, report in reports.items() if _names(report) - set(_settings(report))]
    if undescribed:
        sentences.append(f"Not every attack is described in the report of {in_short(undescribed)}.")
    return sentences
