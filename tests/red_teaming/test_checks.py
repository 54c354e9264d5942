"""What a red team is given wrongly is one sentence before any work starts; what it finds damaged is done again."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from support.attacks import ATTACKS, METRICS, SUITE, TOKENIZER, Likelihood, attacked, tiny_model

from trl_tar import Adversary
from trl_tar.red_teaming import BenignTask, run_attack
from trl_tar.red_teaming.attack_rows import tokenised_datasets
from trl_tar.red_teaming.benign_record import benign_record
from trl_tar.report.records import AttackRecord, attack_record
from trl_tar.views.words import measured_in_words


DPO = ATTACKS[-2]
TEN = Dataset.from_dict({"text": ["the a of b is c"] * 10})


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def adapter():
    return get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM"))


BAD = {
    "adapter without tokenizer": ({"model": adapter, "processing_class": None}, "The model is a PeftModel"),
    "adapter as reference": ({"references": {"base": adapter}}, "The base is a PeftModel"),
    "folder that is not there": ({"model": "/nowhere/model"}, "The model is '/nowhere/model', neither the folder"),
    "reference that is not there": ({"references": {"twin": "no/such"}}, "The twin is 'no/such', neither the folder"),
    "references in a list": ({"references": ["base"]}, "`references` is 'list'. Give a dict"),
    "metric named as a part of every point": (
        {"metrics": {**METRICS, "loss": METRICS["harm"]}},
        "`metrics` has 'loss'",
    ),
    "metrics in a list": ({"metrics": ["harm"]}, "`metrics` is 'list'. Give a dict"),
    "one data set alone": ({"datasets": TEN}, "`datasets` is 'Dataset'. Give a dict"),
    "one seed alone": ({"seeds": 3}, r"`seeds` is 3. Give a list, such as \[0, 1, 2\]"),
    "seed of another type": ({"seeds": ["0"]}, "`seeds` has '0'. Give whole numbers"),
    "negative seed": ({"seeds": [-1]}, "`seeds` has -1. Give whole numbers"),
    "one adversary alone": ({"adversaries": SUITE[0]}, "`adversaries` is 'Adversary'. Give a list"),
    "adversary as dict": ({"adversaries": [{"name": "a"}]}, r"`adversaries\[0\]` is 'dict'.*Adversary\(\*\*fields\)"),
    "an honest user": (
        {"adversaries": [Adversary("b", "forget", role="benign")]},
        "'b' has role='benign', whom training alone simulates",
    ),
    "no length": ({"max_length": 0}, "`max_length` is 0. Use at least 2"),
    "benign without base": ({"benign": BenignTask(TEN, Likelihood(50), batch_size=4)}, "`references` has none"),
    "benign of few rows": (
        {"benign": BenignTask(TEN, Likelihood(50)), "references": {"base": tiny_model}},
        "`benign.dataset` has 10 rows, fewer than its batch_size=32",
    ),
    "benign of other columns": (
        {"benign": BenignTask(TEN.rename_column("text", "a"), Likelihood(50)), "references": {"base": tiny_model}},
        r"`benign.dataset` has columns \['a'\]",
    ),
    "benign of another type": (
        {"benign": BenignTask(["text"], Likelihood(50)), "references": {"base": tiny_model}},
        "`benign.dataset` is 'list'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, raw, tmp_path):
    change, message = BAD[name]
    change = {"references": {}, **change}
    if callable(change.get("model")):
        change["model"] = change["model"]()
    if isinstance(change["references"], dict):
        change["references"] = {role: m() if callable(m) else m for role, m in change["references"].items()}
    with pytest.raises(ValueError, match=message) as raised:
        attacked(raw, tmp_path, **change)
    assert "\n" not in str(raised.value) and not (tmp_path / "jobs").exists()


def test_output_folder_that_is_a_file_is_one_sentence(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`output_dir` is .*file', a file. Give a folder"):
        attacked(raw, tmp_path / "file", references={})


def test_model_without_a_tokenizer_is_one_sentence(raw, tmp_path):
    with pytest.raises(ValueError, match="`processing_class` is missing"):
        attacked(raw, tmp_path, references={}, processing_class=None)


def test_generators_are_read_once(raw, tmp_path, saved):
    arguments = {"references": {}, "processing_class": None, "model": saved}
    report = attacked(raw, tmp_path, adversaries=(a for a in SUITE), seeds=(s for s in (0, 1)), **arguments)
    assert [(a.adversary, a.seed) for a in report.attacks] == [("full", 0), ("full", 1), ("lora", 0), ("lora", 1)]
    assert report.seeds == [0, 1] and len(report.config["adversaries"]) == 2


# --- job files ------------------------------------------------------------------------------------------------------

DAMAGED = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not a dict": lambda text: "[1]",
    "missing keys": lambda text: '{"status": "completed"}',
    "unknown keys": lambda text: json.dumps({**json.loads(text), "colour": 1}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_job_files_are_done_again(name, raw, tmp_path):
    arguments = {"references": {}, "adversaries": SUITE[:1], "seeds": [0]}
    first = attacked(raw, tmp_path, **arguments)
    files = {file: file.read_text() for file in (tmp_path / "jobs").iterdir()}
    for file, text in files.items():
        file.write_text(DAMAGED[name](text))
    with pytest.warns(UserWarning, match="is damaged: its job is done again") as warned:
        second = attacked(raw, tmp_path, **arguments)
    assert sum("is damaged" in str(w.message) for w in warned) == len(files) == 2
    assert second == first and {file: file.read_text() for file in files} == files


# --- max_length -----------------------------------------------------------------------------------------------------


def pairs(*lengths: tuple[int, int, int]) -> dict[str, Dataset]:
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    return {"pairs": Dataset.from_list([{c: [5] * n for c, n in zip(columns, row, strict=True)} for row in lengths])}


def lengths(dataset: Dataset) -> list[tuple[int, ...]]:
    return [tuple(len(row[c]) for c in ("prompt_ids", "chosen_ids", "rejected_ids")) for row in dataset]


def test_answers_are_cut_to_the_longest_row():
    model = tiny_model()
    cut = tokenised_datasets(model, TOKENIZER, DPO, pairs((3, 4, 2), (3, 9, 7)), 8)
    assert lengths(cut["pairs"]) == [(3, 4, 2), (3, 5, 5)]


def test_raw_pairs_are_cut_too(raw):
    whole = tokenised_datasets(tiny_model(), TOKENIZER, DPO, raw, 32)["pairs"]
    limit = max(p + max(c, r) for p, c, r in lengths(whole)) - 1
    cut = tokenised_datasets(tiny_model(), TOKENIZER, DPO, raw, limit)["pairs"]
    assert max(p + max(c, r) for p, c, r in lengths(cut)) == limit


def test_prompt_that_leaves_no_answer_is_one_sentence():
    message = r"`datasets\['pairs'\]` has a prompt of 8 tokens, and max_length=8 leaves none.*Raise max_length"
    with pytest.raises(ValueError, match=message):
        tokenised_datasets(tiny_model(), TOKENIZER, DPO, pairs((8, 4, 2)), 8)


def test_tokenised_rows_are_cut_and_those_without_a_label_dropped():
    rows = [
        {"input_ids": [5] * 6, "labels": [5] * 6},
        {"input_ids": [5] * 20, "labels": [-100] * 2 + [5] * 18},
        {"input_ids": [5] * 20, "labels": [-100] * 9 + [5] * 11},
    ]
    data = {"forget": Dataset.from_list(rows)}
    cut = tokenised_datasets(tiny_model(), TOKENIZER, SUITE[0], data, 8)["forget"]
    assert cut["input_ids"] == [[5] * 6, [5] * 8] and cut["labels"][1] == [-100] * 2 + [5] * 6


def test_data_set_that_is_all_prompt_is_one_sentence(raw, tmp_path):
    rows = Dataset.from_list([{"input_ids": [5] * 40, "labels": [-100] * 36 + [5] * 4}] * 8)
    with pytest.raises(ValueError, match=r"8 rows, and 8 of them no token to learn within max_length=32.*Raise"):
        attacked(raw, tmp_path, references={}, datasets={"forget": rows})


def test_an_attack_with_less_than_half_of_its_rows_is_one_sentence_and_rows_left_out_are_told(raw, tmp_path):
    def rows(long: int) -> Dataset:
        prompts = ["the a " * 20] * long + ["the a of b"] * 8
        return Dataset.from_dict({"prompt": prompts, "completion": [" is c"] * len(prompts)})

    with pytest.raises(ValueError, match=r"17 rows, and 9 of them no token to learn within max_length=32.*Raise"):
        attacked(raw, tmp_path, references={}, datasets={"forget": rows(9)})
    one = {"adversaries": SUITE[:1], "seeds": [0], "references": {}, "zero_step_attacks": {}}
    report = attacked(raw, tmp_path, datasets={"forget": rows(8)}, **one)
    assert [(each["rows"], each["left_out"]) for each in report.config["datasets"]] == [(8, 8)]
    assert any("8 of 16 of forget are left out" in sentence for sentence in measured_in_words(report))


# --- what a harmless user reaches -----------------------------------------------------------------------------------


def test_benign_record_without_a_number_has_no_ratio():
    def learned(capability: float | None, status: str = "completed") -> AttackRecord:
        points = [
            {"step": s, "flops": 0, "loss": None, "benign": b, "capability": capability}
            for s, b in [(0, 0.1), (1, 0.9)]
        ]
        return attack_record("benign", 0, points, status)

    task = BenignTask(TEN, METRICS["harm"])
    base = [learned(0.8), learned(0.8), learned(None)]
    model = [learned(0.4), learned(None), learned(0.4)]
    record = benign_record(task, base, model)
    assert record["capability_ratio"]["mean"] is None  # a seed without a number is not left out: it may be the worst
    assert record["trainability"]["mean"] == 1 and record["trainability"]["n"] == 3
    diverged = benign_record(task, base, [*model[:2], learned(0.4, "diverged")])
    assert diverged["trainability"]["mean"] is diverged["capability_ratio"]["mean"] is None


def test_metric_that_is_not_a_number_is_a_report_that_says_so(raw, tmp_path):
    class Nan(Likelihood):
        def __call__(self, model, tokenizer):
            scores = super().__call__(model, tokenizer)
            return type(scores)([float("nan") for _ in scores.values], scores.groups)

    report = attacked(raw, tmp_path, metrics={**METRICS, "harm": Nan(40)})
    assert report.before["harm"] is None and report.standard_errors["harm"] is None
    assert {a.status for a in report.attacks} == {"completed"} and not any(a.finished for a in report.attacks)
    assert next(g for g in report.verdict.gates if g.name == "unfinished_attacks").value == 4
    assert report.summary["worst_harm"]["adversary"] is None


def test_an_attack_without_training_that_gives_no_shares_is_refused(raw, tmp_path):
    class Doubled(Likelihood):
        def __call__(self, model, tokenizer):
            scores = super().__call__(model, tokenizer)
            return type(scores)([2 * value for value in scores.values], scores.groups)

    with pytest.raises(ValueError, match=r"Metric 'cue_swap' returned a score of 2. Return scores in \[0, 1\]"):
        attacked(raw, tmp_path, references={}, zero_step_attacks={"cue_swap": Doubled(30)})


def test_cut_pairs_are_what_is_attacked_with():
    def weights(data):
        model = tiny_model()
        record = run_attack(model, TOKENIZER, DPO, data, 0, lambda m: {}, evaluation_steps=[], max_length=8)
        assert record.status == "completed"
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(pairs(*[(3, 9, 4)] * 8)), weights(pairs(*[(3, 5, 4)] * 8)))
