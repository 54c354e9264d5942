"""A simulated attack leaves nothing behind, and steps as the named optimizer does."""

import math
import random

import numpy as np
import pytest
import schedulefree
import torch
from peft import LoraConfig, get_peft_model
from support import tiny
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    PhimoeConfig,
    PhimoeForCausalLM,
    get_scheduler,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar import Adversary, TARTrainer
from trl_tar.adversaries.adversary import AttackDiverged
from trl_tar.losses import language_modeling_loss
from trl_tar.models.forward_passes import in_eval_mode, next_token_logits
from trl_tar.optim.attack_optimizers import scheduler_arguments
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import restored, swapped_in


ROWS = tiny.tokenised()["forget"]
COLLATE = DataCollatorForLanguageModeling(0)
FULL = Adversary("full", "forget", **tiny.ATTACK)
LORA = Adversary("lora", "forget", lora_r=2, **tiny.ATTACK)
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


def loss_function(model, batch):
    return language_modeling_loss(next_token_logits(model, batch), batch["labels"])


def batches(steps: int):
    return ([COLLATE(ROWS[i % 3 : i % 3 + 4])] for i in range(steps))


def plain(seed=0):
    return tiny.gpt2(seed)


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
    model, room = prepared(make_model), []
    before, buffers, parameters = everything(model), len(list(model.buffers())), len(list(model.parameters()))
    for adversary in attacks:
        with restored(model, adversary, 3, room) as attacked:
            assert len(attacked.snapshot) == buffers + (parameters if adversary.lora_r is None else 0)
            for tensor, _ in attacked.snapshot[:buffers]:  # as layers with running statistics do
                tensor.zero_()
            for _ in attack_steps(attacked, adversary, batches(4), loss_function, 4):
                pass
        assert_same(before, everything(model))
    assert len(room) == buffers + parameters


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


def schedule(adversary: Adversary, step: int) -> float:
    """Factor on the learning rate at a step counted from 0."""
    warmup, total = adversary.warmup_steps, adversary.num_steps
    if adversary.lr_scheduler != "constant" and step < warmup:
        return step / warmup
    if adversary.lr_scheduler == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return 1.0


ATTACK = {"learning_rate": 0.02, "num_steps": 6, "batch_size": 4}
OPTIMIZED = [
    Adversary("adamw", "forget", **ATTACK),
    Adversary("adamw-warm-up", "forget", lr_scheduler="constant_with_warmup", warmup_steps=3, **ATTACK),
    Adversary("adamw-cosine", "forget", lr_scheduler="cosine", warmup_steps=2, **ATTACK),
    Adversary("sgd", "forget", optimizer="sgd", **ATTACK),
    Adversary("sgd-cosine", "forget", optimizer="sgd", lr_scheduler="cosine", **ATTACK),
    Adversary("sgd-momentum", "forget", optimizer="sgd", momentum=0.9, **ATTACK),
    Adversary("sgd-nesterov", "forget", optimizer="sgd", momentum=0.9, nesterov=True, **ATTACK),
    Adversary("adadelta", "forget", optimizer="adadelta", **{**ATTACK, "learning_rate": 1.0}),
    Adversary("adagrad", "forget", optimizer="adagrad", **ATTACK),
    Adversary("clipped", "forget", max_grad_norm=0.3, optimizer="sgd", **ATTACK),
    Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", **ATTACK),
    Adversary("schedule-free-warm-up", "forget", optimizer="schedule_free_adamw", warmup_steps=3, **ATTACK),
]


def plain_loop(adversary: Adversary) -> list[dict[str, torch.Tensor]]:
    """Weights after each step, by the optimizer's own class and the schedule's formula."""
    model = plain()
    named = dict(model.named_parameters())
    exempt = [n for n in named if n.endswith("bias") or "ln_" in n]
    groups = [
        {"params": [p for n, p in named.items() if n not in exempt], "weight_decay": adversary.weight_decay},
        {"params": [named[n] for n in exempt], "weight_decay": 0.0},
    ]
    lr = adversary.learning_rate
    optimizer = {
        "adamw": lambda: torch.optim.AdamW(groups, lr),
        "sgd": lambda: torch.optim.SGD(groups, lr, adversary.momentum, nesterov=adversary.nesterov),
        "adadelta": lambda: torch.optim.Adadelta(groups, lr),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr),
        "schedule_free_adamw": lambda: schedulefree.AdamWScheduleFree(groups, lr, warmup_steps=adversary.warmup_steps),
    }[adversary.optimizer]()
    schedule_free = adversary.optimizer == "schedule_free_adamw"
    steps = []
    for step, (batch,) in enumerate(batches(adversary.num_steps)):
        if schedule_free:
            optimizer.train()
        else:
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(adversary, step)
        total, count = loss_function(model, batch)
        for p, g in zip(named.values(), torch.autograd.grad(total, list(named.values())), strict=True):
            p.grad = g / count
        if adversary.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(named.values(), adversary.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if schedule_free:
            optimizer.eval()  # x, the averaged point
        steps.append(tiny.weights(model))
    return steps


@pytest.mark.parametrize("adversary", OPTIMIZED, ids=lambda a: a.name)
def test_every_optimizer_and_schedule_steps_like_its_own_class(adversary):
    model = plain()
    expected, found = plain_loop(adversary), {}
    with restored(model, adversary, seed=0) as attacked:
        for k in attack_steps(attacked, adversary, batches(adversary.num_steps), loss_function, 2):
            found[k] = tiny.weights(model)
    assert sorted(found) == [1, 3, 5]
    for k, actual in found.items():
        # not 1e-10: key biases have gradient 0 but for rounding of about 1e-18, which Adam divides by its ε of 1e-8
        assert tiny.displacement_error(actual, expected[k], tiny.weights(model)) < 1e-8


def test_warm_restarts_restart():
    rates = {}
    for schedule in ("cosine", "cosine_with_restarts"):
        adversary = Adversary("a", "forget", lr_scheduler=schedule, num_steps=40, learning_rate=1.0)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        steps = {"num_warmup_steps": 0, "num_training_steps": 40}
        scheduler = get_scheduler(
            schedule, optimizer, scheduler_specific_kwargs=scheduler_arguments(adversary), **steps
        )
        rates[schedule] = []
        for _ in range(40):
            rates[schedule].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert [step for step, rate in enumerate(rates["cosine_with_restarts"]) if rate == 1.0] == [0, 10, 20, 30]
    assert rates["cosine"].count(1.0) == 1


def test_schedule_free_attacker_is_judged_at_the_average_and_steps_elsewhere():
    adversary = Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", **ATTACK)
    model, judged = plain(), []
    seen = []

    def watched(model, batch):
        seen.append(tiny.weights(model))
        return loss_function(model, batch)

    with restored(model, adversary, seed=0) as attacked:
        for _ in attack_steps(attacked, adversary, batches(adversary.num_steps), watched, 2):
            judged.append(tiny.weights(model))
    for x, y in zip(judged, seen[2::2], strict=False):  # y, where the next gradient is taken
        assert not all(torch.allclose(x[n], y[n], rtol=0, atol=1e-6) for n in x)


def test_no_steps_judges_the_model_itself_once():
    model = plain()
    adversary = Adversary("none", "forget", num_steps=0)
    with restored(model, adversary, seed=0) as attacked:
        assert list(attack_steps(attacked, adversary, [], loss_function, 2)) == [-1]


DIVERGING = [
    Adversary("sgd", "forget", optimizer="sgd", **{**tiny.ATTACK, "learning_rate": 1e300}),
    Adversary("adamw", "forget", **{**tiny.ATTACK, "learning_rate": 1e308}),
    Adversary("lora", "forget", lora_r=2, **{**tiny.ATTACK, "learning_rate": 1e200}),
    Adversary("last-step", "forget", optimizer="sgd", **{**tiny.ATTACK, "learning_rate": 1e300, "num_steps": 2}),
]


@pytest.mark.parametrize("loss", ["entropy", "negative_cross_entropy", "inverse_cross_entropy", "dpo"])
@pytest.mark.parametrize("adversary", DIVERGING, ids=lambda a: a.name)
def test_diverged_attack_ends_is_counted_and_leaves_finite_weights(make_trainer, adversary, loss):
    trainer = make_trainer(adversaries=[adversary], max_steps=2, tamper_resistance_loss=loss)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["attacks_diverged"] == 1.0
    assert all(math.isfinite(value) for value in log.values())
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def infinite_gradient(model, batch):
    """A finite loss whose gradient is not: √x at 0."""
    total, count = loss_function(model, batch)
    return total + torch.sqrt(total - total.detach()), count


def test_an_attack_whose_gradient_alone_is_not_finite_has_diverged():
    model = plain()
    with pytest.raises(AttackDiverged, match="loss nan at step 1"), restored(model, FULL, seed=0) as attacked:
        list(attack_steps(attacked, FULL, batches(4), infinite_gradient))


def test_infinite_gradient_of_an_attack_is_counted_and_leaves_finite_weights(make_trainer, monkeypatch):
    monkeypatch.setattr(TARTrainer, "_adversary_loss", lambda self, adversary: infinite_gradient)
    trainer = make_trainer(max_steps=2, tamper_resistance_interval=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["attacks_diverged"] == 1.0
    assert log["grad_norm/tamper_resistance"] == 0.0  # not one judgement behind the step that broke
    assert "tamper_resistance_loss/first" not in log
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_diverged_attack_does_not_touch_the_others(make_trainer):
    def final(adversaries, **settings):
        trainer = make_trainer(adversaries=adversaries, max_steps=1, **settings)
        trainer.train()
        return tiny.weights(trainer.model), trainer.state.log_history[0]

    good = Adversary("good", "forget", **tiny.ATTACK)
    seed = next(s for s in range(100) if _drawn(s, 2) == [0, 1])
    both, log = final([good, DIVERGING[0]], adversaries_per_step=2, seed=seed)
    assert log["attacks_diverged"] == 0.5
    # the share of the diverged attack is missing, and λ_TR / S is still that of two
    alone, _ = final([good], tamper_resistance_weight=1.0, seed=seed)
    assert tiny.displacement_error(both, alone, tiny.weights(tiny.gpt2())) < 1e-10


def _drawn(seed: int, count: int) -> list[int]:
    return random.Random(f"{seed} adversaries 0").choices(range(2), [1.0, 1.0], k=count)


def test_adversary_without_a_token_to_predict_is_one_sentence():
    model = plain()
    empty = {**COLLATE(ROWS[:2]), "labels": torch.full((2, 20), -100)[:, : COLLATE(ROWS[:2])["labels"].shape[1]]}
    with pytest.raises(ValueError, match="no token to predict"), restored(model, FULL, seed=0) as attacked:
        list(attack_steps(attacked, FULL, [[empty]], loss_function))


def test_swapped_in_values_go_back_by_reference():
    model = plain()
    pointers = [p.data_ptr() for p in model.parameters()]
    with swapped_in(model, [(p, torch.zeros_like(p)) for p in model.parameters()]):
        assert all(not p.any() for p in model.parameters())
        assert not torch.is_grad_enabled()
    assert pointers == [p.data_ptr() for p in model.parameters()]


def test_eval_mode_gives_each_module_its_own_mode_back():
    model = plain().train()
    model.transformer.h[0].eval()
    before = {m: m.training for m in model.modules()}
    with in_eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert before == {m: m.training for m in model.modules()}
