"""What the README tells a newcomer to run does run, here on small settings; the recipes' own tests launch them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from support.repository import README, READMES, ROOT
from trl import TrlParser

from trl_tar import Report, TARConfig
from trl_tar.cli.main import main
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.refusal import RefusalArguments
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path, knowledge_questions
from trl_tar.testbed.knowledge.attack_data import attack_datasets


MY_METRICS = """
from trl_tar.evaluation.scores import Scores


def bystander(model, tokenizer):
    return Scores([0.0, 1.0])


def reward(completions, **columns):
    return [0.0 for _ in completions]
"""


def blocks(title: str, language: str) -> list[str]:
    """Of the section with that title."""
    _, _, section = README.partition(f"\n## {title}\n")
    return re.findall(rf"```{language}\n(.*?)```", section.partition("\n## ")[0], flags=re.DOTALL)


def test_a_model_is_attacked_and_its_report_read_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    world = KnowledgeWorld(0)
    for name in ("my-model", "my-base", "my-safeguarded-model"):
        (tmp_path / name).symlink_to(knowledge_model_path(world))
    data, questions = attack_datasets(world), knowledge_questions(world)
    for name, role in {"hazard": "hazard", "retain": "retain", "other": "other_hazard", "cooking": "benign"}.items():
        data[role].to_json(tmp_path / f"{name}.jsonl")
    for name, metric in {"hazard": "harm", "retain": "capability", "cooking": "capability"}.items():
        (tmp_path / f"{name}_questions.jsonl").write_text("\n".join(map(json.dumps, questions[metric][:8])))
    kept = [{"prompt": row["prompt"], "completion": row["completion"]} for row in data["retain"].select(range(4))]
    (tmp_path / "retain_held_out.jsonl").write_text("\n".join(map(json.dumps, kept)))
    (tmp_path / "my_metrics.py").write_text(MY_METRICS)
    (description,) = blocks("Attack your model", "yaml")
    (tmp_path / "datasets.yaml").write_text(description)
    (command,) = blocks("Attack your model", "bash")
    program, *arguments = shlex.split(command)
    assert program == "trl-tar"
    assert main([*arguments, "--steps", "1", "--seeds", "1", "--budget", "1"]) == 0
    assert [attack.status for attack in Report.load("report").attacks] == ["completed"]
    unmeasured = [gate.name for gate in Report.load("report").verdict.gates if gate.value is None]
    assert unmeasured == [
        "benign_trainability",
        "untried_adversaries",
    ]  # nothing that the base had to learn; the budget
    assert main(["report", "report"]) == 0
    (snippet,) = blocks("Read the report", "python")
    exec(snippet, {})


LAUNCHES = [
    line
    for title in ("Harden your model", "Publish")
    for block in blocks(title, "bash")
    for line in block.splitlines()
    if line.startswith("accelerate launch")
]


@pytest.mark.parametrize("line", LAUNCHES)
def test_commands_of_the_recipes_are_of_files_that_are_there(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    accelerate, launch, recipe, *arguments = shlex.split(line, comments=True)
    assert (accelerate, launch) == ("accelerate", "launch") and Path(recipe).is_file()
    arguments_of = {"knowledge": KnowledgeArguments, "refusal": RefusalArguments}
    parser = TrlParser((arguments_of[Path(recipe).stem], TARConfig))
    args = parser.parse_args_and_config(arguments, fail_with_unknown_args=False)[0]
    assert args.training_adversaries()


def test_targets_of_make_are_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    wanted = set(re.findall(r"`?make ([a-z-]+)", README))
    assert wanted and wanted <= set(targets)


@pytest.mark.parametrize("file", READMES, ids=lambda file: file.parent.name)
def test_every_path_that_is_linked_is_there(file):
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text(encoding="utf-8"))
    assert [path for path in linked if not (file.parent / path).exists()] == []


def test_the_quick_start_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("Quick start", "python")
    exec(snippet, {})
    assert (tmp_path / "my-tar-model" / "model.safetensors").is_file()


def test_the_readme_is_short():
    assert len(README.split()) <= 1700 and len(re.findall(r"\d\.\d", README)) <= 40
