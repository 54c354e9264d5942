"""Dropout of every kind is off in training mode, wherever a model has it from."""

import copy

import pytest
import torch
from support import tiny
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from trl_tar.models.training_noise import configured_noise, configured_with, disable_training_noise, without_dropout


SIZES = {
    "vocab_size": 29,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "attn_implementation": "eager",
}
LLAMA = {**SIZES, "intermediate_size": 16, "num_key_value_heads": 2}
NOISY = {
    "a number in each layer": (LlamaForCausalLM, LlamaConfig(**LLAMA, attention_dropout=0.9)),
    "modules": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=29, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.9, embd_pdrop=0.5),
    ),
    "layers that are left out": (
        OPTForCausalLM,
        OPTConfig(**SIZES, ffn_dim=16, word_embed_proj_dim=8, dropout=0.5, layerdrop=0.5, attention_dropout=0.5),
    ),
    "read from the configuration in each pass": (
        FalconForCausalLM,
        FalconConfig(**SIZES, attention_dropout=0.9, hidden_dropout=0.9),
    ),
    "noise of a router": (
        MixtralForCausalLM,
        MixtralConfig(**LLAMA, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.9),
    ),
}


@pytest.mark.parametrize("kind", NOISY)
def test_training_mode_gives_the_logits_of_evaluation_mode(kind):
    made, config = NOISY[kind]
    model = tiny.seeded(made, copy.deepcopy(config), 0)
    ids = torch.arange(12)[None] + 3

    def differs() -> float:
        with torch.no_grad():
            evaluated = model.eval()(input_ids=ids).logits
            return max((model.train()(input_ids=ids).logits - evaluated).abs().max().item() for _ in range(4))

    assert differs() > 1e-4
    disable_training_noise(model)
    assert differs() < 1e-6


def test_a_configuration_is_saved_as_it_was_given(tmp_path):
    made, config = NOISY["modules"]
    model = tiny.seeded(made, copy.deepcopy(config), 0)
    given = configured_noise(model.config)
    # GPT-2 has 0.1 wherever nothing else is asked for
    assert given == {"resid_pdrop": 0.9, "embd_pdrop": 0.5, "attn_pdrop": 0.1, "summary_first_dropout": 0.1}
    disable_training_noise(model)
    assert configured_noise(model.config) == {}
    with configured_with(model.config, given):
        model.save_pretrained(tmp_path)
    assert configured_noise(model.config) == {}
    assert configured_noise(GPT2Config.from_pretrained(tmp_path)) == given


def test_dropout_layers_get_their_modes_back():
    layers = nn.Sequential(nn.Dropout(0.9), nn.Dropout(0.9).eval()).train()
    layers[1].eval()
    ones = torch.ones(64)
    with without_dropout(layers):
        assert torch.equal(layers(ones), ones)
    assert [layer.training for layer in layers] == [True, False]
    assert not torch.equal(layers(ones), ones)
