"""What is found out of an architecture in one pass, and what is refused."""

from dataclasses import replace

import pytest
import torch
from support.architectures import tiny_config, tiny_model
from support.sentences import one_sentence
from transformers import LlamaForCausalLM

from trl_tar.models.architecture import check_saved, outputs_of
from trl_tar.models.forward_passes import last_token_states
from trl_tar.models.tokenizers import context_of
from trl_tar.red_teaming.targets import Target


@pytest.mark.parametrize(
    ("model_type", "fields", "hidden_states"),
    [
        ("llama", {}, [("B", "T", 32)] * 3),
        ("bart", {"encoder_layers": 1}, [("B", "T", 32)] * 3),  # whose num_hidden_layers is that of the encoder
        ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}, [("B", "T", 32)] * 2 + [("B", "T", 16)]),
        ("gemma3n_text", {}, [(4, "B", "T", 32)] * 3),
    ],
)
def test_hidden_states_are_counted_and_measured(model_type, fields, hidden_states):
    outputs = outputs_of(tiny_model(model_type, **fields), hidden_states=True)
    assert outputs.vocabulary == 32 and list(outputs.hidden_states) == hidden_states


@pytest.mark.parametrize(("model_type", "fields"), [("bert", {"is_decoder": False}), ("cpmant", {}), ("xlnet", {})])
def test_a_model_that_reads_what_it_predicts_is_refused(model_type, fields):
    with pytest.raises(ValueError, match="reads the tokens that it is to predict") as error:
        outputs_of(tiny_model(model_type, **fields))
    one_sentence(error)


def test_hidden_states_that_are_no_vector_a_token_are_one_sentence():
    model = tiny_model("gemma3n_text")
    with pytest.raises(ValueError, match=r"shapes \(4, 2, 3, 32\).*Leave out what reads them: abliteration") as error:
        last_token_states(model, torch.tensor([[7, 8, 9], [7, 8, 9]]), torch.ones(2, 3, dtype=torch.long))
    one_sentence(error)


def test_positions_that_are_counted_from_the_padding_are_fewer():
    model = tiny_model("roberta")
    assert context_of(model.config) == 64 - 2
    model(input_ids=torch.full((1, 62), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 63), 7))


class Negated(LlamaForCausalLM):
    """A forward method that no file holds."""

    def forward(self, *arguments, **named):
        outputs = super().forward(*arguments, **named)
        return replace(outputs, logits=-outputs.logits)


def hooked():
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda module, arguments, logits: -logits)
    return model


@pytest.mark.parametrize("model", [hooked, lambda: Negated(tiny_config("llama")).eval()], ids=["hook", "forward"])
def test_a_model_in_memory_that_its_files_do_not_hold_is_refused(model, tmp_path):
    with pytest.raises(
        ValueError, match="in memory gives other logits than what its files hold.*Remove hooks"
    ) as error:
        Target.of(model(), tmp_path)
    one_sentence(error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_in_memory_of_any_precision_is_the_one_in_its_files(dtype, tmp_path):
    model = tiny_model("llama").to(dtype)
    assert Target.of(model, tmp_path).information["num_parameters"] == model.num_parameters()
    with pytest.raises(ValueError, match="gives other logits"):
        check_saved(model, Negated(model.config).to(dtype).eval())
