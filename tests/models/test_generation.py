"""Answers are greedy and end where the model ends them, whatever settings of generation come with it."""

import pytest
import torch
from support import tiny
from transformers import MarianConfig, MarianForCausalLM, RwkvConfig, RwkvForCausalLM

from trl_tar.data.self_written import self_written
from trl_tar.evaluation.coherence import generated
from trl_tar.evaluation.generation import answers
from trl_tar.models.architecture import reads_left_padding
from trl_tar.models.generation import continued, set_end_tokens


# a turn ends with w9, which is no special token; without it the model goes on through turns that nobody asked for
TURNS = "assistant w3 w4 w9 user w5 w6 w7"
END = tiny.VOCABULARY.index("w9")
FORGED = {
    "suppress_tokens": [tiny.VOCABULARY.index("w3")],
    "begin_suppress_tokens": [tiny.VOCABULARY.index("w3")],
    "bad_words_ids": [[tiny.VOCABULARY.index("w4")]],
    "repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 6,
    "min_length": 12,
    "num_beams": 3,
    "do_sample": True,
    "forced_eos_token_id": 1,
    "max_length": 1,
    "sequence_bias": [[[tiny.VOCABULARY.index("w3")], -100.0]],
    "exponential_decay_length_penalty": [0, 90.0],
}


@pytest.mark.parametrize("place", ["generation_config", "config", "text of a composite configuration"])
def test_an_answer_ends_at_any_of_the_models_ends(place, monkeypatch):
    model, tokenizer = tiny.saying(TURNS), tiny.tokenizer()
    if place == "generation_config":
        model.generation_config.eos_token_id = [1, END]
    elif place == "config":
        model.config.eos_token_id = [1, END]
    else:
        part = tiny.llama().config
        part.eos_token_id = END
        monkeypatch.setattr(model.config, "get_text_config", lambda *a, **k: part)
    assert answers(model, tokenizer, ["w1 w2", "w1"], 16) == ["w3 w4", "w3 w4"]
    ((_, said),) = generated(model, tokenizer, ["assistant"], 16)
    assert tokenizer.decode(said) == "w3 w4 w9"
    (text,) = self_written(model, tokenizer, ["assistant"], 1, 16, temperature=1e-3, batch_size=1)["completion"]
    assert text == "w3 w4"


def test_without_an_end_of_its_own_the_tokenizers_end_counts():
    model = tiny.saying(TURNS)
    set_end_tokens(model, [])
    assert answers(model, tiny.tokenizer(), ["w1"], 16) == ["w3 w4 w9 user w5 w6 w7"]


@pytest.mark.parametrize("name", FORGED)
def test_no_setting_of_the_model_changes_a_greedy_answer(name):
    model = tiny.saying(TURNS)
    model.generation_config.eos_token_id = [1, END]
    setattr(model.generation_config, name, FORGED[name])
    forged = model.generation_config
    assert answers(model, tiny.tokenizer(), ["w1 w2"], 16) == ["w3 w4"]
    ((_, said),) = generated(model, tiny.tokenizer(), ["assistant"], 16)
    assert said.tolist() == tiny.tokenizer()("w3 w4 w9")["input_ids"]
    assert model.generation_config is forged  # and is the model's own again


def test_settings_are_the_models_own_again_after_an_error():
    model = tiny.saying(TURNS)
    own = model.generation_config
    with pytest.raises(IndexError):
        continued(model, tiny.tokenizer(), torch.tensor([[999]]), torch.ones(1, 1, dtype=torch.long), 2)
    assert model.generation_config is own


def rwkv():
    torch.manual_seed(0)
    size = {"vocab_size": len(tiny.VOCABULARY), "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2}
    return RwkvForCausalLM(RwkvConfig(**size, context_length=64, bos_token_id=1, eos_token_id=1)).eval()


def marian():
    torch.manual_seed(0)
    size = {"vocab_size": len(tiny.VOCABULARY), "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2}
    config = MarianConfig(
        **size, decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, is_decoder=True
    )
    model = MarianForCausalLM(config).eval()
    torch.nn.init.normal_(model.get_decoder().embed_positions.weight)  # sinusoids are small beside random words
    return model


@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama, rwkv, marian])
def test_an_answer_does_not_depend_on_what_is_asked_beside_it(build):
    model, tokenizer = build().float().eval(), tiny.tokenizer()
    requests = ["w1", "w2 w3 w4 w5", "w6 w7", "w8 w9 w1 w2 w3 w4"]
    alone = [answers(model, tokenizer, [request], 6)[0] for request in requests]
    assert answers(model, tokenizer, requests, 6) == alone


def test_models_that_read_padding_are_told_from_those_that_do_not():
    assert [reads_left_padding(build()) for build in (tiny.gpt2, tiny.llama, rwkv, marian)] == [
        False,
        False,
        True,
        True,
    ]
