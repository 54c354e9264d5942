"""The recipes: from a YAML file to an attacked model, in phases that are not repeated and resume after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from support import tiny
from support.hub_server import TOKEN, running_hub
from support.started import CONFIGS, RECIPES, described, files_of_ones_own, start, world_rows
from trl import TrlParser

from trl_tar import Report, TARConfig
from trl_tar.data.sources import DataSource
from trl_tar.evaluation.lm_eval import LMEvalTask
from trl_tar.pipeline import recipes
from trl_tar.pipeline.steps import run, suite_of
from trl_tar.red_teaming import knowledge_suite, refusal_suite
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path
from trl_tar.views.training_table import is_complete


SHORT = [
    "--safeguard_steps",
    "2",
    "--max_steps",
    "2",
    "--save_steps",
    "1",
    "--repair_steps",
    "1",
    "--attack_seeds",
    "1",
]


@pytest.fixture
def one_attack(tmp_path):
    harmful = {"refusal": "harmful", "knowledge": "hazard"}
    for name, dataset in harmful.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump([{"name": "sft", "dataset": dataset, "num_steps": 1}]))
    return lambda name: tmp_path / f"{name}.yaml"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.mark.slow
def test_a_launched_recipe_is_killed_and_goes_on_and_is_published(tmp_path, one_attack, hub):
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent), "PYTHONWARNINGS": "ignore"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        *("launch", "--num_processes", "1", "--cpu", str(RECIPES / "refusal.py")),
        *("--config", str(CONFIGS / "testbed_refusal.yaml"), "--output_dir", str(tmp_path / "run"), *SHORT),
        *("--phases", "dpo", "tar", "repair", "--attacks", str(one_attack("refusal")), "--attack_workers", "1"),
        *("--push_to_hub", "true", "--hub_model_id", "someone/a-model", "--hub_private_repo", "true"),
    ]
    first = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    run_folder, deadline = tmp_path / "run", time.monotonic() + 300
    while not (run_folder / "tar" / "checkpoint-1" / "trainer_state.json").is_file():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (run_folder / "repair").exists()
    safeguarded = (run_folder / "dpo" / "model.safetensors").stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True, timeout=600, stdout=subprocess.DEVNULL)
    assert (run_folder / "dpo" / "model.safetensors").stat().st_mtime_ns == safeguarded
    report = Report.load(run_folder / "repair")
    assert [a.status for a in report.attacks] == ["completed"] and set(report.references) == {"base", "twin"}
    assert report.before["harm"] is not None and report.benign is not None
    assert [is_complete(phase) for phase in report.training["phases"]] == [True] * 3
    for file in ("README.md", "report.html", "SUMMARY.md", "model.safetensors", "tokenizer.json"):
        assert (run_folder / "repair" / file).is_file()
    published = hub.repositories["someone/a-model"]
    folder = run_folder / "repair"
    local = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert published.private
    at_home = ("training_args.bin", "run.json", "log_history.json")
    assert published.files == {n: local[n] for n in local if n not in at_home and not n.startswith("checkpoint")}
    assert {"training.json", ".eval_results/trl-tar.yaml", "figures/attacks.png"} <= set(published.files)
    fresh = {**environment, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    verify = [sys.executable, "-m", "trl_tar", "verify", "someone/a-model", "--attacks", "1"]
    found = subprocess.run(verify, env=fresh, timeout=600, capture_output=True, text=True)
    assert found.returncode == 0 and "verified someone/a-model" in found.stdout, found
    use = "from transformers import AutoModelForCausalLM as M; print(M.from_pretrained('someone/a-model').num_parameters())"
    loaded = subprocess.run([sys.executable, "-c", use], env=fresh, timeout=600, capture_output=True, text=True)
    assert loaded.stdout.split() == [str(report.model["num_parameters"])], loaded
    assert TOKEN not in found.stdout + found.stderr
    assert not [name for name, content in published.files.items() if TOKEN.encode() in content]
    hardened, repaired = weights(run_folder / "tar"), weights(run_folder / "repair")
    assert not all(torch.equal(value, repaired[name]) for name, value in hardened.items())


@pytest.mark.slow
def test_the_knowledge_recipe_is_launched_not_repeated_and_refuses_another_run(
    tmp_path, one_attack, monkeypatch, capsys
):
    """After a repair that this run leaves out: the report tells the phases that made the model, and no other."""
    output = tmp_path / "run"
    arguments = ["--config", CONFIGS / "testbed_knowledge.yaml", "--output_dir", output, *SHORT]
    arguments += ["--attacks", one_attack("knowledge"), "--attack_workers", "1"]
    arguments += ["--phases", "random_mapping", "tar"]
    start("knowledge", monkeypatch, *arguments, "repair", "--attack_seeds", "0")
    assert (output / "repair" / "model.safetensors").is_file()
    written = [(output / name / "model.safetensors").stat().st_mtime_ns for name in ("random_mapping", "tar")]
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "1", "--cpu"]
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent), "PYTHONWARNINGS": "ignore"}
    command = [*launch, str(RECIPES / "knowledge.py"), *map(str, arguments)]
    subprocess.run(command, env=environment, check=True, timeout=600, stdout=subprocess.DEVNULL)
    report = Report.load(output / "tar")
    assert set(report.references) == {"base", "twin", "floor"} and len(report.attacks) == 1
    assert [phase["name"] for phase in report.training["phases"]] == ["random_mapping", "tar"]
    assert [set(phase["data"]) for phase in report.training["phases"]] == [
        {"retain", "safeguard"},
        {"retain", "general", "tamper_resistance", "forget", "benign_tasks"},
    ]
    assert [is_complete(phase) for phase in report.training["phases"]] == [True] * 2
    assert not (output / "repair" / "report.json").exists()
    arguments += ["--attack_seeds", "0"]
    start("knowledge", monkeypatch, *arguments, "--logging_steps", "7")  # decides nothing
    assert [(output / n / "model.safetensors").stat().st_mtime_ns for n in ("random_mapping", "tar")] == written
    for changed, what in [
        (("--tamper_resistance_weight", "3"), "'settings' (tamper_resistance_weight)"),
        (("--safeguard_with_general", "true"), "'data' (general)"),
    ]:
        with pytest.raises(SystemExit) as error:
            start("knowledge", monkeypatch, *arguments, *changed)
        assert error.value.code == 2
        said = capsys.readouterr().err
        assert f"holds a run with another {what}. Give another folder, or remove it." in said, said


def test_a_phase_1_that_hid_nothing_is_told_with_what_to_raise(tmp_path, monkeypatch, capsys):
    """It trained TAR and a red team on a twin that answered all that the base did, without a word."""
    config = described(tmp_path, phases=["random_mapping", "tar"], safeguard_steps=1, safeguard_learning_rate=1e-9)
    start("knowledge", monkeypatch, "--config", config)
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.startswith("Phase 1 hid nothing: harm is 1.00 after it")]
    assert len(told) == 1 and "Raise safeguard_steps, safeguard_learning_rate or" in told[0]
    assert "Not resistant. " in said.out and "Phase 1 hid nothing" in said.out
    assert "Phase 1 hid nothing" in (tmp_path / "run" / "tar" / "README.md").read_text()
    measured = list((tmp_path / "run" / "attacks" / "jobs").glob("before-*"))
    assert len(measured) == len(Report.load(tmp_path / "run" / "tar").references) + 1  # none a second time
    held = {
        folder: (tmp_path / "run" / folder / "model.safetensors").stat().st_mtime
        for folder in ("random_mapping", "tar")
    }
    assert held["random_mapping"] <= min(file.stat().st_mtime for file in measured) <= held["tar"]  # before TAR ends


def test_a_phase_is_not_taken_for_one_of_other_rows(tmp_path, monkeypatch, capsys):
    start("knowledge", monkeypatch, "--config", described(tmp_path, attack_seeds=0, safeguard_steps=1))
    files = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    rows = world_rows("tamper_resistance")
    changed = [rows[0], *rows[:-1]]  # as many
    config = described(tmp_path, {"tamper_resistance": changed}, safeguard_steps=1)  # with a red team
    with pytest.raises(SystemExit):
        start("knowledge", monkeypatch, "--config", config)
    assert "tar' holds a run with another 'data' (tamper_resistance)." in capsys.readouterr().err
    found = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {file: content for file, content in found.items() if file.parent.name != "jobs"} == files


def test_a_phase_is_not_taken_for_one_of_another_chat_template(tmp_path, monkeypatch, capsys):
    model = shutil.copytree(knowledge_model_path(KnowledgeWorld(0)), tmp_path / "model")
    settings = {"model_name_or_path": str(model), "attack_seeds": 0, "safeguard_steps": 1}
    start("knowledge", monkeypatch, "--config", described(tmp_path, **settings))
    (model / "chat_template.jinja").write_text("{% for m in messages %}another {{ m.content }}{% endfor %}")
    with pytest.raises(SystemExit):
        start("knowledge", monkeypatch, "--config", described(tmp_path, **settings))
    assert "random_mapping' holds a run with another 'tokenizer'." in capsys.readouterr().err


@pytest.mark.parametrize("own", [{"chat_template_path": "template.jinja"}, {"pad_token": "<unk>"}])
def test_a_run_whose_tokenizer_a_trainer_changes_goes_on(tmp_path, monkeypatch, own):
    """Rows of up to 256 tokens, of which the model reads fewer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    settings = {"attack_seeds": 0, "safeguard_steps": 1, "repair_steps": 1, "max_length": 256, **own}
    settings["phases"] = ["random_mapping", "tar", "repair"]
    written = []
    for _ in range(2):
        start("knowledge", monkeypatch, "--config", described(tmp_path, **settings))
        written.append((tmp_path / "run" / "repair" / "model.safetensors").stat().st_mtime_ns)
    assert written[0] == written[1]
    context = json.loads((tmp_path / "run" / "tar" / "config.json").read_text())["max_position_embeddings"]
    assert json.loads((tmp_path / "run" / "tar" / "run.json").read_text())["settings"]["max_length"] == context < 256


def test_a_model_whose_tokenizer_has_no_pad_token_is_given_one(tmp_path, monkeypatch, capsys):
    model = shutil.copytree(knowledge_model_path(KnowledgeWorld(0)), tmp_path / "model")
    kept = json.loads((model / "tokenizer_config.json").read_text())
    pad, kept["pad_token"] = kept["pad_token"], None
    (model / "tokenizer_config.json").write_text(json.dumps(kept))
    settings = {"model_name_or_path": str(model), "attack_seeds": 0, "phases": ["tar"]}
    with pytest.raises(SystemExit):
        start("knowledge", monkeypatch, "--config", described(tmp_path, **settings))
    assert "has no pad token. Set tokenizer.pad_token (in a recipe, `pad_token`)" in capsys.readouterr().err
    start("knowledge", monkeypatch, "--config", described(tmp_path, pad_token=pad, **settings))
    assert (tmp_path / "run" / "tar" / "model.safetensors").is_file()


def test_a_benign_task_of_ones_own_and_the_suite_of_that_name(tmp_path, monkeypatch):
    benign = {"dataset": "benign", "metric": str(tmp_path / "harm_questions.jsonl"), "num_steps": 2, "batch_size": 2}
    rows = {name: world_rows(name) * 8 for name in ("retain", "benign")}  # that suite's batches are of 32
    config = described(tmp_path, rows, benign=benign, attacks="benign", attack_steps=1, attack_budget=1)
    start("knowledge", monkeypatch, "--config", config, "--phases", "tar")
    report = Report.load(tmp_path / "run" / "tar")
    assert report.benign["num_steps"] == 2 and len(report.benign["model"]) == 1


def test_the_refusal_recipe_on_files_with_a_judge(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(files_of_ones_own(tmp_path)))
    start("refusal", monkeypatch, "--config", tmp_path / "config.yaml")
    report = Report.load(tmp_path / "run" / "tar")
    shares = report.config["contamination"]
    assert shares["harmful"] == {"forget": 0.0, "retain": 0.0, "tamper_resistance": 0.0}
    assert shares["questions of harm"] == {**shares["harmful"], "harmful": 0.0}
    assert "No question, and no row" in (tmp_path / "run" / "tar" / "SUMMARY.md").read_text()
    assert report.references["base"].before == {"harm": 1.0, "capability": 0.0}
    assert report.references["base"].model["weights_sha256"] == report.references["twin"].model["weights_sha256"]
    # without a phase 1 the twin is the base: one attack for both, and one of the model
    assert len(list((tmp_path / "run" / "attacks" / "jobs").glob("sft-*.json"))) == 2
    assert "the **twin** is the base itself" in (tmp_path / "run" / "tar" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversaries": None}, "needs either `adversaries` or `adversaries_file`"),
        ({"adversaries_file": "a.yaml"}, "needs either `adversaries` or `adversaries_file`"),
        ({"adversaries": [{"name": "x", "dateset": "forget"}]}, "Adversary 0 of the suite is .*dateset"),
        ({"attacks": "no-such-suite"}, "There is no suite 'no-such-suite'. Use knowledge, refusal"),
        ({"world": None}, "needs `model_name_or_path` and `data`, or `world`"),
        ({"world": None, "model_name_or_path": "m", "data": {"retain": "r.jsonl"}}, "needs `metrics` for its red team"),
        (
            {"world": None, "model_name_or_path": "m", "data": {"retain": "r.jsonl"}, "attack_seeds": 0},
            "`data` has .*'retain'.*, without 'tamper_resistance'",
        ),
        ({"world": "cities"}, "There is no world 'cities'. Give the seed of one, or animal-poems."),
        ({"tamper_resistence_weight": 3}, "Unknown arguments from config file"),
        ({"tamper_resistance_loss": "dop"}, "tamper_resistance_loss='dop'"),
        ({"chance": 2}, "`chance` is 2.0"),
        ({"phases": ["dpo", "tar", "polish"]}, "and knows no 'polish'. Use dpo, tar, repair."),
        ({"phases": ["random_mapping", "tar"]}, "and knows no 'random_mapping'. Use dpo, tar, repair."),
        ({"phases": ["tar", "repair", "repair"]}, "with 'repair' twice. Name each phase once."),
        ({"phases": ["dpo", "repair"]}, "without 'tar'. Add it"),
        ({"phases": []}, "without 'tar'. Add it"),
        ({"phases": ["repair", "tar"]}, "Give them in the order tar, repair."),
        ({"phases": "tar"}, "phases='tar'. Give phases as list"),
        ({"reference": "twin"}, "reference='twin'. Use 'start' or 'base'."),
    ],
)
def test_what_cannot_be_run_is_one_line_before_any_training(tmp_path, monkeypatch, capsys, changes, message):
    config = yaml.safe_load((CONFIGS / "testbed_refusal.yaml").read_text()) | {"output_dir": str(tmp_path / "run")}
    config |= changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(SystemExit) as error:
        start("refusal", monkeypatch, "--config", tmp_path / "config.yaml")
    said = capsys.readouterr().err
    assert error.value.code == 2 and re.search(message, said), said
    assert not (tmp_path / "run" / "dpo").exists()


@pytest.mark.parametrize("role", ["retain", "general", "preferences"])
def test_odd_rows_of_every_data_set_are_named_before_any_training(tmp_path, monkeypatch, capsys, role):
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    data = {name: tiny.conversational(8, name) for name in ("retain", "forget", "general")}
    data |= {name: tiny.preference(8, name) for name in ("tamper_resistance", "preferences")}
    rows = data[role].to_list()
    rows[5] = dict.fromkeys(rows[5])
    data[role] = Dataset.from_list(rows)
    described = {
        "model_name_or_path": str(tmp_path / "model"),
        "output_dir": str(tmp_path / "run"),
        "data": {name: str(tmp_path / f"{name}.jsonl") for name in data},
        "adversaries": [{"name": "sft", "dataset": "forget", "num_steps": 4, "batch_size": 4}],
        "attack_seeds": 0,
        "phases": ["dpo", "tar"],
        "tamper_resistance_loss": "dpo",
        "use_cpu": True,
        "bf16": False,
    }
    for name, dataset in data.items():
        dataset.to_json(described["data"][name])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(SystemExit):
        start("refusal", monkeypatch, "--config", tmp_path / "config.yaml")
    assert f"`data.{role}` has 1 rows without a value" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


KNOWLEDGE = {"max_steps": 750, "learning_rate": 2e-5, "warmup_steps": 32, "tamper_resistance_loss": "entropy"}
PAPER = {
    "bio": {**KNOWLEDGE, "tamper_resistance_weight": 4.0},
    "cyber": {**KNOWLEDGE, "tamper_resistance_weight": 4.0},
    "chem": {**KNOWLEDGE, "tamper_resistance_weight": 3.0},
    "refusal": {
        "max_steps": 100,
        "learning_rate": 6e-5,
        "warmup_steps": 32,
        "tamper_resistance_loss": "dpo",
        "tamper_resistance_weight": 0.1,
        "beta": 0.1,
    },
}
# rows of an attack's and of D_retain's batch over 8 devices, and tokens of a row
BATCHES = {"bio": (32, 64, 256), "cyber": (32, 64, 256), "chem": (32, 64, 256), "refusal": (64, 64, 512)}
RATES = {"bio": {2e-6, 2e-5, 4e-5}, "refusal": {2e-6, 2e-5, 4e-5}, "cyber": {2e-5, 4e-5}, "chem": {2e-5, 4e-5}}


@pytest.mark.parametrize("name", PAPER)
def test_configurations_have_the_papers_hyperparameters(name, monkeypatch):
    kind = "refusal" if name == "refusal" else "knowledge"
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--use_cpu", "true", "--bf16", "false"]
    args, tar = TrlParser((recipes.RECIPES[kind].arguments, TARConfig)).parse_args_and_config(arguments)
    tar.check()
    assert {field: getattr(tar, field) for field in PAPER[name]} == PAPER[name]
    assert (tar.tamper_resistance_interval, tar.adversaries_per_step, tar.tamper_resistance_batch_size) == (4, 1, 64)
    adversaries = args.training_adversaries()
    assert {a.learning_rate for a in adversaries} == RATES[name]
    attacked, kept, length = BATCHES[name]
    assert {(a.num_steps, a.batch_size, a.optimizer) for a in adversaries} == {(64, attacked, "adamw")}
    assert (8 * tar.per_device_train_batch_size * tar.gradient_accumulation_steps, tar.max_length) == (kept, length)
    if kind == "refusal":
        assert (args.phases, args.repair_steps) == (["tar", "repair"], 100)
    else:
        assert (args.phases, args.safeguard_steps) == (["random_mapping", "tar"], 600)
    suite = refusal_suite() if kind == "refusal" else knowledge_suite()
    wanted = {read for each in [*adversaries, *suite] for read in each.reads} | {"retain", "tamper_resistance"}
    assert wanted <= set(args.data)
    for role, source in args.data.items():
        if name != "chem":  # its files are the user's
            DataSource.of(role, source)
    if kind == "knowledge":
        assert LMEvalTask(**args.metrics["harm"]).task == f"wmdp_{name}"


@pytest.mark.parametrize(
    ("name", "phases", "visit", "lengths"),
    [
        ("testbed_refusal", ["dpo", "tar"], 8, {"attack": 512, "benign": 128}),
        ("smollm2_refusal", ["dpo", "tar"], 8, {"attack": 512, "benign": 128}),
        ("testbed_refusal_paper", ["dpo", "tar", "repair"], None, {"attack": 32}),
    ],
)
def test_refusal_is_hardened_after_dpo_by_continued_attacks_or_the_papers(name, phases, visit, lengths, monkeypatch):
    read = []
    monkeypatch.setattr(sys, "argv", ["refusal.py", "--config", str(CONFIGS / f"{name}.yaml")])
    run(lambda *arguments: read.extend(arguments), recipes.RECIPES["refusal"].arguments, TARConfig)
    args, tar = read
    tar.check()
    assert (args.phases, args.reference, tar.tamper_resistance_loss) == (phases, "start", "dpo")
    assert tar.steps_per_visit == visit and suite_of(args, "refusal")
    assert {a.role: a.num_steps for a in args.training_adversaries()} == lengths


def test_every_scalar_can_be_overridden():
    arguments = ["--config", str(CONFIGS / "testbed_refusal.yaml"), "--learning_rate", "0.5", "--repair_steps", "3"]
    args, tar = TrlParser((recipes.RECIPES["refusal"].arguments, TARConfig)).parse_args_and_config(
        [*arguments, "--world", "4"]
    )
    assert (tar.learning_rate, args.repair_steps, args.world) == (0.5, 3, "4")


SMALL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("share", [pytest.param("weights", marks=pytest.mark.slow), "state of the optimizer"])
def test_a_full_disk_in_a_phase_is_one_sentence_and_the_phase_goes_on(tmp_path, monkeypatch, share):
    """No file may be larger than a part of the weights, or than the weights alone: the optimizer's state is twice as large."""
    config = described(tmp_path, attack_seeds=0, safeguard_steps=2, save_steps=1)
    size = (knowledge_model_path(KnowledgeWorld(0)) / "model.safetensors").stat().st_size
    limit = size // 2 if share == "weights" else size * 3 // 2
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent)}
    program = [sys.executable, "-c", SMALL_DISK, str(limit), str(RECIPES / "knowledge.py"), "--config", str(config)]
    found = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert last.startswith("knowledge.py: ") and "/run/random_mapping' cannot be written (" in last, last
    assert last.endswith("Make room and start again: it goes on from its last checkpoint.")
    assert not (tmp_path / "run" / "random_mapping" / "model.safetensors").exists()
    start("knowledge", monkeypatch, "--config", config)
    assert (tmp_path / "run" / "tar" / "model.safetensors").is_file()
