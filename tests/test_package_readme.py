"""The README of the package names what is public, what is logged, and files that are there."""

import re

from datasets import Dataset
from support import tiny
from support.repository import ROOT

import trl_tar
from trl_tar import Adversary


TEXT = (ROOT / "trl_tar" / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_public_names_are_those_of_the_package_and_their_words_those_of_the_docstrings():
    rows = dict(re.findall(r"\| `(\w+)` \| (.*) \|", section("Public API")))
    assert sorted(rows) == trl_tar.__all__
    for name, words in rows.items():
        described = " ".join((getattr(trl_tar, name).__doc__ or "").replace("[`", "`").replace("`]", "`").split())
        start = words.removesuffix(".").partition(" that minimise")[0]
        assert described.replace("`values`", "values").startswith(start), name


def test_what_is_logged_is_in_the_table(make_trainer):
    tasks = [{**row, "task": i % 3} for i, row in enumerate(tiny.tokenised_language(tiny.text(24, "tasks")))]
    attack = {**tiny.ATTACK, "num_steps": 4}
    trainer = make_trainer(
        adversaries=[
            Adversary("full", "forget", **attack),
            Adversary("honest", "rehearsal", role="benign", weight=8.0, **attack),
        ],
        data={"rehearsal": Dataset.from_list(tasks)},
        steps_per_visit=2,
        kl_weight=1.0,
        adversaries_per_step=2,
        max_steps=4,
    )
    trainer.train()
    logged = {name for log in trainer.state.log_history[:-1] for name in log} - {"step"}
    assert {"benign_loss/kept", "tamper_resistance_loss/last"} <= logged  # both kinds had visits
    table = section("Logged metrics")
    names = {re.sub(r"^adversary/.*", "adversary/NAME", re.sub(r"/age_\d+", "/age_8", name)) for name in logged}
    short = {name.replace("/last", "/first") for name in names}  # a row says `…/first`, `/last`
    assert sorted(name for name in short if f"`{name}`" not in table) == []


def test_files_of_the_paper_index_are_there():
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.py|tests/[\w/]+)`", section("Paper → code"))
    assert (
        named and [name for name in named if not ((ROOT / "trl_tar" / name).exists() or (ROOT / name).exists())] == []
    )
