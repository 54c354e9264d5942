"""The red team: every attack of every model in the report, nothing done twice, nothing bad accepted."""

import math
import re
from dataclasses import asdict, dataclass, replace

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from support.attacks import METRICS, SHORT, SUITE, TOKENIZER, WORLD, Likelihood, attacked, tiny_model
from transformers import AutoModelForCausalLM

from trl_tar import Adversary
from trl_tar.evaluation.scores import Scores
from trl_tar.evaluation.thoughts import UNENDED
from trl_tar.fingerprints import weights_sha256
from trl_tar.hub.evidence_folder import bound, write_evidence
from trl_tar.red_teaming import BenignTask
from trl_tar.report.answers import Questions
from trl_tar.report.report import Report
from trl_tar.verification.verifier import verify
from trl_tar.views.card import model_card
from trl_tar.views.figures import plot_attacks
from trl_tar.views.words import unanswered_sentence


def test_attacks_are_evaluated_where_asked_and_at_their_end(raw, tmp_path):
    suite = [
        *SUITE,
        Adversary("long", "forget", **{**SHORT, "num_steps": 5}),
        Adversary("int8", edit="int8", num_steps=0),
    ]
    report = attacked(raw, tmp_path, adversaries=suite, evaluation_steps=[4, 1], seeds=[0])
    found = {a.adversary: [point["step"] for point in a.trajectory] for a in report.attacks}
    assert found == {"full": [1, 2], "lora": [1, 2], "long": [1, 4, 5], "int8": [0]}
    default = attacked(raw, tmp_path, adversaries=suite, seeds=[0])  # other jobs, in the same folder
    assert [point["step"] for point in default.attacks[2].trajectory] == [0, 1, 2, 5]
    assert default.attacks[2].outcome == report.attacks[2].outcome


@pytest.mark.parametrize("steps", [[], [1.5], [-1], 3, [True]])
def test_evaluation_steps_that_are_none_are_refused(raw, tmp_path, steps):
    with pytest.raises(ValueError, match=r"`evaluation_steps` is .*Give whole numbers from 0, such as \[20, 50\]"):
        attacked(raw, tmp_path, evaluation_steps=steps)


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
    assert report.model["id"] == ""  # it was built in memory
    assert report.model["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert set(report.zero_step) == {"cue_swap"} and set(report.references) == {"base", "twin", "floor"}
    assert report.benign["trainability"]["n"] <= 2 and len(report.benign["model"]) == 2
    assert [a["name"] for a in report.config["adversaries"]] == ["full", "lora"]
    assert Adversary(**report.config["adversaries"][1]) == SUITE[1]
    assert len(list((tmp_path / "jobs").iterdir())) == 4 * (1 + 4) + 2 * 2


def test_answers_of_the_side_file_are_those_of_the_report(raw, tmp_path):
    report = attacked(raw, tmp_path)
    questions = report.questions
    for role, record in {"model": report, **report.references}.items():
        for attack in record.attacks:
            answers = questions.after[role][f"{attack.adversary}/{attack.seed}"]
            assert {n: sum(v) / len(v) for n, v in answers.items()} == pytest.approx(attack.after, abs=1e-4)
        assert {n: sum(v) / len(v) for n, v in questions.before[role].items()} == pytest.approx(record.before, abs=1e-4)
    assert {name: len(groups) for name, groups in questions.groups.items()} == {n: m.words for n, m in METRICS.items()}
    file = report.save(tmp_path)
    assert Questions.load(file.parent) == questions


def test_a_budget_buys_each_adversary_once_and_then_the_strongest(raw, tmp_path):
    whole = attacked(raw, tmp_path / "whole", references={})
    strongest = max(whole.attacks, key=lambda attack: (attack.seed == 0, attack.after["harm"])).adversary
    report = attacked(raw, tmp_path / "part", references={}, budget=3)
    runs = [(attack.adversary, attack.seed) for attack in report.attacks]
    assert runs == [(a, s) for a in ("full", "lora") for s in (0, 1) if s == 0 or a == strongest]
    gate = next(gate for gate in report.verdict.gates if gate.name == "unfinished_attacks")
    assert (gate.value, gate.passed, report.config["budget"]) == (0, True, 3)  # what was not bought is not unfinished
    assert attacked(raw, tmp_path / "part", references={}, budget=99).attacks == whole.attacks


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
    assert "0 of 2 completed; the others failed, diverged or are missing, and are no sign of resistance" in model_card(
        report, "t", "d"
    )
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
    "share out of range": ({"metrics": {**METRICS, "harm": lambda m, t: Scores([1.5])}}, "returned a score of 1.5"),
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


def test_numbered_entities_are_those_of_questions_in_text(raw, tmp_path):
    numbered = raw["forget"].remove_columns("entity").add_column("entity", list(range(len(raw["forget"]))))
    with pytest.raises(ValueError, match="share 1 entities, for example '7'"):
        attacked(raw, tmp_path, datasets={"forget": numbered}, question_entities={"7", "somebody else"})


def test_tokenizer_without_pad_token_is_an_error(raw, tmp_path):
    tokenizer = WORLD.tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no pad token"):
        attacked(raw, tmp_path, processing_class=tokenizer)


def test_an_adapter_is_attacked_as_the_model_that_it_makes(raw, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    TOKENIZER.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    references = {"base": tmp_path / "base"}
    by_adapter, by_whole = (
        attacked(raw, tmp_path / "jobs", model=tmp_path / name, references=references) for name in ("adapter", "merged")
    )
    assert by_adapter.before == by_whole.before != by_adapter.references["base"].before
    assert by_adapter.attacks == by_whole.attacks
    assert bound(by_adapter, tmp_path / "adapter").files.keys() >= {"adapter_model.safetensors", "adapter_config.json"}
    write_evidence(by_adapter, tmp_path / "adapter", "An adapter", "For a test.")
    assert verify(tmp_path / "adapter", 0).verified
    given = {"datasets": {"forget": raw["forget"]}, "metrics": METRICS}
    assert verify(tmp_path / "adapter", 1, **given).verified
    tiny_model(5).save_pretrained(tmp_path / "base")  # the same name, and other weights
    problems = verify(tmp_path / "adapter", 1, **given).problems
    assert re.fullmatch(
        r"The adapter's base has weights \w+… here, .*: 'base' is not the base that was attacked\.", problems[0]
    )
    tiny_model().save_pretrained(tmp_path / "base")
    quantised = [Adversary("qlora", "forget", lora_r=2, quantization="nf4", **SHORT)]
    with pytest.raises(
        ValueError, match="Adversary 'qlora' quantises whole weights, and .* is an adapter. Merge it first"
    ):
        attacked(raw, tmp_path / "jobs", model=tmp_path / "adapter", references=references, adversaries=quantised)


def test_answers_without_a_score_are_told_with_their_reason(raw, tmp_path):
    def half(model, tokenizer) -> Scores:
        return Scores([0.75, math.nan, 0.25], unanswered={1: UNENDED})

    metrics = {"harm": half, "capability": Likelihood(60)}
    report = attacked(raw, tmp_path, metrics=metrics, references={}, seeds=[0], zero_step_attacks={})
    counts = {"harm": {UNENDED: 1, "asked": 3}}
    assert report.before["harm"] == report.attacks[0].after["harm"] == 0.5
    assert report.unanswered == report.attacks[0].unanswered == counts
    assert report.questions.before["model"]["harm"] == [0.75, None, 0.25]
    assert Report.load(report.save(tmp_path / "report.json")) == report
    sentence = (
        "Answers without a score, which count neither way: 1 of 3 of harm before any attack (thoughts never ended), 1 of 3 of "
        "harm after full (thoughts never ended), 1 of 3 of harm after lora (thoughts never ended)."
    )
    assert unanswered_sentence(report) == sentence and sentence in model_card(report, "a", "b")
