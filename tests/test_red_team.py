"""Attacks of the red team: the same as those simulated in training, and honest about what they measure."""

import json
import random
from dataclasses import asdict, dataclass, replace

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar import Adversary
from trl_tar.adversary import draw_batches
from trl_tar.data import PreferenceCollator
from trl_tar.evaluation.scores import Scores
from trl_tar.losses import dpo_loss, language_modeling_loss, sequence_log_probs
from trl_tar.model_card import model_card
from trl_tar.plots import plot_attacks
from trl_tar.red_teaming import BenignTask, red_team, run_attack
from trl_tar.red_teaming.attack import attack_rows, default_evaluation_steps, tokenised_datasets
from trl_tar.red_teaming.runner import weights_sha256
from trl_tar.report import Report
from trl_tar.simulation import attack_steps, restored
from trl_tar.testbed.knowledge import KnowledgeWorld


datasets.disable_progress_bars()
WORLD = KnowledgeWorld(0)
TOKENIZER = WORLD.tokenizer()
FAST = {"learning_rate": 1e-2, "num_steps": 10, "batch_size": 8}
# one table of attacks for every conformance test
ATTACKS = [
    Adversary("adamw", "forget", **FAST),
    Adversary("adamw-accumulated", "forget", micro_batch_size=4, **FAST),
    Adversary("clipped", "forget", max_grad_norm=0.5, **FAST),
    Adversary("lora", "forget", lora_r=4, **FAST),
    Adversary("mixture", mixture={"forget": 0.5, "retain": 0.5}, **FAST),
    Adversary("retain-forget", "forget", first_dataset="retain", switch_at=0.4, **FAST),
    Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", warmup_steps=4, **FAST),
    Adversary("sgd-nesterov", "forget", optimizer="sgd", momentum=0.9, nesterov=True, **FAST),
    Adversary("adagrad", "forget", optimizer="adagrad", **FAST),
    Adversary("adadelta", "forget", optimizer="adadelta", **{**FAST, "learning_rate": 1.0}),
    Adversary("cosine", "forget", lr_scheduler="cosine", warmup_steps=3, **FAST),
    # SGD: where chosen and rejected share a context their gradients cancel, and Adam would blow up what rounding leaves
    Adversary("dpo", "pairs", objective="dpo", optimizer="sgd", momentum=0.9, **FAST),
    Adversary("dpo-lora", "pairs", objective="dpo", optimizer="sgd", lora_r=4, **{**FAST, "learning_rate": 1.0}),
]


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=TOKENIZER.bos_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def raw():
    return raw_data()


def raw_data() -> dict[str, Dataset]:
    data = WORLD.datasets()
    rows = data["forget"]
    rejected = rows["completion"][1:] + rows["completion"][:1]
    pairs = Dataset.from_dict({"prompt": rows["prompt"], "chosen": rows["completion"], "rejected": rejected})
    keep = {name: data[name].select(range(96)) for name in ("forget", "retain")}
    return {**keep, "pairs": pairs.select(range(96))}


def simulated(model, adversary: Adversary, raw, seed: int) -> dict[str, torch.Tensor]:
    """Weights after the attack as `TARTrainer` runs it, an adapter merged."""
    rows = {n: d.to_list() for n, d in tokenised_datasets(model, TOKENIZER, adversary, raw, 32).items()}
    pad = TOKENIZER.pad_token_id
    collate = DataCollatorForLanguageModeling(pad) if adversary.objective == "sft" else PreferenceCollator(pad, 32)
    drawn = draw_batches(adversary, {name: len(data) for name, data in rows.items()}, seed)
    batches = ([collate([rows[name][i] for name, i in batch])] for batch in drawn)

    def logits(model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits

    with restored(model, adversary, seed) as attacked:

        def loss(model, batch):
            if adversary.objective == "sft":
                return language_modeling_loss(logits(model, batch), batch["labels"])
            with attacked.original() as original:
                reference = sequence_log_probs(logits(original, batch), batch["labels"])
            return dpo_loss(sequence_log_probs(logits(model, batch), batch["labels"]), reference, adversary.beta)

        for _ in attack_steps(attacked, adversary, batches, loss, interval=adversary.num_steps):
            if adversary.lora_r is not None:
                attacked.model.merge_adapter()
            return {
                name.replace("base_model.model.", "").replace(".base_layer", ""): p.detach().clone()
                for name, p in attacked.model.named_parameters()
                if "lora_" not in name
            }


def displacement_error(model, start, expected) -> float:
    """‖attacked − expected‖ / ‖expected − start‖ over all parameters."""
    attacked = dict(model.named_parameters())
    error = sum((attacked[n].double() - expected[n].double()).square().sum() for n in expected)
    moved = sum((expected[n].double() - start[n].double()).square().sum() for n in expected)
    return (error / moved).sqrt().item()


@pytest.mark.parametrize("adversary", ATTACKS, ids=lambda a: a.name)
def test_attack_by_trl_equals_simulated_attack(adversary, raw):
    model = tiny_model()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = simulated(model, adversary, raw, seed=3)
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
    record = run_attack(model, TOKENIZER, adversary, raw, 3, lambda model: {}, max_length=32)
    assert record.status == "completed"
    assert displacement_error(model, start, expected) < 1e-5


def forget_loss(model) -> float:
    """Of the plain forward pass, in nats."""
    batch = TOKENIZER(["the a of b is c", "d has e called f"], return_tensors="pt", padding=True)
    ids = batch["input_ids"].to(model.device)
    with torch.no_grad():
        return language_modeling_loss(model(input_ids=ids, use_cache=False).logits, ids)[0].item()


def test_evaluation_steps_are_dense_at_first_and_then_every_fifty():
    assert default_evaluation_steps(120) == [0, 1, 2, 5, 10, 20, 50, 100, 120]
    assert default_evaluation_steps(5) == [0, 1, 2, 5]
    assert default_evaluation_steps(0) == [0]


def test_rows_of_a_mixture_are_in_the_order_of_draw_batches(raw):
    adversary = ATTACKS[4]
    tokenised = tokenised_datasets(tiny_model(), TOKENIZER, adversary, raw, 32)
    rows = attack_rows(adversary, tokenised, seed=1)
    expected = [
        tokenised[name][i]["input_ids"]
        for batch in draw_batches(adversary, {"forget": 96, "retain": 96}, 1)
        for name, i in batch
    ]
    assert rows["input_ids"] == expected


@pytest.mark.parametrize("adversary", [ATTACKS[0], ATTACKS[3], ATTACKS[6]], ids=lambda a: a.name)
def test_points_are_those_of_the_attacked_weights(adversary, raw, tmp_path):
    """The last evaluation, the model in memory and its reloaded save agree: no forward pass of the trainer is left."""
    model = tiny_model()
    record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": forget_loss(m)}, max_length=32)
    assert [point["step"] for point in record.trajectory] == [0, 1, 2, 5, 10]
    assert record.trajectory[0]["harm"] == pytest.approx(forget_loss(tiny_model()))
    assert record.after == {"harm": pytest.approx(forget_loss(model), abs=1e-4)}
    assert abs(record.after["harm"] - record.trajectory[0]["harm"]) > 0.1
    model.save_pretrained(tmp_path)
    assert forget_loss(LlamaForCausalLM.from_pretrained(tmp_path)) == forget_loss(model)
    assert "forward" not in model.__dict__


def test_flops_are_six_times_parameters_times_tokens(raw):
    model = tiny_model()
    record = run_attack(model, TOKENIZER, ATTACKS[0], raw, 0, lambda m: {}, max_length=32)
    tokenised = tokenised_datasets(tiny_model(), TOKENIZER, ATTACKS[0], raw, 32)
    tokens = [len(row) for row in attack_rows(ATTACKS[0], tokenised, 0)["input_ids"]]
    parameters = sum(p.numel() for p in tiny_model().parameters())
    assert [p["flops"] for p in record.trajectory] == [6 * parameters * sum(tokens[: 8 * s]) for s in (0, 1, 2, 5, 10)]


def test_evaluation_changes_neither_the_attack_nor_random_numbers(raw):
    def disturbing(model):
        assert not model.training
        random.random(), np.random.rand(), torch.rand(3)
        return {}

    adversary = replace(ATTACKS[6], lora_r=4, lora_dropout=0.3)  # Schedule-Free, with dropout
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    quiet, disturbed = tiny_model(), tiny_model()
    torch.set_rng_state(states[2])
    run_attack(quiet, TOKENIZER, adversary, raw, 0, lambda m: {}, evaluation_steps=[], max_length=32)
    run_attack(disturbed, TOKENIZER, adversary, raw, 0, disturbing, evaluation_steps=range(11), max_length=32)
    for a, b in zip(quiet.parameters(), disturbed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_diverged_attack_ends_with_its_reason(raw):
    adversary = Adversary("hot", "forget", optimizer="sgd", learning_rate=1e12, num_steps=10, batch_size=8)
    record = run_attack(
        tiny_model(), TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.5}, evaluation_steps=[0, 1], max_length=32
    )
    assert record.status == "diverged" and "loss nan" in record.error
    assert record.trajectory[-1]["step"] < 10 and record.after == {"harm": 0.5}
    json.dumps(asdict(record), allow_nan=False)


@pytest.mark.parametrize("evaluation_steps", [None, [0]])
@pytest.mark.parametrize("lora_r", [None, 2])
def test_last_step_that_breaks_the_weights_is_divergence(raw, evaluation_steps, lora_r):
    # its loss is finite, and lr · (gradient + weight decay · weight) is above the largest float32
    breaking = {"optimizer": "sgd", "learning_rate": 1e38, "weight_decay": 1e10, "num_steps": 1, "batch_size": 8}
    adversary, model = Adversary("breaking", "forget", lora_r=lora_r, **breaking), tiny_model()
    record = run_attack(
        model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.5}, evaluation_steps=evaluation_steps, max_length=32
    )
    assert record.status == "diverged" and "is not finite at step 1" in record.error
    assert [point["step"] for point in record.trajectory] == [0]
    assert record.outcome is None and not record.finished and "forward" not in model.__dict__


def test_model_that_is_broken_from_the_start_is_not_evaluated(raw):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    for adversary in (replace(ATTACKS[0], num_steps=0), replace(ATTACKS[0], num_steps=1)):
        record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.0}, max_length=32)
        assert record.status == "diverged" and record.error == "parameter 'model.norm.weight' is not finite at step 0"
        assert record.trajectory == []


def test_missing_value_is_none_and_says_why(raw):
    adversary = replace(ATTACKS[0], num_steps=1)
    record = run_attack(tiny_model(), TOKENIZER, adversary, raw, 0, lambda m: {"harm": None}, max_length=32)
    assert record.error == "harm at step 0 is not a finite number; harm at step 1 is not a finite number"


def test_attack_of_no_steps_leaves_the_model(raw):
    model, before = tiny_model(), weights_sha256(tiny_model())
    record = run_attack(model, TOKENIZER, replace(ATTACKS[0], num_steps=0), raw, 0, lambda m: {"harm": 0.25})
    assert weights_sha256(model) == before and record.after == {"harm": 0.25} and len(record.trajectory) == 1


# --- red_team -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Likelihood:
    """Share of four sentences' words that are likelier than at random; stands in for a question set."""

    words: int

    def __call__(self, model, tokenizer) -> Scores:
        ids = tokenizer(["the a of b is c"], return_tensors="pt")["input_ids"].to(model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        return Scores((logits[: self.words] > 0).float().tolist(), [str(i % 5) for i in range(self.words)])


METRICS = {
    "harm": Likelihood(40),
    "capability": Likelihood(60),
    "bystander": Likelihood(80),
    "validation_harm": Likelihood(20),
}
SHORT = {"learning_rate": 1e-2, "num_steps": 2, "batch_size": 4}
SUITE = [Adversary("full", "forget", **SHORT), Adversary("lora", "forget", lora_r=2, **SHORT)]


def attacked(raw, tmp_path, **changes) -> Report:
    arguments = {
        "model": tiny_model(),
        "adversaries": SUITE,
        "datasets": {"forget": raw["forget"]},
        "metrics": METRICS,
        "seeds": [0, 1],
        "references": {"base": tiny_model(1), "twin": tiny_model(2), "floor": tiny_model(3)},
        "output_dir": tmp_path,
        "processing_class": TOKENIZER,
        "zero_step_attacks": {"cue_swap": Likelihood(30)},
        "max_length": 32,
    }
    return red_team(**{**arguments, **changes})


def test_report_holds_every_attack_of_every_model(raw, tmp_path):
    model = tiny_model()
    before = weights_sha256(model)
    report = attacked(
        raw, tmp_path, model=model, benign=BenignTask(raw["retain"], Likelihood(50), num_steps=2, batch_size=4)
    )
    assert weights_sha256(model) == before == report.model["weights_sha256"]
    runs = [(a, s) for a in ("full", "lora") for s in (0, 1)]
    for record in (report, *report.references.values()):
        assert [(a.adversary, a.seed) for a in record.attacks] == runs
        assert {a.status for a in record.attacks} == {"completed"}
        for attack in record.attacks:  # every attack begins at the model that was measured
            first = {k: v for k, v in attack.trajectory[0].items() if k not in ("step", "flops", "loss")}
            assert first == pytest.approx(record.before)
    assert report.model["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert set(report.zero_step) == {"cue_swap"} and set(report.references) == {"base", "twin", "floor"}
    assert report.benign["trainability"]["n"] <= 2 and len(report.benign["model"]) == 2
    assert [a["name"] for a in report.config["adversaries"]] == ["full", "lora"]
    assert Adversary(**report.config["adversaries"][1]) == SUITE[1]
    assert len(list((tmp_path / "jobs").iterdir())) == 4 * (1 + 4) + 2 * 2


def test_attacks_that_share_a_data_set_train_on_their_own_rows(raw, tmp_path):
    # a data set stored in the place of another once made attacks on harmless rows, which nothing broke
    mix = Adversary("mix", mixture={"forget": 0.5, "retain": 0.5}, **SHORT)
    switch = Adversary("switch", "forget", first_dataset="retain", switch_at=0.5, **SHORT)
    data = {name: raw[name] for name in ("forget", "retain")}
    together = attacked(raw, tmp_path / "a", adversaries=[SUITE[0], mix, switch], datasets=data, references={})
    for adversary in (SUITE[0], mix, switch):
        alone = attacked(raw, tmp_path / adversary.name, adversaries=[adversary], datasets=data, references={})
        assert [a for a in together.attacks if a.adversary == adversary.name] == alone.attacks
    assert len({d["sha256"] for d in together.config["datasets"]}) == 2
    losses = {a.adversary: a.trajectory[-1]["loss"] for a in together.attacks if a.seed == 0}
    assert len(set(losses.values())) == 3


def test_restarted_run_redoes_only_what_is_missing(raw, tmp_path):
    first = attacked(raw, tmp_path, references={})
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "jobs").iterdir()}
    gone = next(name for name in files if name.startswith("lora-seed1"))
    (tmp_path / "jobs" / gone).unlink()
    second = attacked(raw, tmp_path, references={})
    assert asdict(first) == asdict(second)
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "jobs").iterdir()}
    assert {name for name in files if files[name] != again[name]} == {gone}


def test_attacks_of_one_name_never_overwrite_each_other(raw, tmp_path):
    attacked(raw, tmp_path, references={})
    files = len(list((tmp_path / "jobs").iterdir()))
    changes = [
        {"model": tiny_model(5)},
        {"adversaries": [replace(a, learning_rate=1e-3) for a in SUITE]},
        {"datasets": {"forget": raw["retain"]}},
        {"metrics": {**METRICS, "harm": Likelihood(41)}},
    ]
    for change in changes:
        attacked(raw, tmp_path, references={}, **change)
    measured = 2  # `before` is new for another model and for other metrics
    assert len(list((tmp_path / "jobs").iterdir())) == files + len(changes) * 4 + measured


def test_failed_attack_is_recorded_and_tried_again(raw, tmp_path):
    metrics = {**METRICS, "bystander": FailingLater()}
    report = attacked(raw, tmp_path, references={}, metrics=metrics, adversaries=SUITE, seeds=[0])
    assert [(a.status, a.error) for a in report.attacks] == [("failed", "RuntimeError: out of memory")] * 2
    assert report.summary["harm_after"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert not report.verdict.resistant
    FailingLater.calls = -1000
    report = attacked(raw, tmp_path, references={}, metrics=metrics, adversaries=SUITE, seeds=[0])
    assert {a.status for a in report.attacks} == {"completed"}


@dataclass(frozen=True)
class FailingLater:
    """Fails from its second call on."""

    def __call__(self, model, tokenizer) -> Scores:
        FailingLater.calls += 1
        if FailingLater.calls > 1:
            raise RuntimeError("out of memory")
        return Scores([0.5])


FailingLater.calls = 0


def test_bug_in_a_metric_ends_the_run(raw, tmp_path):
    class Buggy:
        calls = 0

        def __call__(self, model, tokenizer) -> Scores:
            self.calls += 1
            return Scores([0.5]) if self.calls == 1 else {}["a key that is not there"]

    with pytest.raises(KeyError):
        attacked(raw, tmp_path, references={}, metrics={**METRICS, "bystander": Buggy()})


def test_attacks_that_all_diverge_show_no_resistance(raw, tmp_path):
    hot = Adversary("hot", "forget", optimizer="sgd", learning_rate=1e38, weight_decay=1e10, num_steps=1, batch_size=4)
    report = attacked(raw, tmp_path, adversaries=[hot], benign=None)
    assert [a.status for a in report.attacks] == ["diverged"] * 2
    gate = next(gate for gate in report.verdict.gates if gate.name == "unfinished_attacks")
    assert gate.value == 2 and not report.verdict.resistant and not report.verdict.empty_shell
    assert report.summary["worst_recovery"] == {"mean": None, "low": None, "high": None, "n": 0, "adversary": None}
    assert "0 of 2 completed; the others are no sign of resistance" in model_card(report, "t", "d")
    plot_attacks({"m": report})


def test_workers_give_the_same_report(raw, tmp_path):
    arguments = {"references": {}, "seeds": [0], "metrics": knowledge_like_metrics()}
    alone = attacked(raw, tmp_path / "1", num_workers=1, zero_step_attacks=None, **arguments)
    together = attacked(raw, tmp_path / "2", num_workers=2, zero_step_attacks=None, **arguments)
    assert asdict(alone) == asdict(together)


def knowledge_like_metrics():
    """Metrics of the package, which spawned processes can import."""
    from trl_tar.testbed import knowledge_metrics

    return {
        name: metric for name, metric in knowledge_metrics(0).items() if name in ("harm", "capability", "retain_nll")
    }


class NoPickle:
    def __reduce__(self):
        raise TypeError

    def __call__(self, model, tokenizer):
        return Scores([0.5])


BAD = {
    "no adversaries": ({"adversaries": []}, "`adversaries` is empty"),
    "a name twice": ({"adversaries": [SUITE[0], SUITE[0]]}, "two named 'full'"),
    "missing data set": ({"datasets": {}}, r"reads 'forget', and `datasets` has \[\]"),
    "wrong columns": ({"datasets": {"forget": Dataset.from_dict({"a": [1]})}}, "has columns"),
    "too few rows": ({"adversaries": [replace(SUITE[0], batch_size=200)]}, "takes 200 rows of 'forget'"),
    "no harm": ({"metrics": {"capability": Likelihood(2)}}, "without 'harm'"),
    "no capability": ({"metrics": {"harm": Likelihood(2)}}, "without 'capability'"),
    "no seeds": ({"seeds": []}, "`seeds` is empty"),
    "a seed twice": ({"seeds": [1, 1]}, "has 1 twice"),
    "unknown reference": ({"references": {"parent": tiny_model()}}, "has 'parent'"),
    "not a model": ({"model": 3}, "The model is 'int'"),
    "adapter": ({"model": get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM"))}, "PeftModel"),
    "workers": ({"num_workers": 0}, "`num_workers` is 0"),
    "unpicklable": ({"num_workers": 2, "metrics": {**METRICS, "harm": NoPickle()}}, "no other process can receive"),
    "share out of range": ({"metrics": {**METRICS, "harm": lambda m, t: Scores([1.5])}}, "returned a mean of 1.5"),
    "no scores": ({"metrics": {**METRICS, "harm": lambda m, t: Scores([])}}, "returned 0 scores"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, raw, tmp_path):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        attacked(raw, tmp_path, **{"references": {}, **change})


def test_questions_that_an_attacker_trains_on_are_an_error(raw, tmp_path):
    entity = raw["forget"]["entity"][0]
    with pytest.raises(ValueError, match=f"share 1 entities, for example '{entity}'"):
        attacked(raw, tmp_path, question_entities={entity, "somebody else"})
    assert not (tmp_path / "jobs").exists()


def test_tokenizer_without_pad_token_is_an_error(raw, tmp_path):
    tokenizer = WORLD.tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no pad token"):
        attacked(raw, tmp_path, processing_class=tokenizer)
