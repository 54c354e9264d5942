"""A phase that is stopped anywhere comes to the same model."""

import shutil

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from trl_tar.phases import train_phase


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
