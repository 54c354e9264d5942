"""A trainer pushes its model with the evidence, and nothing behind its back."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from support.hub_server import TOKEN
from support.reports import report_on

from trl_tar.hub.download import load_report


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, task_type="CAUSAL_LM")], ids=["whole", "adapter"])
def test_a_trainer_pushes_with_a_report_and_says_so_where_there_is_none(hub, make_trainer, peft_config, tmp_path):
    trainer = make_trainer(max_steps=1, hub_token=TOKEN, hub_model_id="someone/hardened", peft_config=peft_config)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    trainer.create_model_card()
    assert "**Not attacked.**" in (folder / "README.md").read_text()
    trainer.push_to_hub()
    files = hub.repositories["someone/hardened"].files
    assert "**Not attacked.**" in files["README.md"].decode() and "training_args.bin" not in files
    assert ("adapter_model.safetensors" if peft_config else "model.safetensors") in files
    if peft_config is None:  # the base of this adapter is in memory alone
        trainer.push_to_hub(report=report_on(folder), commit_message="With evidence")
        assert hub.repositories["someone/hardened"].messages[-1] == "With evidence"
        phase = load_report("someone/hardened", token=TOKEN).training["phases"][0]
        assert phase["adversaries"] == [asdict(each) for each in trainer.adversaries]
        assert TOKEN not in str(phase) and phase["settings"]["tamper_resistance_weight"] == 2.0
        trainer.create_model_card()
        assert "Not attacked" not in (folder / "README.md").read_text()
        trainer.save_model()
        assert "Not attacked" not in (folder / "README.md").read_text()
        with torch.no_grad():
            next(trainer.model.parameters()).mul_(2)
        trainer.save_model()
        assert "**Not attacked.**" in (folder / "README.md").read_text() and (folder / "report.json").is_file()
        trainer.push_to_hub()
        files = hub.repositories["someone/hardened"].files
        assert "**Not attacked.**" in files["README.md"].decode() and "report.json" not in files
    with pytest.raises(ValueError, match="push_to_hub has blocking=False"):
        trainer.push_to_hub(blocking=False)


def test_checkpoints_are_not_pushed_behind_the_back_of_the_evidence(hub, make_trainer):
    """transformers would send `training_args.bin`, a pickle that holds the token."""
    trainer = make_trainer(
        max_steps=2, save_steps=1, save_strategy="steps", push_to_hub=True, hub_token=TOKEN, hub_model_id="someone/h"
    )
    trainer.train()
    for repository in hub.repositories.values():
        for files in repository.commits.values():
            assert not [name for name, content in files.items() if TOKEN.encode() in content]
