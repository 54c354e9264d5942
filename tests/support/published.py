"""A published model with its report and card, and ways to forge them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from trl_tar import Adversary, Report, red_team
from trl_tar.fingerprints import digest_of
from trl_tar.hub.evidence_folder import card_of, write_evidence
from trl_tar.testbed import KnowledgeWorld, knowledge_metrics, knowledge_model_path


WORLD = KnowledgeWorld(0)
BASE = knowledge_model_path(WORLD)
SHORT = {"num_steps": 1, "batch_size": 4, "learning_rate": 1e-3}
SUITE = [
    Adversary("attacker", "attacker", **SHORT),
    Adversary("mix", mixture={"attacker": 0.5, "retain": 0.5}, **SHORT),
]


def rewrite(folder: Path, change, forge: bool = True, card: bool = True) -> None:
    """Edits the report as somebody would who also forges digest and card."""
    content = json.loads((folder / "report.json").read_text())
    change(content)
    if forge:
        content["digest"] = digest_of(content)
    (folder / "report.json").write_text(json.dumps(content))
    if forge and card:
        (folder / "README.md").write_text(card_of(Report.load(folder)))


def write_published(folder: Path) -> None:
    """Writes a model, its report, its card and the rest into a folder."""
    shutil.copytree(BASE, folder)
    data = WORLD.datasets()
    metrics = {name: knowledge_metrics(0)[name] for name in ("harm", "capability")}
    report = red_team(
        folder, SUITE, {n: data[n] for n in ("attacker", "retain")}, metrics, (0, 1), {"base": BASE, "twin": BASE}
    )
    report = replace(report, task={"kind": "knowledge", "world": "0"})
    write_evidence(report, folder, "A model", "It is made for a test.", "someone/a-model")
