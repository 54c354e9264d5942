"""A configuration of an adapter, read before PEFT reads it: it imports nothing."""

import json

import pytest
from support import tiny
from support.sentences import one_sentence
from transformers import AutoModelForSequenceClassification

from trl_tar.hub.publishing import publish
from trl_tar.models.adapters import adapter_configuration
from trl_tar.models.loading import base_weights, from_files, load
from trl_tar.models.tokenizers import own_tokenizer
from trl_tar.models.untrusted_config import base_of
from trl_tar.pipeline.steps import loaded
from trl_tar.red_teaming.checks import check_models


IMPORTING = {
    "megatron": {"megatron_config": {"a": 1}, "megatron_core": "evilpkg"},
    "the standard library of megatron": {"megatron_config": {"a": 1}, "megatron_core": "megatron.core"},
    "a library alone": {"megatron_core": "evilpkg"},
    "a class": {"task_type": None, "auto_mapping": {"base_model_class": "X", "parent_library": "evilpkg"}},
    "further down": {"runtime_config": {"deeper": [{"parent_library": "evilpkg"}]}},
    "code": {"tokenizer_kwargs": {"trust_remote_code": True}},
}
READERS = (
    load,
    base_weights,
    own_tokenizer,
    base_of,
    loaded,
    lambda folder: check_models({"model": folder}),
    lambda folder: from_files(AutoModelForSequenceClassification, folder),  # a judge
)


def write(folder, **fields):
    """An adapter's configuration, with a whole base beside it, and a package that leaves a mark when it is imported."""
    tiny.llama().save_pretrained(folder / "base")
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "base_model_name_or_path": str(folder / "base")}
    usual |= {
        "target_modules": ["q_proj"],
        "megatron_core": "megatron.core",
        "megatron_config": None,
        "auto_mapping": None,
    }
    place = folder / "adapter"
    (place / "evilpkg").mkdir(parents=True)
    (place / "evilpkg" / "__init__.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    (place / "adapter_config.json").write_text(json.dumps(usual | fields))
    return place


@pytest.mark.parametrize("case", IMPORTING)
def test_a_configuration_that_names_modules_to_import_is_refused_everywhere(tmp_path, monkeypatch, make_trainer, case):
    folder = write(tmp_path, **IMPORTING[case])
    monkeypatch.syspath_prepend(str(folder))
    for reader in (*READERS, lambda place: make_trainer(place)):
        with pytest.raises(ValueError, match="names a module to import") as error:
            reader(str(folder))
        one_sentence(error)
    assert not (tmp_path / "ran").exists()


def test_what_peft_writes_by_itself_is_read(tmp_path):
    assert adapter_configuration(str(write(tmp_path)))["r"] == 2


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA", "POLY", "ADAPTION_PROMPT", 5])
def test_an_adapter_that_merges_into_no_weights_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=f"peft_type={kind!r} merges into no weights") as error:
        load(str(write(tmp_path, peft_type=kind)))
    one_sentence(error)


def test_an_adapter_is_no_judge(tmp_path):
    with pytest.raises(ValueError, match="is an adapter, where a whole model is read") as error:
        from_files(AutoModelForSequenceClassification, str(write(tmp_path)))
    one_sentence(error)


def test_an_adapter_of_an_adapter_is_refused(tmp_path):
    folder = write(tmp_path)
    (tmp_path / "base" / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match="which is an adapter too") as error:
        load(str(folder))
    one_sentence(error)


PATTERNS = {
    "target_modules": "(.|.)+!",
    "exclude_modules": "(.|.)+!",
    "layers_pattern": ["(.|.)+!"],
    "rank_pattern": {"(.|.)+!": 4},
    "alpha_pattern": {"(.|.)+!": 4},
}


@pytest.mark.parametrize("field", PATTERNS)
def test_patterns_of_strangers_are_not_matched(tmp_path, field):
    with pytest.raises(ValueError, match=f"{field}.*only names of modules are read") as error:
        base_of(str(write(tmp_path, **{field: PATTERNS[field]})))
    one_sentence(error)


def test_a_publisher_is_told_of_a_configuration_that_is_none(tmp_path):
    folder = write(tmp_path)
    (folder / "adapter_config.json").write_text("[1]")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="'adapter_config.json' holds 'list' and no fields"):
        publish(folder, "me/model")
