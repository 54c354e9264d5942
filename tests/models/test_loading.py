"""A model is loaded as its files hold it, or refused with the first name that does not fit."""

import json
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import tiny
from support.sentences import one_sentence

from trl_tar import RandomMappingConfig, RandomMappingTrainer
from trl_tar.cli.write_text import write_text
from trl_tar.evaluation.coherence import AnswerNLL
from trl_tar.evaluation.judges import Classifier, JudgeError
from trl_tar.models.loading import load
from trl_tar.models.tokenizers import check_tokenizer, own_tokenizer
from trl_tar.pipeline.steps import loaded
from trl_tar.red_teaming.targets import Target


IDS = torch.tensor([[5, 6, 7, 8]])


def saved(model, folder: Path, tokenizer=None) -> str:
    model.save_pretrained(folder)
    (tokenizer or tiny.tokenizer()).save_pretrained(folder)
    return str(folder)


def change_weights(folder: str, change) -> None:
    file = Path(folder) / ("adapter_model" if (Path(folder) / "adapter_config.json").is_file() else "model")
    file = file.with_suffix(".safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_configuration(folder: str, **fields) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def under(prefix: str):
    return lambda folder: change_weights(folder, lambda held: {prefix + name: t for name, t in held.items()})


def without(name: str):
    return lambda folder: change_weights(folder, lambda held: {n: t for n, t in held.items() if n != name})


BROKEN = {
    "a compiled model": (under("_orig_mod."), ["lacks 'lm_head.weight' and 20 more", "'_orig_mod.lm_head.weight'"]),
    "a model in DDP": (under("module."), ["lacks 'lm_head.weight'", "for nothing 'module.lm_head.weight'"]),
    "one matrix less": (without("model.layers.1.mlp.up_proj.weight"), ["lacks 'model.layers.1.mlp.up_proj.weight')"]),
    "more layers": (lambda f: change_configuration(f, num_hidden_layers=3), ["lacks 'model.layers.2."]),
    "fewer layers": (lambda f: change_configuration(f, num_hidden_layers=1), ["for nothing 'model.layers.1."]),
    "another vocabulary": (lambda f: change_configuration(f, vocab_size=40), ["shape (29, 8) where (40, 8) is wanted"]),
    "a head that is not tied": (without("lm_head.weight"), ["lacks 'lm_head.weight')"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_do_not_fit_are_one_sentence(tmp_path, case):
    change, told = BROKEN[case]
    change(folder := saved(tiny.llama(), tmp_path / "model"))
    with pytest.raises(ValueError) as error:
        load(folder)
    message = one_sentence(error)
    assert all(part in message for part in told), message


def test_what_a_class_declares_may_be_missing(tmp_path):
    tied = tiny.llama(tie_word_embeddings=True)
    folder = saved(tied, tmp_path / "model")
    assert "lm_head.weight" not in load_file(f"{folder}/model.safetensors")
    # buffers of earlier versions
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "h.0.attn.attention.masked_bias": torch.ones(2),
    }
    change_weights(folder, lambda held: held | old)
    assert torch.equal(load(folder)(IDS).logits, tied(IDS).logits)


def lost_shard(tmp_path) -> str:
    model = tiny.llama()
    model.save_pretrained(tmp_path / "shards", max_shard_size="1KB")
    next((tmp_path / "shards").glob("model-00002-*")).unlink()
    return str(tmp_path / "shards")


def test_a_lost_shard_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="model-00002-of-.*Check that its files are whole") as error:
        load(lost_shard(tmp_path))
    one_sentence(error)


READERS = {
    "red team": lambda folder: Target.of(folder, Path(folder) / "work"),
    "recipe": loaded,
    "nll of answers": lambda folder: AnswerNLL([], folder)._base,
    "text": lambda folder: write_text(folder, Path(folder) / "text.jsonl"),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_a_model_refuses_it(tmp_path, reader):
    under("_orig_mod.")(folder := saved(tiny.llama(), tmp_path / "model"))
    with pytest.raises(ValueError, match="lacks 'lm_head.weight'"):
        READERS[reader](folder)


def test_trainers_refuse_it(tmp_path, make_trainer):
    under("_orig_mod.")(folder := saved(tiny.llama(), tmp_path / "model"))
    with pytest.raises(ValueError, match="lacks 'lm_head.weight'"):
        make_trainer(folder)
    config = RandomMappingConfig(str(tmp_path / "out"), **tiny.TRAINER)
    with pytest.raises(ValueError, match="lacks 'lm_head.weight'"):
        RandomMappingTrainer(folder, config, train_dataset=tiny.text(8, "r"), forget_dataset=tiny.text(8, "f"))


def test_a_trainer_takes_a_whole_model_from_its_folder_in_float32(tmp_path, make_trainer):
    model = tiny.llama()
    trainer = make_trainer(saved(model.to(torch.bfloat16), tmp_path / "model"), max_steps=1)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert torch.equal(trainer.model.lm_head.weight, model.lm_head.weight.float())
    trainer.train()


def test_a_judge_without_its_head_is_refused(tmp_path):
    folder = saved(tiny.llama(), tmp_path / "judge")
    change_configuration(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(JudgeError, match="lacks 'score.weight'"):
        Classifier(folder, 0)(["a"], ["b"])


# --- adapters -------------------------------------------------------------------------------------------------------

LORA = {"r": 4, "task_type": "CAUSAL_LM", "init_lora_weights": False}


def adapted(folder: Path, config, model=None, tokenizer=None):
    """An adapter in a folder, with its base beside it, and the model with it."""
    model = tiny.llama(5, tie_word_embeddings=True) if model is None else model
    saved(model, folder / "base")
    model.name_or_path = str(folder / "base")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole = get_peft_model(model, config).eval()
    for name, parameter in whole.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.5
    whole.save_pretrained(folder / "adapter")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "adapter")
    return str(folder / "adapter"), whole


ADAPTERS = {
    "embeddings": LoraConfig(target_modules=["q_proj", "embed_tokens"], **LORA),
    "head": LoraConfig(target_modules=["lm_head"], **LORA),
    "embeddings as a whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], **LORA),
    "tied alike": LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True, **LORA),
    "layers twice": LoraConfig(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]], **LORA),
    "DoRA": LoraConfig(target_modules=["embed_tokens", "q_proj"], use_dora=True, **LORA),
    "IA3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM", init_ia3_weights=False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ADAPTERS)
def test_what_is_loaded_is_what_was_trained(tmp_path, case):
    folder, trained = adapted(tmp_path, ADAPTERS[case])
    with torch.no_grad():
        wanted = trained(input_ids=IDS).logits
        found = load(folder)
        assert torch.allclose(found(IDS).logits, wanted, rtol=1e-5, atol=1e-5)
        if case != "layers twice":  # whose layers still share what no adapter is on
            again = Target.of(found, tmp_path / "again")
            assert torch.allclose(load(again.path)(IDS).logits, wanted, rtol=1e-5, atol=1e-5)


def test_an_adapter_whose_keys_fit_nothing_is_one_sentence(tmp_path):
    folder, _ = adapted(tmp_path, LoraConfig(target_modules=["q_proj"], **LORA))
    change_weights(
        folder, lambda held: {n.replace("base_model.model", "base_model._orig_mod"): t for n, t in held.items()}
    )
    with pytest.raises(
        ValueError, match="lacks 'base_model.model.model.layers.0.*nothing 'base_model._orig_mod"
    ) as error:
        load(folder)
    one_sentence(error)


def test_an_adapter_of_another_width_is_one_sentence(tmp_path):
    folder, _ = adapted(tmp_path, LoraConfig(target_modules=["q_proj"], **LORA))
    saved(tiny.llama(hidden_size=16), tmp_path / "base")
    with pytest.raises(ValueError, match="size mismatch for base_model.model.model.layers.0") as error:
        load(folder)
    one_sentence(error)


def more_tokens():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["zz1", "zz2"])
    return tokenizer


def test_added_tokens_are_counted_as_they_are_loaded(tmp_path):
    model, tokenizer = tiny.llama(4), more_tokens()
    saved(model, tmp_path / "base")
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **LORA)
    model.name_or_path = str(tmp_path / "base")
    whole = get_peft_model(model, config).eval()
    whole.save_pretrained(folder := tmp_path / "adapter")
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([[len(tokenizer) - 1, 7]])
    assert torch.allclose(load(str(folder))(ids).logits, whole(input_ids=ids).logits, atol=1e-6)
    check_tokenizer(own_tokenizer(str(folder)), str(folder))


def test_added_tokens_without_embeddings_are_one_sentence(tmp_path):
    folder, _ = adapted(tmp_path, LoraConfig(target_modules=["q_proj"], **LORA), tokenizer=more_tokens())
    with pytest.raises(ValueError, match="2 tokens more than its base, and no embeddings of theirs") as error:
        load(folder)
    one_sentence(error)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path):
    folder, _ = adapted(tmp_path, LoraConfig(target_modules=["q_proj"], **LORA))
    assert own_tokenizer(folder).get_vocab() == tiny.tokenizer().get_vocab()


def test_a_soft_prompt_is_one_sentence(tmp_path):
    folder, _ = adapted(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="peft_type='PROMPT_TUNING' merges into no weights") as error:
        load(folder)
    one_sentence(error)


# --- in memory ------------------------------------------------------------------------------------------------------


def test_layers_that_share_weights_are_one_sentence(tmp_path, make_trainer):
    model = tiny.llama()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    for use in (lambda: Target.of(model, tmp_path / "model"), lambda: make_trainer(model)):
        with pytest.raises(ValueError, match="layers.0.mlp.gate_proj.weight' and 'model.layers.1.mlp") as error:
            use()
        one_sentence(error)


def test_a_model_that_its_configuration_does_not_describe_is_one_sentence(tmp_path):
    model = tiny.llama()
    model.model.layers = model.model.layers[:1]
    with pytest.raises(ValueError, match="lacks 'model.layers.1.") as error:
        Target.of(model, tmp_path / "model")
    one_sentence(error)
