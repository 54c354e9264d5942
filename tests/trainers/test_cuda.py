"""On a GPU: the weights of the reference, what the device holds, and that an attack never waits for it. Skipped elsewhere."""

import gc
import warnings
from dataclasses import replace

import pytest
import torch
from support import tiny
from support.exactness import EXACT, FULL, LORA, errors_of_outer_steps
from support.memory import BARS, CASES, LEAN, MODES, settings_of
from support.rounding import ENOUGH, displacement, share
from transformers import AutoModelForCausalLM, LlamaConfig

from trl_tar import Adversary
from trl_tar.costs.cost import Cost
from trl_tar.costs.mode import Mode
from trl_tar.costs.plan import plan
from trl_tar.costs.timing import load_model, trainer_for
from trl_tar.trainers import tar_trainer


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
TOLERANCE = 0.1  # of a plan
TOO_FAR = 1.05  # of float32's way; seen were 1.02 for weights in bfloat16 and 1.04 for an optimizer in 8 bits
# 0.25 B parameters, so that what a GPU's libraries hold for themselves is little beside it
CONFIG = LlamaConfig(
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=16,
    num_attention_heads=16,
    num_key_value_heads=4,
    vocab_size=32000,
    tie_word_embeddings=False,
)
FEW, MANY = {"batch_size": 4, "length": 32}, {"batch_size": 16, "length": 256}


@pytest.mark.parametrize("mode", ["none", *MODES])
@pytest.mark.parametrize("adversary", [FULL, LORA], ids=lambda a: a.name)
@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_outer_steps_equal_the_reference(make_trainer, loss, adversary, mode):
    settings = {"tamper_resistance_loss": loss, "adversaries_per_step": 2, "use_cpu": False, **MODES.get(mode, {})}
    assert max(errors_of_outer_steps(make_trainer, [adversary], **settings)) < EXACT


def test_a_preference_attack_equals_the_reference(make_trainer):
    adversary = Adversary("dpo-lora", "pairs", objective="dpo", lora_r=2, **tiny.ATTACK)
    assert max(errors_of_outer_steps(make_trainer, [adversary], use_cpu=False)) < EXACT


@pytest.mark.parametrize("optim", ["schedule_free_adamw", "adamw_torch_fused"])
def test_offloading_changes_no_bit_also_after_a_stop(tmp_path, optim):
    def run(folder, resume=None, **mode):
        settings = {"use_cpu": False, "optim": optim, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        trainer = tiny.make_trainer(
            tmp_path / folder, tiny.llama().cuda(), adversaries=[FULL, LORA], **settings, **mode
        )
        trainer.train(resume_from_checkpoint=resume)
        return tiny.weights(trainer.model)

    plain, offloaded = run("plain"), run("offloaded", offload=True)
    resumed = run("resumed", tmp_path / "offloaded" / "checkpoint-2", offload=True)
    for name, expected in plain.items():
        assert torch.equal(offloaded[name], expected) and torch.equal(resumed[name], expected), name


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("mode", ["none", *MODES])
def test_an_attack_waits_for_the_device_only_where_it_is_judged(make_trainer, monkeypatch, mode, objective):
    waits = []
    original = tar_trainer.attack_steps

    def watched(*args):
        steps = original(*args)
        while True:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                k = next(steps, None)
                torch.cuda.set_sync_debug_mode("default")
            if k is None:
                return
            waits.append([str(each.message) for each in caught if "called a synchronizing" in str(each.message)])
            yield k

    monkeypatch.setattr(tar_trainer, "attack_steps", watched)
    data = {"sft": "forget", "dpo": "pairs"}[objective]  # of rows that are padded
    adversary = Adversary("a", data, objective=objective, **{**tiny.ATTACK, "num_steps": 8})
    settings = {"max_steps": 1, "tamper_resistance_interval": 4, "use_cpu": False, "bf16": True, **MODES.get(mode, {})}
    make_trainer(tiny.llama(), adversaries=[adversary], **settings).train()
    assert [len(each) for each in waits] == [1, 1], waits  # for the losses since the last judgement


def measured(tmp_path, mode, cost):
    """Bytes that a training with these settings has allocated on the GPU at most."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(CONFIG, dtype=mode.dtype)
    trainer_for(model, load_model("world")[1], cost, 2, tmp_path, **settings_of(mode)).train()
    return torch.cuda.max_memory_allocated() - before


def cost_of(mode, **size):
    """Of attacks that are judged twice: before the first time there is no gradient of L_TR."""
    return Cost(**size, num_steps=4, interval=2, lora_r=mode.lora_r, optimizer=mode.optimizer)


def check_plan(tmp_path, mode, cost):
    found = measured(tmp_path, mode, cost)
    assert plan(CONFIG, cost, mode).device_bytes == pytest.approx(found, rel=TOLERANCE)
    return found


@pytest.mark.parametrize("size", [FEW, MANY], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("case", sorted({*CASES} - {"short rows"}))  # which are "long rows" once they have other sizes
def test_the_peak_is_that_of_the_plan(request, tmp_path, case, size):
    if case == "8-bit" and size == MANY:
        reason = "on an H100 the plan was 11 % below"
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))
    mode, own = CASES[case]
    adversaries = own.get("adversaries", 1)
    check_plan(tmp_path, mode, replace(cost_of(mode, **size), adversaries=adversaries))


@pytest.mark.parametrize(("attack", "mode"), BARS, ids=map(" ".join, BARS))
def test_a_device_holds_the_bytes_per_parameter_that_are_told(tmp_path, attack, mode):
    lean = {"none": {}, "offload": {"offload": True}, "both": LEAN}[mode]
    own = {"full": {}, "lora": {"lora_r": 1}, "8-bit": {"optimizer": "adamw_8bit"}}[attack]
    mode_of_plan = Mode(bf16=False, **lean, **own)
    found = check_plan(tmp_path, mode_of_plan, cost_of(mode_of_plan, batch_size=1, length=4))
    each = found / sum(p.numel() for p in AutoModelForCausalLM.from_config(CONFIG).parameters())
    # at most 42.1 instead of 40 and 10.0 instead of 8 were seen: PyTorch gives a matrix of 11 MiB a room of 12
    assert BARS[attack, mode] <= each < BARS[attack, mode] + 2.2


@pytest.mark.parametrize("in_backward", [False, True])
def test_attacks_on_weights_in_bfloat16_go_as_far_as_in_float32(in_backward):
    exact, rounded = (displacement(dtype, in_backward, device="cuda") for dtype in (torch.float32, torch.bfloat16))
    assert ENOUGH < share(rounded, exact) < TOO_FAR


def test_an_8_bit_attack_goes_as_far():
    exact, found = (displacement(torch.float32, optimizer=name, device="cuda") for name in ("adamw", "adamw_8bit"))
    assert ENOUGH < share(found, exact) < TOO_FAR
