"""`python -m trl_tar.evidence`: the measurements as commands."""

import argparse
import sys
from typing import Any

from ..cli.argument_types import at_least, folder, listed
from ..cli.main import Command, start


def add_knowledge(knowledge: argparse.ArgumentParser) -> None:
    knowledge.add_argument("--output", type=folder, help="folder of models, reports and figures")
    knowledge.add_argument("--workers", type=at_least(1), help="attacks that run at the same time")


def add_suites(suites: argparse.ArgumentParser) -> None:
    suites.add_argument("--demo", type=folder, help="folder of a finished demo on world 0")
    suites.add_argument("--output", type=folder, help="folder of attacks, reports and table")
    suites.add_argument("--workers", type=at_least(1), help="attacks that run at the same time")


def add_refusal(refusal: argparse.ArgumentParser) -> None:
    refusal.add_argument("folder", type=folder, metavar="DIR", help="folder of runs named world-W-seed-S")


def add_ablation(ablation: argparse.ArgumentParser) -> None:
    seeds = listed(at_least(0))
    ablation.add_argument("--worlds", type=seeds, metavar="SEED,...", help="seeds of the worlds")
    ablation.add_argument("--seeds", type=seeds, metavar="SEED,...", help="seeds of the trainings on each world")
    ablation.add_argument("--output", type=folder, help="folder of models, reports, table, figures and log of settings")
    ablation.add_argument("--workers", type=at_least(1), help="trainings or attacks that run at the same time")
    ablation.add_argument("--only", type=listed(str), metavar="NAME,...", help="variants to train and attack")
    ablation.add_argument("--only-report", action="store_true", help="table and figures of what is finished")


def _knowledge(**options: Any) -> None:
    from .knowledge import evidence

    evidence(**options)


def _suites(**options: Any) -> None:
    from .suites import evidence_suites

    evidence_suites(**options)


def _refusal(**options: Any) -> None:
    from .refusal import refusal_evidence

    refusal_evidence(**options)


def _ablation(**options: Any) -> None:
    from .ablation import ablation

    ablation(**options)


COMMANDS = {
    "knowledge": Command(
        "repeat the measurements on three knowledge worlds; resumes where it stopped", add_knowledge, _knowledge
    ),
    "ablation": Command(
        "variants of the knowledge recipe, a table and the frontier; resumes where it stopped", add_ablation, _ablation
    ),
    "suites": Command("every suite of the red team against the models of a demo", add_suites, _suites),
    "refusal": Command("summarise runs of the refusal recipe, see make evidence-refusal", add_refusal, _refusal),
}


if __name__ == "__main__":
    sys.exit(start("python -m trl_tar.evidence", "Measurements that README and model cards quote.", COMMANDS, None))
