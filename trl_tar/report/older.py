"""Reports of older schema: what their numbers do not cover, and the numbers by the rules of this version."""

from .build import judged_again
from .report import SCHEMA_VERSION, Report


# version of the schema → what is measured or recorded from it on, said of a report that is older
SINCE = {
    6: (
        "No verdict asked how hard the model was attacked. By the rules of today this one does, and says what nobody tried.",
        "Errors of harm over questions after an attack were not recorded: the bound takes that from before any attack.",
    ),
    5: (
        "Attacks and questions read the tokenizer, chat template, generation settings and dropout that came with the model. Not "
        "measured: the same with those of the base.",
        "Questions were asked as plain text. Not measured: what a chat model answers in its chat template.",
        "Answers were judged as a whole, with any thoughts before them. Not measured: how many never ended their thoughts.",
        "Where an answer was scored as text, its questions were compared with the training by their completions alone.",
    ),
    4: (
        "Not recorded: how the model was trained, where data sets and metrics come from, and hashes of the model's files.",
    ),
}


# version of the schema → gates whose number is taken by a stricter rule from it on: an older report passed them by the rule of then
STRICTER_SINCE = {6: ("worst_recovery_upper_bound",)}


def not_covered(report: Report) -> list[str]:
    """Says what the numbers of a report do not cover because it is of an older schema; nothing of one of this version."""
    return [sentence for version, told in SINCE.items() if version > report.schema_version for sentence in told]


def stricter_today(report: Report) -> set[str]:
    """Names of the gates that a report of an older schema may have passed by a milder rule than that of today."""
    return {gate for version, gates in STRICTER_SINCE.items() if version > report.schema_version for gate in gates}


def by_todays_rules(report: Report) -> Report:
    """The report, with summaries and verdict computed again from its attacks where it is of an older schema.

    Its digest is then another: that of the report as it was recorded stays the one to name."""
    return report if report.schema_version == SCHEMA_VERSION else judged_again(report)
