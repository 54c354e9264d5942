"""The examples run, and the flat loop is the trainer's algorithm."""

import importlib.util
import re
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest
import torch
from support import tiny
from support.repository import ROOT
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar import Adversary, Report
from trl_tar.adversaries.data_order import draw_batches, draw_rows
from trl_tar.cli.main import main
from trl_tar.pipeline.recipes import run_recipe
from trl_tar.testbed import KnowledgeWorld, knowledge_model


EXAMPLES = ROOT / "examples"
SEED = 42


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("steps", [1, 3])
def test_flat_loop_equals_the_trainer(make_trainer, rows, steps):
    adversary = Adversary("forget", "forget", **tiny.ATTACK)
    trainer = make_trainer(adversaries=[adversary], max_steps=steps)
    trainer.train()

    collate = DataCollatorForLanguageModeling(0)
    sizes = {name: len(data) for name, data in rows.items()}
    model = tiny.gpt2()
    proxies = [draw_rows(sizes["tamper_resistance"], 3, f"{SEED} tamper-resistance {i} 0") for i in range(steps)]
    attacks = [draw_batches(adversary, sizes, f"{SEED} attack {i} 0") for i in range(steps)]
    loop = load("flat_tar_loop").train_tar(
        model,
        torch.optim.SGD(model.parameters(), lr=tiny.SETTINGS["learning_rate"]),
        [collate(rows["retain"][4 * i : 4 * i + 4]) for i in range(steps)],
        [collate([rows["tamper_resistance"][i] for i in chosen]) for chosen in proxies],
        [[collate([rows[name][i] for name, i in batch]) for batch in attack] for attack in attacks],
        attack_learning_rate=tiny.ATTACK["learning_rate"],
        interval=2,
        tamper_resistance_weight=2.0,
        representation_weight=0.5,
    )
    losses = list(loop)
    error = tiny.displacement_error(tiny.weights(model), tiny.weights(trainer.model), tiny.weights(tiny.gpt2()))
    assert error < 1e-10
    for (retain_loss, tamper_resistance_losses), log in zip(losses, trainer.state.log_history, strict=False):
        assert log["retain_loss/lm"] == pytest.approx(retain_loss, rel=1e-10)
        assert log["tamper_resistance_loss/last"] == pytest.approx(tamper_resistance_losses[-1], rel=1e-10)


@pytest.mark.slow
def test_flat_loop_tells_what_it_computes_and_entropy_grows(capsys, monkeypatch):
    loop, steps = load("flat_tar_loop"), []
    train_tar = loop.train_tar

    def recorded(*args, **settings):
        for step in train_tar(*args, **settings):
            steps.append(step)
            yield step

    monkeypatch.setattr(loop, "train_tar", recorded)
    loop.main()
    said = re.findall(r"step (\d+): retain loss ([\d.]+), entropy .* attack ([\d.]+) nats", capsys.readouterr().out)
    assert said == [(str(n), f"{steps[n - 1][0]:.3f}", f"{-steps[n - 1][1][-1]:.3f}") for n in (10, 20, 30, 40)]
    entropies = [float(entropy) for _, _, entropy in said]
    assert entropies == sorted(entropies) and entropies[-1] > 5 * entropies[0]  # seen were 0.008 and 0.132
    assert max(float(retain_loss) for _, retain_loss, _ in said) < 0.05  # seen was 0.000


@pytest.mark.slow
def test_quickstart_shows_that_simulated_attackers_make_the_difference(tmp_path):
    script = EXAMPLES / "quickstart.py"
    assert len(script.read_text().splitlines()) < 80
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    base, without, tar = (
        [float(number) for number in re.findall(r"\d\.\d\d", line)]
        for line in result.stdout.splitlines()
        if "harm" in line
    )
    assert base[0] > 0.95 and tar[0] < 0.5 and tar[1] > 0.95  # harm, and capability, before attack
    assert tar[-1] < without[-1] - 0.1  # after attack


def test_files_of_ones_own_are_hardened_and_attacked_as_the_example_says(tmp_path, monkeypatch, capsys):
    shutil.copytree(EXAMPLES / "own_data", tmp_path, dirs_exist_ok=True)
    world = KnowledgeWorld(0)
    knowledge_model(world).save_pretrained(tmp_path / "my-model")
    world.tokenizer().save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attacks.yaml").write_text("[{name: mix, dataset: hazard, num_steps: 2, batch_size: 32}]")
    short = ["--max_steps", "2", "--warmup_steps", "0", "--attack_seeds", "1"]
    run_recipe("knowledge", ["--config", "harden.yaml", *short])
    said, bars = capsys.readouterr()
    assert re.search(r"seed 0: harm \d\.\d\d", bars)
    assert "Not resistant. " in said and "this model" in said and "Open my-run/tar/report.html" in said
    assert Report.load(tmp_path / "my-run" / "tar").before["harm"] > 0.9
    (command,) = re.findall(r"To make attacks again: trl-tar (.*)", said)
    verify, *arguments = [str(tmp_path / word) if "/" in word else word for word in command.split()]
    monkeypatch.chdir(tmp_path.parent)  # what the recipe wrote says where the files are
    assert main([verify, *arguments, "--attacks", "1"]) == 0


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_was_left_with(tmp_path):
    notebook = nbformat.read(EXAMPLES / "tamper_resistance.ipynb", as_version=4)
    kept = printed(notebook)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": tmp_path}}).execute()
    for cells in (kept, printed(notebook)):
        harm = {name: (float(before), float(after)) for name, before, after in cells}
        assert harm["TAR"][1] < harm["K = 0"][1] - 0.1 and harm["base"][1] > 0.9


def printed(notebook) -> list[tuple[str, str, str]]:
    """Model, and harm before and after attack, of the last cell of code."""
    text = [cell for cell in notebook.cells if cell.cell_type == "code"][-1].outputs[0].text
    return re.findall(r"^ *(.*?): harm (\S+) → ([\d.]+)", text, flags=re.MULTILINE)
