"""The evidence in the folder of a model's weights."""

import os
from dataclasses import replace
from pathlib import Path

from ..files import write_json, write_text
from ..fingerprints import file_sha256, weights_sha256
from ..models.loading import load
from ..report.answers import QUESTIONS_FILE, Questions
from ..report.build import judged_again
from ..report.provenance import Card, File
from ..report.report import FILE_NAME, SCHEMA_VERSION, Report
from ..views.card import evaluation_results, model_card
from ..views.figure_style import save_figure
from ..views.figures import plot_attacks, plot_tradeoff
from ..views.model_rows import ROLES, records_by_role
from ..views.page import write_pages
from .model_files import check_model, model_files


EVIDENCE = (
    "README.md",
    "SUMMARY.md",
    "report.html",
    FILE_NAME,
    "training.json",
    QUESTIONS_FILE,
    "figures/attacks.png",
    "figures/tradeoff.png",
    ".eval_results/trl-tar.yaml",
)
FIGURES = (
    {"path": "figures/attacks.png", "alt": "Harm and held-out capability along the attacks"},
    {"path": "figures/tradeoff.png", "alt": "Capability against harm, before and after attack"},
)
UNNAMED = {"title": "A model", "description": "", "repository": None}


def bound(report: Report, folder: Path) -> Report:
    """Returns the report with size and hash of every file of the model that it is about.

    Raises:
        `ValueError`: if the folder holds no model in safetensors, or another model than the attacked one.
    """
    check_model(folder)
    found = weights_sha256(load(str(folder)))
    if found != report.model["weights_sha256"]:
        raise ValueError(
            f"The report is about weights {report.model['weights_sha256'][:12]}…, and {str(folder)!r} holds {found[:12]}…. "
            f"Attack this model, or give the report that belongs to it; without one, remove {FILE_NAME} first."
        )
    return replace(report, files=_described(folder))


def _described(folder: Path) -> dict[str, File]:
    """Returns the size in bytes and the SHA-256 of each file of the model."""
    return {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": file_sha256(file)}
        for file in model_files(folder)
    }


def belongs(folder: Path) -> bool | None:
    """Returns whether the report in the folder is about the model there; `None` if there is no report that is bound to a model."""
    if not (folder / FILE_NAME).is_file():
        return None
    try:
        files = Report.load(folder).files
    except ValueError:  # of a newer version, or damaged
        return False
    return _described(folder) == files if files else None


def load_with_answers(path: str | Path) -> Report:
    """Loads a report from the disk, with the answers of its side file if there is one."""
    report = Report.load(path)
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    side = file.with_name(QUESTIONS_FILE) if file.name == FILE_NAME else file.with_suffix(f".{QUESTIONS_FILE}")
    return replace(report, questions=Questions.load(side)) if side.is_file() else report


def own_report(folder: Path) -> Report | None:
    """Returns the report in the folder if there is one and it is about the weights there."""
    if not (folder / FILE_NAME).is_file():
        return None
    report = load_with_answers(folder)
    return report if weights_sha256(load(str(folder))) == report.model["weights_sha256"] else None


def _answers_beside(report: Report, folder: Path) -> Questions | None:
    """Returns the answers in the folder if the report there is this one; moves those of another report aside."""
    side = folder / QUESTIONS_FILE
    if not side.is_file():
        return None
    try:
        present = load_with_answers(folder)
    except ValueError:  # of a newer version, damaged, or not there
        present = None
    if present is not None and (present.before, present.attacks) == (report.before, report.attacks):
        return present.questions
    os.replace(side, folder / f"other.{QUESTIONS_FILE}")
    return None


def write_evidence(
    report: Report,
    folder: Path,
    title: str,
    description: str,
    repository: str | None = None,
    license: str | None = None,
) -> Report:
    """Writes report, card, pages, figures and metrics into the folder of the weights; returns the report, bound to them."""
    for file in EVIDENCE:
        place = folder / Path(file).parent
        if place != folder and place.is_symlink():
            raise ValueError(f"{str(place)!r} is a link, and what it leads to would be written to. Remove it first.")
    card: Card = {"title": title, "description": description, "repository": repository, "license": license}
    report = bound(replace(report, config={**report.config, "card": card}), folder)
    if report.schema_version == SCHEMA_VERSION:  # what it was of may have been added since it was judged
        report = judged_again(report)
    if report.questions is None:
        report = replace(report, questions=_answers_beside(report, folder))
    report.save(folder)
    if report.training is not None:
        write_json(folder / "training.json", report.training)
    write_pages(report, folder, title)
    _write_figures(report, folder)
    write_text(folder / ".eval_results" / "trl-tar.yaml", evaluation_results(report))
    write_text(folder / "README.md", card_of(report))
    return report


def card_of(report: Report) -> str:
    """Returns the card of a report that is bound to a model. Equal reports have equal cards."""
    return model_card(report, figures=FIGURES, **report.config.get("card", UNNAMED))


def _write_figures(report: Report, folder: Path) -> None:
    attacked = {ROLES[role]: record for role, record in records_by_role(report).items()}
    chance = report.config["chance"] or None
    figures = {
        "attacks.png": plot_attacks(attacked, chance=chance),
        "tradeoff.png": plot_tradeoff(attacked, chance=chance),
    }
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / name, dpi=120)
