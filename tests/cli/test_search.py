"""A search from the command line, and a red team that its winner joins."""

import json
from pathlib import Path

import pytest
import yaml
from support.started import ROLES, write_rows

from trl_tar import Report
from trl_tar.cli.main import main
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path, knowledge_questions


@pytest.fixture
def described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = KnowledgeWorld(0)
    questions = knowledge_questions(world)
    datasets = {
        name: write_rows(tmp_path / f"{name}.jsonl", world.datasets()[ROLES[name]].select(range(16)).to_list())
        for name in ("hazard", "retain")
    }
    metrics = {
        "harm": questions["harm"][:8],
        "validation_harm": questions["harm"][8:16],
        "capability": questions["capability"][:8],
    }
    files = {name: write_rows(tmp_path / f"{name}_questions.jsonl", asked) for name, asked in metrics.items()}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": datasets, "metrics": files}))
    (tmp_path / "space.yaml").write_text(
        "{num_steps: [1, 2], batch_size: 2, learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}"
    )
    (tmp_path / "attacks.yaml").write_text("[{name: plain, dataset: hazard, num_steps: 1, batch_size: 2}]")
    return str(knowledge_model_path(world))


def test_the_winner_of_a_search_is_attacked_with_again_and_on_record(described, capsys):
    options = ["--datasets", "datasets.yaml", "--output", "search", "--space", "space.yaml", "--trials", "2"]
    assert main(["search", described, "--twin", described, *options]) == 0
    said = capsys.readouterr().out
    assert (
        ", capability " in said
        and "Strongest of 2 trials on the model: validation_harm" in said
        and "--search search" in said
    )
    (winner,) = yaml.safe_load(Path("search/winner.yaml").read_text())
    record = json.loads(Path("search/winner.json").read_text())
    assert winner["name"] == record["adversary"] == "searched" and winner["num_steps"] in (1, 2)
    assert (record["trials"], record["metric"]) == (2, "validation_harm")
    attack = ["--suite", "attacks.yaml", "--datasets", "datasets.yaml", "--output", "report", "--seeds", "1"]
    assert main(["red-team", described, *attack, "--search", "search"]) == 0
    report = Report.load("report")
    assert [(each.adversary, each.seed) for each in report.attacks] == [
        ("plain", 1),
        ("searched", 1),
    ]  # 0 was the search's
    assert record.pop("seed") == 0 and report.config["searches"] == [record]


def test_a_search_that_is_not_there_is_refused_before_any_attack(described, capsys):
    attack = ["--suite", "attacks.yaml", "--datasets", "datasets.yaml", "--output", "report", "--search", "none"]
    assert main(["red-team", described, *attack]) == 2
    assert (
        "'none' holds no winner of a search. Run `trl-tar search --output none` to its end." in capsys.readouterr().err
    )
