"""A simulated attack leaves nothing behind, and steps as the named optimizer does."""

import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import tiny
from support.exactness import FULL, LORA
from support.simulated import ATTACK, COLLATE, ROWS, batches, loss_function, plain
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from trl_tar import Adversary
from trl_tar.models.forward_passes import in_eval_mode, next_token_logits
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import SnapshotRoom, restored, swapped_in


EXPERTS = {
    "vocab_size": len(tiny.VOCABULARY),
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def peft_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(tiny.gpt2(seed), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p)
    return model


def partly_frozen(seed=0):
    model = tiny.gpt2(seed)
    model.transformer.wte.requires_grad_(False)
    return model


def checkpointed(seed=0):
    model = tiny.gpt2(seed)
    model.gradient_checkpointing_enable()
    return model


def everything(model):
    """All that an attack could leave changed."""
    return {
        "names": [name for name, _ in model.named_modules()],
        "tensors": {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]},
        "gradients": {n: p.grad for n, p in model.named_parameters()},
        "gradient values": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "identity": {n: id(p) for n, p in model.named_parameters()},
        "mode": {n: m.training for n, m in model.named_modules()},
        "hooks": {n: list(m._forward_hooks) + list(m._backward_hooks) for n, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for what, value in before.items():
        if what == "gradients":
            assert all(after[what][name] is gradient for name, gradient in value.items())
        elif what in ("tensors", "gradient values"):
            assert value.keys() == after[what].keys()
            for name, tensor in value.items():
                assert tensor is after[what][name] or torch.equal(tensor, after[what][name]), (what, name)
        elif what in ("torch", "numpy"):
            assert (value == after[what]).all(), what
        else:
            assert value == after[what], what


def prepared(make_model):
    model = make_model()
    model.eval()
    list(model.children())[0].train()  # a mixture of modes, as only the user can have made it
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.randn_like(p)
    return model


@pytest.mark.parametrize("make_model", [plain, peft_model, partly_frozen, checkpointed])
@pytest.mark.parametrize("adversary", [FULL, LORA], ids=lambda a: a.name)
@pytest.mark.parametrize("raises", [False, True], ids=["completed", "raised"])
def test_attack_leaves_everything_bitwise_unchanged(make_model, adversary, raises):
    model = prepared(make_model)
    before = everything(model)

    def attacked_once():
        with restored(model, adversary, seed=3) as attacked:
            for k in attack_steps(attacked, adversary, batches(4), loss_function, 2):
                assert any(not torch.equal(p, value) for p, value in attacked.snapshot) or adversary.lora_r is not None
                torch.randn(1)
                if raises and k == 1:
                    raise KeyboardInterrupt

    if raises:
        with pytest.raises(KeyboardInterrupt):
            attacked_once()
    else:
        attacked_once()
    assert_same(before, everything(model))


def test_lora_attack_changes_the_output_and_no_base_weight():
    model = plain()
    batch = COLLATE(ROWS[:2])
    start, weights = next_token_logits(model, batch), tiny.weights(model)
    base = list(model.parameters())
    with restored(model, LORA, seed=0) as attacked:
        for _ in attack_steps(attacked, LORA, batches(4), loss_function, 4):
            assert all(map(torch.equal, base, weights.values()))
            assert not torch.allclose(next_token_logits(attacked.model, batch), start)


@pytest.mark.parametrize("make_model", [tiny.llama, peft_model])
@pytest.mark.parametrize("attacks", [[FULL, LORA, FULL], [LORA, FULL, LORA]], ids=["full first", "LoRA first"])
def test_a_lora_attack_keeps_no_copy_of_parameters(make_model, attacks):
    model, room = prepared(make_model), SnapshotRoom()
    before, buffers, parameters = everything(model), len(list(model.buffers())), len(list(model.parameters()))
    for adversary in attacks:
        with restored(model, adversary, 3, room) as attacked:
            assert len(attacked.snapshot) == buffers + (parameters if adversary.lora_r is None else 0)
            for tensor, _ in attacked.snapshot[:buffers]:  # as layers with running statistics do
                tensor.zero_()
            for _ in attack_steps(attacked, adversary, batches(4), loss_function, 4):
                pass
        assert_same(before, everything(model))
    assert len(room.tensors) == buffers + parameters


ROUTERS = {
    "llama4": (Llama4ForCausalLM, Llama4TextConfig(intermediate_size_mlp=8, head_dim=4, **EXPERTS)),
    "phimoe": (PhimoeForCausalLM, PhimoeConfig(bos_token_id=1, eos_token_id=1, **EXPERTS)),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_lora_attack_leaves_routers_of_experts_alone(make_trainer, name):
    def loss(model):
        with in_eval_mode(model), torch.no_grad():  # in training Phi-MoE draws its experts
            return loss_function(model, COLLATE(ROWS[:4]))[0]

    model = tiny.seeded(*ROUTERS[name], 0).float()
    before = loss(model)
    with restored(model, LORA, 0) as attacked:
        adapted = {name for name, _ in attacked.model.named_modules() if name.endswith(".lora_A")}
        assert adapted and not any(each.endswith("router.lora_A") for each in adapted)
        for _ in attack_steps(attacked, LORA, batches(4), loss_function):
            pass
        assert loss(attacked.model) < before
    make_trainer(model, adversaries=[LORA], max_steps=1).train()


def test_a_lora_attack_on_routers_of_experts_alone_is_one_sentence(make_trainer):
    attack = Adversary("routed", "forget", lora_r=2, lora_target_modules=("q_proj", "router"), **tiny.ATTACK)
    with pytest.raises(ValueError, match="'routed' has lora_target_modules=.*'router' matches no module"):
        make_trainer(tiny.seeded(*ROUTERS["llama4"], 0).float(), adversaries=[attack])


def test_a_lora_attack_adapts_linear_layers_of_an_architectures_own():
    config = FalconConfig(vocab_size=len(tiny.VOCABULARY), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    with restored(tiny.seeded(FalconForCausalLM, config, 0), LORA, 0) as attacked:
        adapted = {name.split(".")[-2] for name, _ in attacked.model.named_modules() if name.endswith(".lora_A")}
    assert adapted == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_lora_attack_leaves_no_wrapper_on_modules_that_the_adapter_does_not_have():
    config = LoraConfig(r=2, target_modules=["c_attn"], bias="all", task_type="CAUSAL_LM")
    model = get_peft_model(tiny.gpt2(), config)
    before = [name for name, _ in model.named_parameters()]
    with restored(model, Adversary("lora", "forget", lora_r=2, **ATTACK), 0) as attacked:
        assert any("mlp" in name and "attack" in name for name, _ in attacked.model.named_parameters())
    assert [name for name, _ in model.named_parameters()] == before
    assert model.active_adapters == ["default"]


def test_who_attacks_all_parameters_attacks_the_merged_model():
    config = LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["ln_f"], bias="all", task_type="CAUSAL_LM")
    model = get_peft_model(tiny.gpt2(), config)
    with restored(model, Adversary("full", "forget", **ATTACK), 0) as attacked:
        names = {id(p): name for name, p in model.named_parameters()}
        opened = {names[id(p)] for p in attacked.parameters}
    left = set(names.values()) - opened
    assert all("lora_" in name or "original_module" in name for name in left)
    assert any(name.endswith("ln_f.modules_to_save.default.weight") for name in opened)
    merged = tiny.gpt2()
    assert len(opened) == len(list(merged.parameters()))


def test_same_seed_gives_the_same_adapter_and_another_seed_another():
    model = plain()

    def first_adapter(seed):
        with restored(model, LORA, seed) as attacked:
            return attacked.parameters[0].detach().clone()

    assert torch.equal(first_adapter(1), first_adapter(1))
    assert not torch.equal(first_adapter(1), first_adapter(2))


def test_swapped_in_values_go_back_by_reference():
    model = plain()
    pointers = [p.data_ptr() for p in model.parameters()]
    with swapped_in(model, [(p, torch.zeros_like(p)) for p in model.parameters()]):
        assert all(not p.any() for p in model.parameters())
        assert not torch.is_grad_enabled()
    assert pointers == [p.data_ptr() for p in model.parameters()]
