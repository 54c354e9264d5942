"""A phase that is stopped anywhere comes to the same model."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from datasets import Dataset
from support import tiny
from transformers import AutoModelForCausalLM

from trl_tar import TARConfig, interrupted
from trl_tar.files import unfinished_name
from trl_tar.pipeline.arguments import RecipeArguments
from trl_tar.pipeline.phases import train_phase
from trl_tar.pipeline.run_folder import LOG, hold
from trl_tar.pipeline.steps import run


def trained(make_trainer, folder):
    trainer = make_trainer(tiny.gpt2(), output_dir=folder, max_steps=3, save_strategy="steps", save_steps=1)
    return AutoModelForCausalLM.from_pretrained(train_phase(trainer, folder), dtype=torch.float64)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_phase_that_is_killed_comes_to_the_same_weights(make_trainer, tmp_path, last):
    """`last`: of its checkpoints, the newest that is left, of those it wrote; nothing of the model was saved yet."""
    expected = trained(make_trainer, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    for checkpoint in (tmp_path / "whole").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) <= last:
            shutil.copytree(checkpoint, tmp_path / "killed" / checkpoint.name)
    found = trained(make_trainer, tmp_path / "killed")
    for (name, p), q in zip(expected.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_weights_that_are_no_numbers_are_not_saved(make_trainer, tmp_path):
    trainer = make_trainer(tiny.gpt2(), output_dir=tmp_path, max_steps=2, learning_rate=1e300)
    with pytest.raises(ValueError, match="The phase '.*' diverged: .* Lower its learning rate, and remove") as error:
        train_phase(trainer, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / LOG).exists() and not list(tmp_path.rglob("*.safetensors"))


def test_a_batch_without_a_token_to_predict_has_no_loss(make_trainer, tmp_path):
    rows = tiny.tokenised_language(tiny.prompt_completion(3, "retain"))
    rows.insert(1, {"input_ids": [3], "labels": [3]})
    trainer = make_trainer(
        tiny.gpt2(),
        data={"retain": Dataset.from_list(rows)},
        output_dir=tmp_path,
        max_steps=4,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        logging_steps=1,
    )
    assert len(trainer.train_dataset) == 4
    train_phase(trainer, tmp_path)
    log = json.loads((tmp_path / LOG).read_text())
    losses = [entry.get("retain_loss/lm") for entry in log if "grad_norm/retain" in entry]
    assert [loss is None for loss in losses] == [False, True, False, False]


def test_checkpoints_are_kept_by_their_step_when_the_clock_is_set_back(make_trainer, tmp_path):
    """With a limit of one, each new checkpoint was removed as it was written, until the clock had caught up."""
    limits = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trained(make_trainer, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    tomorrow = time.time() + 86_400
    os.utime(tmp_path / "run" / "checkpoint-1", (tomorrow, tomorrow))
    train_phase(make_trainer(tiny.gpt2(), output_dir=tmp_path / "run", **limits), tmp_path / "run")
    assert [place.name for place in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_what_a_killed_run_had_not_finished_is_removed_by_the_next(tmp_path):
    left = [".run.json.4711", ".run.json.4711-0a1b2c3d", "tar/.log_history.json.12"]
    kept = ["run.json", ".run.json.notes", "tar/run.json", ".lock.json", "tar/deeper/.run.json.4711"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    hold(tmp_path)
    assert [name for name in (*left, *kept) if (tmp_path / name).exists()] == kept


def test_two_processes_of_one_number_write_under_different_names(tmp_path):
    names = {unfinished_name(tmp_path / "run.json").name for _ in range(100)}  # in containers that share a disk
    assert len(names) == 100 and all(name.startswith(f".run.json.{os.getpid()}-") for name in names)


def stopped(*arguments) -> None:
    raise KeyboardInterrupt


def test_a_recipe_that_is_stopped_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"output_dir": str(tmp_path / "run"), "use_cpu": True, "bf16": False})
    )
    monkeypatch.setattr(sys, "argv", ["knowledge.py", "--config", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit) as ended:
        run(stopped, RecipeArguments, TARConfig)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"knowledge.py: {interrupted.SENTENCE}\n"


HOLD = """
import sys
from pathlib import Path
from trl_tar.pipeline.run_folder import hold

hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_runs_until_its_process_ends(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match="Another process works in '.*run'. Wait for it, or give another output_dir."
        ):
            hold(tmp_path / "run")
        other.kill()
    hold(tmp_path / "run")
    hold(tmp_path / "run")  # the next phase of the same run
