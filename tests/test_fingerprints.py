"""What a finished phase and a cached answer are bound to."""

import pytest
from support import tiny
from support.forged import edited
from transformers import AutoTokenizer

from trl_tar.evaluation.coherence import AnswerNLL
from trl_tar.evaluation.identity import identity
from trl_tar.evaluation.judges import Classifier
from trl_tar.fingerprints import files_sha256, origin, vocabulary_sha256


@pytest.fixture
def folder(tmp_path):
    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


DECISIVE = {
    "positions": lambda folder: edited(folder / "config.json", rope_theta=5.0),
    "dropout": lambda folder: edited(folder / "config.json", attention_dropout=0.9),
    "ends": lambda folder: edited(folder / "generation_config.json", eos_token_id=[1, 7]),
    "weights": lambda folder: tiny.llama(1).save_pretrained(folder),
}


@pytest.mark.parametrize("change", DECISIVE)
def test_a_start_that_reads_its_weights_otherwise_is_another_one(change, folder):
    def judges() -> list[str]:
        return [identity(AnswerNLL(["w1"], str(folder))), identity(Classifier(str(folder), 0))]

    before, by = origin(folder), judges()
    DECISIVE[change](folder)
    assert origin(folder) != before
    assert not set(by) & set(judges())


def test_versions_and_the_tokenizer_leave_the_start_as_it_is(folder):
    before, weights = origin(folder), files_sha256(folder)
    edited(folder / "config.json", transformers_version="4.0.0", _name_or_path="elsewhere")
    (folder / "tokenizer.json").unlink()
    assert (origin(folder), files_sha256(folder)) == (before, weights)


def test_a_hub_id_stands_for_its_commit(tmp_path, monkeypatch):
    commits = ["1" * 40, "2" * 40]
    found = []
    for commit in commits:
        snapshot = tmp_path / "models--me--model" / "snapshots" / commit
        tiny.llama().save_pretrained(snapshot)
        refs = tmp_path / "models--me--model" / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(commit)
        monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
        found.append(origin("me/model"))
    assert found == [f"me/model@{commit}" for commit in commits]
    assert origin("me/nowhere") == "me/nowhere"


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"),
        lambda tokenizer: setattr(tokenizer, "clean_up_tokenization_spaces", True),
        lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
        lambda tokenizer: tokenizer.add_tokens(["w99"]),
        lambda tokenizer: setattr(tokenizer, "eos_token", "w1"),
    ],
)
def test_every_part_of_a_tokenizer_counts(folder, change):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert vocabulary_sha256(tokenizer) == vocabulary_sha256(tiny.tokenizer())
    change(tokenizer)
    assert vocabulary_sha256(tokenizer) != vocabulary_sha256(tiny.tokenizer())
