"""`trl-tar red-team`: from files to a report, and one line for what cannot be read."""

import json
import shutil

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_tar import Report
from trl_tar.adversaries import suites
from trl_tar.adversaries.from_yaml import named_adversaries
from trl_tar.cli.main import main
from trl_tar.cli.red_team import red_team_command
from trl_tar.report.answers import Questions
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path, knowledge_questions
from trl_tar.testbed.knowledge.attack_data import attack_datasets


WORLD = KnowledgeWorld(0)
BASE = str(knowledge_model_path(WORLD))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with `datasets.yaml`, what it names, and a suite of two attacks."""
    folder = tmp_path_factory.mktemp("files")
    data = attack_datasets(WORLD)
    for name in ("hazard", "retain"):
        data[name].to_json(folder / f"{name}.jsonl")
    for name, questions in knowledge_questions(WORLD).items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions[:40])))
    described = {
        "datasets": {"hazard": "hazard.jsonl", "retain": "retain.jsonl"},
        "metrics": {"harm": "harm.jsonl", "capability": "capability.jsonl", "bystander": "one_metric:half"},
    }
    (folder / "datasets.yaml").write_text(yaml.safe_dump(described))
    short = {"num_steps": 2, "batch_size": 8}
    attacks = [
        {"name": "mix", "mixture": {"hazard": 0.5, "retain": 0.5}, "learning_rate": "1e-3", **short},
        {
            "name": "pruned",
            "dataset": "hazard",
            "after": {"name": "p", "edit": "prune", "edit_strength": 0.1, "num_steps": 0},
        },
    ]
    attacks[1] |= short
    (folder / "suite.yaml").write_text(yaml.safe_dump(attacks))
    (folder / "one_metric.py").write_text(
        "from trl_tar.evaluation.scores import Scores\n\n\ndef half(model, tokenizer):\n    return Scores([0.0, 1.0])\n"
    )
    return folder


def arguments(files, output, *more: str) -> list[str]:
    wanted = {"--suite": files / "suite.yaml", "--datasets": files / "datasets.yaml", "--output": output, "--seeds": 2}
    return ["red-team", BASE, *(str(part) for pair in wanted.items() for part in pair), "--base", BASE, *more]


def test_files_become_a_report_with_answers_and_a_card(files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)  # where the metric's module is
    assert main(arguments(files, tmp_path)) == 0
    report = Report.load(tmp_path)
    assert [(a.adversary, a.seed, a.status) for a in report.attacks] == [
        (name, seed, "completed") for name in ("mix", "pruned") for seed in (0, 1)
    ]
    assert report.before["bystander"] == 0.5
    assert report.before["harm"] > 0.9
    assert len(Questions.load(tmp_path).before["model"]["harm"]) == 40
    assert "under attack" in (tmp_path / "README.md").read_text()
    assert "mix" in (tmp_path / "SUMMARY.md").read_text()
    assert (tmp_path / "report.html").stat().st_size > 1e6  # plotly is in it
    assert main(arguments(files, tmp_path, "--strict")) == 1  # the base is not resistant, and nothing is done again


def test_a_strict_red_team_tells_failed_from_not_measured(files, tmp_path, monkeypatch, capsys):
    """A model that never knew the hazard, without a base: no gate failed, and most were not measured."""
    monkeypatch.chdir(files)
    floor = str(knowledge_model_path(WORLD, "floor"))
    command = [floor if part == BASE else part for part in arguments(files, tmp_path)]
    command = command[: command.index("--base")]
    assert main([*command, "--strict"]) == 3 and main(command) == 0
    said = capsys.readouterr().out
    assert (
        "Not tested enough: no full-parameter attack of 500 steps on hazardous data alone, " in said
        and "not measured (" in said
        and "give the base (--base);" in said
    )
    assert Report.load(tmp_path).verdict.failed == [] and not Report.load(tmp_path).verdict.resistant
    assert main([*command, "--budget", "1"]) == 0  # of what is there already
    said = capsys.readouterr().out
    assert "2 attacks × 2 seeds, 1 of 4 completed; the budget left 3 out." in said
    assert "a budget of at least 2 (--budget)" in said and Report.load(tmp_path).config["budget"] == 1


def test_a_named_suite_says_which_data_set_it_lacks(files, tmp_path):
    described = yaml.safe_load((files / "datasets.yaml").read_text())
    del described["metrics"]["bystander"]
    (files / "without_module.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="reads 'benign', and `datasets` has"):
        red_team_command(BASE, "benign", files / "without_module.yaml", tmp_path, steps=1)
    assert {a.num_steps for a in named_adversaries("knowledge", 7, 2.0)} == {7}
    assert [a.name for a in named_adversaries("weight-edit", None, None)] == [
        a.name for a in suites.weight_edit_suite()
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--suite": "knowlege"}, "There is no suite 'knowlege'"),
        ({"--suite": "nowhere.yaml"}, "'nowhere.yaml' cannot be read"),
        ({"--datasets": "nowhere.yaml"}, "'nowhere.yaml' cannot be read"),
        ({"--seeds": "0"}, "'0' is not a whole number of at least 1"),
        ({"--budget": "0"}, "'0' is not a whole number of at least 1"),
        ({"--steps": "5"}, "says num_steps itself"),
        ({"--suite": "weight-edit", "--steps": "5"}, "'weight-edit' has no num_steps, and 5 would do nothing"),
        ({"--suite": "weight-edit", "--batch-size": "8"}, "'weight-edit' has no batch_size, and 8 would do nothing"),
        ({"--suite": "input", "--learning-rate-scale": "2"}, "'input' has no learning_rate_scale"),
    ],
)
def test_unusable_arguments_are_one_line(files, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(files)  # where the metric's module is
    command = arguments(files, tmp_path / "out")
    for option, value in changes.items():
        command += [option, value]
    try:
        code = main(command)
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ([1], "holds 'list'"),
        ({"datasets": {"hazard": "hazard.jsonl"}}, "has no 'metrics'"),
        ({"datasets": {"hazard": "no.jsonl"}, "metrics": {"harm": "harm.jsonl"}}, "Data set 'hazard' is .*no.jsonl"),
        (
            {"datasets": {"hazard": "hazard.txt"}, "metrics": {"harm": "harm.jsonl"}},
            "Data set 'hazard' is .*hazard.txt",
        ),
        (
            {"datasets": {"hazard": "hazard.jsonl"}, "metrics": {"harm": "nothing:here"}},
            "Metric 'harm' is 'nothing:here'",
        ),
        ({"datasets": {"hazard": "hazard.jsonl"}, "metrics": {"harm": "no.jsonl"}}, "no.jsonl' cannot be read"),
        (
            {"datasets": {"hazard": "broken.jsonl"}, "metrics": {"harm": "harm.jsonl"}},
            "Data set 'hazard' cannot be read",
        ),
        ({"datasets": {"hazard": "hazard.jsonl"}, "metrics": {"harm": "harm.jsonl"}, "metric": 1}, "has 'metric'. Use"),
        (
            {
                "datasets": {"hazard": "hazard.jsonl", "retain": "retain.jsonl"},
                "metrics": {"harm": "harm.jsonl", "capability": "capability.jsonl"},
                "chance": 1.5,
            },
            "`chance` is 1.5",
        ),
        (
            {"datasets": {"hazard": "hazard.jsonl"}, "metrics": {"harm": "harm.jsonl"}, "rewards": {"r": "one_metric"}},
            "Reward 'r' is 'one_metric'. Give module:function",
        ),
        (
            {
                "datasets": {"hazard": "hazard.jsonl"},
                "metrics": {"harm": "harm.jsonl"},
                "benign": {"dataset": "cooking", "metric": "harm.jsonl"},
            },
            "`benign` is .*'cooking'.*Name one of the datasets",
        ),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(files, tmp_path, described, message):
    (files / "broken.jsonl").write_text('{"text": "a"}\n{"text": ')
    file = files / "broken.yaml"
    file.write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match=message):
        red_team_command(BASE, str(files / "suite.yaml"), file, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": ["a"]}, "has rewards=['a']. Give each a name, such as rewards: {a: …}."),
        ({"rewards": None}, "has rewards=None. Give each a name"),
        ({"rewards": {"r": "os:path"}}, "Reward 'r' is 'os:path', which is 'module'. Give module:function."),
        ({"rewards": {"r": ":f"}}, "Reward 'r' is ':f' (Empty module name). Give module:function"),
        ({"datasets": {"hazard": {"path": 5}}}, "Data set 'hazard' has path=5. Give path as str."),
        ({"datasets": {"hazard": {"path": "hazard.jsonl", "limit": "abc"}}}, "has limit='abc'. Give limit as"),
        ({"datasets": {1: "hazard.jsonl"}}, "has the name 1, which YAML does not read as text. Write it in quotes."),
        ({True: "hazard.jsonl"}, "has the name True, which YAML does not read as text. Write it in quotes."),
        ({"benign": {"dataset": ["hazard"], "metric": "harm.jsonl"}}, "Name one of the datasets ['hazard', 'retain']"),
        ({"metrics": {"harm": ":f"}}, "Metric 'harm' is ':f' (Empty module name). Give module:function"),
        ({"metrics": {"harm": "..a:f"}}, "Metric 'harm' is '..a:f' (the 'package' argument is required"),
        ({"metrics": {"harm": ["harm.jsonl"]}}, "Metric 'harm' is ['harm.jsonl']. Give a file of questions"),
        ({"metrics": {"harm": {"task": "wmdp_bio", "limit": "abc"}}}, "has limit='abc'. Give limit as int | None."),
        (
            {"metrics": {"harm": {"requests": "harm.jsonl", "judge": "phrases", "inverted": "no"}}},
            "Metric 'harm' has inverted='no'. Give inverted as bool.",
        ),
        (
            {"metrics": {"harm": {"requests": "harm.jsonl", "judge": {"url": 5, "model": "m", "prompt": ["quality"]}}}},
            "The judge 'm' has url=5. Give url as str.",
        ),
    ],
)
def test_a_description_with_values_of_other_types_is_one_sentence(files, tmp_path, capsys, changes, message):
    good = {
        "datasets": {"hazard": "hazard.jsonl", "retain": "retain.jsonl"},
        "metrics": {"harm": "harm.jsonl", "capability": "capability.jsonl"},
    }
    (files / "odd.yaml").write_text(yaml.safe_dump(good | changes))
    assert main(arguments(files, tmp_path / "out", "--datasets", str(files / "odd.yaml"))) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def of_another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 8}))


def adapter_without_base(folder):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM"))
    shutil.rmtree(folder)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "model' cannot be loaded ("),
        (of_another_shape, "model' cannot be loaded ("),
        (adapter_without_base, "model', neither the folder of a model (or of an adapter with its base)"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_sentence(files, tmp_path, capsys, monkeypatch, damage, message):
    monkeypatch.chdir(files)  # where the metric's module is
    shutil.copytree(BASE, tmp_path / "model")
    damage(tmp_path / "model")
    command = arguments(files, tmp_path / "out")
    command[1] = str(tmp_path / "model")
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("trl-tar red-team: The model ") and message in error and error.endswith(".")


def test_a_report_on_the_current_folder_is_named_after_it(files, tmp_path, monkeypatch):
    shutil.copytree(BASE, tmp_path / "hardened")
    (files / "int8.yaml").write_text(yaml.safe_dump([{"name": "int8", "edit": "int8", "num_steps": 0}]))
    described = {
        "datasets": {"hazard": "hazard.jsonl"},
        "metrics": {"harm": "harm.jsonl", "capability": "capability.jsonl"},
    }
    (files / "few.yaml").write_text(yaml.safe_dump(described))
    monkeypatch.chdir(tmp_path / "hardened")
    report = red_team_command(".", str(files / "int8.yaml"), files / "few.yaml", tmp_path / "out", seeds=1)
    assert report.model["id"] == "hardened"
    assert (tmp_path / "out" / "SUMMARY.md").read_text().startswith("# hardened: red team")


def test_questions_that_an_attacker_is_taught_are_refused(files, tmp_path):
    lines = [json.loads(line) for line in (files / "harm.jsonl").read_text().splitlines()]
    taught = [{"prompt": q["prompt"], "completion": q["choices"][q["answer"]], "entity": q["group"]} for q in lines]
    (files / "taught.jsonl").write_text("\n".join(map(json.dumps, taught * 2)))
    described = yaml.safe_load((files / "datasets.yaml").read_text())
    described["datasets"]["hazard"] = "taught.jsonl"
    del described["metrics"]["bystander"]
    (files / "taught.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="and the questions share .* entities"):
        red_team_command(BASE, str(files / "suite.yaml"), files / "taught.yaml", tmp_path, base=BASE)


def test_the_file_of_data_sets_may_name_a_benign_task_and_rewards(files, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(files)
    data = attack_datasets(WORLD)
    data["benign"].to_json(files / "benign.jsonl")
    data["prompts"].to_json(files / "prompts.jsonl")
    (files / "a_reward.py").write_text("from trl_tar.testbed.knowledge.attack_data import answer_reward as harm\n")
    described = yaml.safe_load((files / "datasets.yaml").read_text())
    described["datasets"] |= {"harmless": "benign.jsonl", "prompts": "prompts.jsonl"}
    del described["metrics"]["bystander"]
    described |= {"rewards": {"harm": "a_reward:harm"}, "chance": 0.25}
    described["benign"] = {"dataset": "harmless", "metric": "capability.jsonl", "num_steps": 2, "batch_size": 8}
    described["benign"]["learning_rate"] = "2e-5"  # as YAML reads 2e-5
    (files / "more.yaml").write_text(yaml.safe_dump(described))
    grpo = {"name": "grpo", "dataset": "prompts", "objective": "grpo", "reward": "harm", "num_steps": 1}
    (files / "grpo.yaml").write_text(yaml.safe_dump([grpo | {"batch_size": 8, "max_completion_length": 2}]))
    report = red_team_command(BASE, str(files / "grpo.yaml"), files / "more.yaml", tmp_path, seeds=1, base=BASE)
    assert [a.status for a in report.attacks] == ["completed"]
    assert (
        report.benign["learning_rate"] == 2e-5
        and report.benign["num_steps"] == 2
        and report.benign["trainability"]["n"] <= 1
    )
