"""Saved folders say what transformers 4 reads, change nothing for 5, and give the same logits in both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from trl_tar.fingerprints import config_sha256, origin, vocabulary_sha256
from trl_tar.models.transformers_4 import write_for_transformers_4
from trl_tar.pipeline.phases import train_phase
from trl_tar.testbed.model_folders import SHIPPED, save_in_one_piece


LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE = {
    "another base": {"rope_type": "default", "rope_theta": 137.0},
    "scaled": {**LLAMA3, "rope_theta": 137.0, "original_max_position_embeddings": 16},
}
IDS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]
# run by the interpreter of these tests, with the older libraries first on its path
OLDER = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {"version": transformers.__version__, "logits": [], "words": []}
ids = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found["words"].append([tokenizer("w1 w2 <mark>")["input_ids"], tokenizer.pad_token_id, tokenizer.all_special_tokens])
    with torch.no_grad():
        found["logits"].append(AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(ids)).logits.tolist())
print(json.dumps(found))
"""


def saved(folder: Path, rope: dict) -> Path:
    """A model and a tokenizer with an extra special token, as transformers saves them."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    # weights this large make attention depend on positions
    config = LlamaConfig(
        vocab_size=32, rope_parameters=dict(rope), initializer_range=0.3, max_position_embeddings=64, **sizes
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<mark>"]})
    tokenizer.save_pretrained(folder)
    return folder


def fields(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def read_by_5(folder: Path) -> tuple:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor(IDS)).logits
    return config_sha256(model), vocabulary_sha256(tokenizer), origin(folder), logits.tolist()


@pytest.mark.parametrize("rope", ROPE.values(), ids=ROPE)
def test_what_4_reads_is_written_and_5_sees_no_change(rope, tmp_path):
    folder = saved(tmp_path, rope)
    before = read_by_5(folder)
    write_for_transformers_4(folder)
    config, tokenizer = fields(folder / "config.json"), fields(folder / "tokenizer_config.json")
    assert (config["rope_theta"], config["torch_dtype"]) == (137.0, "float32")
    scheme = {name: value for name, value in rope.items() if name != "rope_theta"}
    assert config.get("rope_scaling") == (scheme if "factor" in rope else None)
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["additional_special_tokens"] == ["<mark>"] and "extra_special_tokens" not in tokenizer
    assert read_by_5(folder) == before
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    write_for_transformers_4(folder)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == files


def test_another_base_of_positions_is_another_start(tmp_path):
    """Only what repeats the newer fields is left out of the hash."""
    write_for_transformers_4(saved(tmp_path, ROPE["another base"]))
    before, file = origin(tmp_path), tmp_path / "config.json"
    file.write_text(json.dumps(fields(file) | {"rope_theta": 138.0}))
    assert origin(tmp_path) != before


def test_words_of_4_in_a_configuration_stay_as_they_are(tmp_path):
    given = {"model_type": "llama", "rope_theta": 9.0, "rope_scaling": LLAMA3, "rope_parameters": ROPE["scaled"]}
    (tmp_path / "config.json").write_text(json.dumps(given))
    write_for_transformers_4(tmp_path)
    assert fields(tmp_path / "config.json") == given


def is_for_4(folder: Path) -> bool:
    older = fields(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    config = fields(folder / "config.json")
    rope = config.get("rope_parameters", {}).get("rope_theta")
    return older and config.get("rope_theta") == rope and config["torch_dtype"] == config["dtype"]


def test_trainers_checkpoints_worlds_and_shipped_models_are_saved_for_4(make_trainer, tmp_path):
    make_trainer(max_steps=1, save_strategy="steps", save_steps=1, output_dir=tmp_path / "run").train()
    assert is_for_4(tmp_path / "run" / "checkpoint-1")
    trainer = SFTTrainer(
        tiny.llama(),
        SFTConfig(str(tmp_path / "phase"), **tiny.TRAINER),
        train_dataset=tiny.raw()["retain"],
        processing_class=tiny.tokenizer(),
    )
    train_phase(trainer, tmp_path / "phase")
    save_in_one_piece(tmp_path / "world", tiny.llama(), tiny.tokenizer())
    shipped = [file.parent for file in SHIPPED.rglob("config.json")]
    assert len(shipped) == 3 and all(map(is_for_4, [tmp_path / "phase", tmp_path / "world", *shipped]))


@pytest.mark.slow
def test_both_versions_give_the_same_logits(tmp_path):
    """The older transformers comes from PyPI into a folder of its own, and takes torch from here."""
    libraries = ("transformers==4.57.6", "huggingface_hub<1", "tokenizers>=0.22,<=0.23")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "older")]
    if subprocess.run([*install, *libraries], capture_output=True).returncode:
        pytest.skip("PyPI cannot be reached")
    folders = [saved(tmp_path / str(number), rope) for number, rope in enumerate(ROPE.values())]
    for folder in folders:
        write_for_transformers_4(folder)
    folders.append(SHIPPED / "knowledge-0" / "base")
    command = [sys.executable, "-c", OLDER, json.dumps(IDS), *map(str, folders)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "older")}
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found["version"] == "4.57.6"
    for folder, older, words in zip(folders, found["logits"], found["words"], strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert words[:2] == [tokenizer("w1 w2 <mark>")["input_ids"], tokenizer.pad_token_id]
        assert sorted(words[2]) == sorted(tokenizer.all_special_tokens)
        # 1e-5: float32, whose kernels may add in another order; a lost base of positions moves logits by more than 0.1
        torch.testing.assert_close(torch.tensor(older), torch.tensor(read_by_5(folder)[3]), rtol=0, atol=1e-5)
