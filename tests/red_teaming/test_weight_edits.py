"""Weight edits against values worked out by hand, and what they leave alone."""

import pytest
import torch
import transformers
from datasets import Dataset
from support import tiny

from trl_tar import Adversary
from trl_tar.adversaries.choices import EDITS
from trl_tar.red_teaming.abliteration import abliterate, fitted_direction, last_prompt_states, remove_direction
from trl_tar.red_teaming.weight_edits import (
    NF4_LEVELS,
    edit_weights,
    int8,
    matrices,
    nf4,
    noisy,
    pruned,
    without_top_directions,
)


MODELS = {"gpt2": tiny.gpt2, "llama": tiny.llama}


def rows(*texts: str) -> Dataset:
    """Prompts of which nothing is predicted."""
    ids = tiny.tokenizer()(list(texts))["input_ids"]
    return Dataset.from_dict({"input_ids": ids, "labels": [[-100] * len(each) for each in ids]})


HAZARDOUS = rows("w1 w2 w3", "w2 w1 w3", "w1 w4")
HARMLESS = rows("w10 w11", "w12 w13 w11", "w11 w10")


def edited(name: str, adversary: Adversary, base=None):
    model = MODELS[name]()
    edit_weights(model, adversary, 0, base, {"hazard": HAZARDOUS, "retain": HARMLESS})
    return model


def test_int8_rounds_each_output_to_127_steps_of_its_largest_weight():
    # scales 1.27 / 127 = 0.01 and 2.54 / 127 = 0.02
    weight = torch.tensor([[1.27, 0.014, -0.006], [2.54, 0.014, -0.031]], dtype=torch.float64)
    expected = torch.tensor([[1.27, 0.01, -0.01], [2.54, 0.02, -0.04]], dtype=torch.float64)
    torch.testing.assert_close(int8(weight), expected)
    torch.testing.assert_close(int8(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_nf4_takes_the_nearest_level_of_each_block_of_64():
    weight = torch.zeros(2, 40)
    weight[0, 0], weight[0, 1], weight[0, 2] = 2.0, 0.1, -1.3  # the first 64 values have scale 2
    weight[1, 39] = -0.5  # the last 16 have scale 0.5
    rounded = nf4(weight)
    # 0.05 lies between 0 and 0.0796, nearer to the second; −0.65 between −0.696 and −0.525, nearer to the first
    assert rounded[0, :3].tolist() == pytest.approx([2.0, 2 * 0.07958029955625534, 2 * -0.6961928009986877])
    assert rounded[1, 39].item() == -0.5
    assert rounded.count_nonzero() == 4


def test_nf4_is_what_bitsandbytes_does():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    torch.testing.assert_close(nf4(weight), functional.dequantize_4bit(packed, state), atol=1e-6, rtol=1e-5)


def test_levels_are_sixteen_and_ascend():
    assert len(NF4_LEVELS) == 16
    assert list(NF4_LEVELS) == sorted(NF4_LEVELS)


def test_pruning_sets_the_smallest_to_zero():
    weight = torch.tensor([[0.1, -3.0], [0.2, -0.05]])
    assert pruned(weight, 0.5).tolist() == [[0.0, -3.0], [pytest.approx(0.2), 0.0]]
    assert pruned(weight, 1.0).count_nonzero() == 0


def test_noise_has_the_wanted_size_and_comes_from_the_seed():
    weight = 3 * torch.randn(200, 200, generator=torch.Generator().manual_seed(1))
    moved = noisy(weight, 0.1, torch.Generator().manual_seed(0)) - weight
    assert moved.std().item() == pytest.approx(0.3, rel=0.02)
    again = noisy(weight, 0.1, torch.Generator().manual_seed(0)) - weight
    assert torch.equal(moved, again)


def test_the_largest_direction_of_the_difference_goes():
    base = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    u = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    v = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64)
    large, small = 5.0 * torch.outer(u[0], v[0]), 2.0 * torch.outer(u[1], v[1])
    torch.testing.assert_close(without_top_directions(base + large + small, base, 1), base + small)
    torch.testing.assert_close(without_top_directions(base + large + small, base, 2), base)


@pytest.mark.parametrize("name", MODELS)
def test_edits_change_matrices_and_leave_embeddings_and_norms(name):
    before = dict(MODELS[name]().named_parameters())
    changed = edited(name, Adversary("noise", edit="noise", edit_strength=0.1, num_steps=0))
    wanted = {matrix for matrix, _ in matrices(MODELS[name]())}
    assert wanted
    assert not any("wte" in matrix or "embed" in matrix or "lm_head" in matrix for matrix in wanted)
    differing = {n for n, p in changed.named_parameters() if not torch.equal(p, before[n])}
    assert differing == wanted


@pytest.mark.parametrize("name", MODELS)
def test_interpolation_reaches_the_base(name):
    base = MODELS[name](seed=1)
    model = edited(name, Adversary("all", edit="interpolate", edit_strength=1.0, num_steps=0), base)
    halfway = edited(name, Adversary("half", edit="interpolate", edit_strength=0.5, num_steps=0), base)
    start = dict(MODELS[name]().named_parameters())
    for n, p in base.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[n], p)
        torch.testing.assert_close(dict(halfway.named_parameters())[n], (start[n] + p) / 2)


@pytest.mark.parametrize("edit", EDITS)
def test_every_row_of_the_edits_has_its_case(edit):
    row = EDITS[edit]
    data = {"dataset": "hazard", "contrast_dataset": "retain"} if row.needs_data else {}
    strength = None if row.strength is None else 1
    adversary = Adversary("a", num_steps=0, edit=edit, edit_strength=strength, **data)
    after, before = edited("llama", adversary, tiny.llama(seed=1)), tiny.llama()
    assert any(not torch.equal(p, q) for p, q in zip(after.parameters(), before.parameters(), strict=True))


def test_a_missing_or_different_base_is_refused():
    adversary = Adversary("half", edit="interpolate", edit_strength=0.5, num_steps=0)
    with pytest.raises(ValueError, match="'half' has edit='interpolate'.*Give the base model"):
        edited("gpt2", adversary)
    with pytest.raises(ValueError, match=r"'half'.*no 'transformer.wte.weight' of shape \(\d+, 8\)"):
        edited("gpt2", adversary, tiny.llama())


@pytest.mark.parametrize("name", MODELS)
def test_nothing_writes_along_an_abliterated_direction(name):
    model = MODELS[name]().eval()
    direction = abliterate_in(model)
    ids = torch.randint(5, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    states = raw_stream(model, ids)
    assert len(states) == 3  # the embedding and two layers
    for stream in states:
        assert (stream @ direction.to(stream)).abs().max() < 1e-6 * stream.norm()


# architecture → what its tiny configuration needs, and how much of the direction may be left
ARCHITECTURES = {
    "Qwen3": ({"head_dim": 4}, 1e-5),
    "Mistral": ({}, 1e-5),
    "Phi3": ({}, 1e-5),
    "OPT": ({"ffn_dim": 24, "word_embed_proj_dim": 16}, 1e-5),
    "GPTNeoX": ({}, 1e-5),
    "Falcon": ({}, 1e-5),
    "Gemma2": ({"head_dim": 4}, 0.25),  # a norm behind what writes
    "Mixtral": ({"num_local_experts": 2}, 1e-5),  # experts in one tensor, (experts, H, inputs)
    "GptOss": (
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 4, "intermediate_size": 16},
        1e-5,
    ),  # (experts, inputs, H), and biases
}


def architecture(name: str):
    """A tiny model of random weights."""
    common = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "pad_token_id": 0}
    common |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    config = getattr(transformers, f"{name}Config")(**{**common, **ARCHITECTURES[name][0]})
    return tiny.seeded(transformers.AutoModelForCausalLM.from_config, config, 0).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_abliteration_knows_what_writes_in_other_architectures(name):
    model = architecture(name)
    before = last_prompt_states(model, HAZARDOUS)[:-1]
    direction = abliterate_in(model)
    after = last_prompt_states(model, HAZARDOUS)[:-1]
    assert (after @ direction).norm() <= ARCHITECTURES[name][1] * (before @ direction).norm()


def test_abliteration_that_would_leave_the_direction_is_refused(monkeypatch):
    # as if the others had names of their own
    monkeypatch.setattr("trl_tar.red_teaming.abliteration.WRITERS", ("down_proj",))
    with pytest.raises(ValueError, match="leaves .*% of the direction in LlamaForCausalLM.*Leave abliteration out"):
        abliterate_in(tiny.llama().eval())


def test_experts_in_one_tensor_are_refused_rather_than_left_as_they_were():
    edit = Adversary("int8", edit="int8", num_steps=0)
    with pytest.raises(ValueError, match="MixtralForCausalLM has its experts in one tensor, '.*experts"):
        edit_weights(architecture("Mixtral"), edit, 0, None, {})


def abliterate_in(model) -> torch.Tensor:
    with torch.no_grad():
        return abliterate(model, HAZARDOUS, HARMLESS)


def raw_stream(model, ids) -> list[torch.Tensor]:
    """The residual stream after the embedding and after each layer, before any final norm."""
    seen = []
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    hooks = [
        layers[0].register_forward_pre_hook(lambda m, a, k: seen.append((a or tuple(k.values()))[0]), with_kwargs=True)
    ]
    hooks += [
        layer.register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
        for layer in layers
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return seen


def test_removing_a_direction_twice_changes_nothing_more():
    model = tiny.llama()
    direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        remove_direction(model, direction)
        once = {n: p.clone() for n, p in model.named_parameters()}
        remove_direction(model, direction)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p, once[n], atol=1e-6, rtol=1e-5)


def test_the_direction_is_the_difference_of_means():
    model = tiny.gpt2().eval()
    with torch.no_grad():
        direction = fitted_direction(model, HAZARDOUS, HARMLESS)
        means = []
        for data in (HAZARDOUS, HARMLESS):  # one prompt at a time, without padding
            states = [model(torch.tensor([row]), output_hidden_states=True).hidden_states for row in data["input_ids"]]
            means.append(torch.stack([s[1][0, -1] for s in states]).mean(0))  # two layers: the middle one is left
    expected = (means[0] - means[1]).float()
    torch.testing.assert_close(direction, expected / expected.norm())


def test_abliteration_after_training_is_fitted_without_dropout():
    def model():
        made = tiny.gpt2()
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        return made

    trained = model().train()
    assert torch.equal(abliterate_in(trained), abliterate_in(model().eval()))
    assert trained.training


def test_two_equal_data_sets_have_no_direction():
    with pytest.raises(ValueError, match="No direction tells"), torch.no_grad():
        fitted_direction(tiny.gpt2().eval(), HAZARDOUS, HAZARDOUS)
