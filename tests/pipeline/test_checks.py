"""What a recipe on files of one's own refuses: one sentence, exit code 2, and nothing is trained."""

import pytest
from support.started import described, files_of_ones_own, start, world_rows, write_rows


def refused(folder, monkeypatch, capsys, message, name="knowledge", **changes) -> str:
    config = described(folder, **changes)
    with pytest.raises(SystemExit) as error:
        start(name, monkeypatch, "--config", config)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{name}.py: ")]
    assert error.value.code == 2 and len(lines) == 1, lines
    assert message in lines[0] and lines[0].endswith("."), lines[0]
    assert not list((folder / "run").glob("*/run.json"))
    return lines[0]


def texts(count: int) -> list[dict]:
    return [{"text": f"line {i}"} for i in range(count)]


CHAT = [{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}] * 4
MIXED = [{"prompt": "a", "completion": " b"}, *CHAT]
SHARED = [{"prompt": "a", "completion": " b", "entity": "Ada"}] * 4
FIRST = world_rows("retain")[:1]
ROWS = {
    "D_TR below a batch": ({"tamper_resistance": FIRST}, "tamper_resistance_batch_size=2"),
    "an adversary's set below a batch": ({"forget": FIRST}, "Adversary 'sft' takes 2 rows of 'forget' in each batch"),
    "an attack's set below a batch": ({"hazard": FIRST}, "Adversary 'sft' takes 2 rows of 'hazard' in each batch"),
    "hazardous text below a batch": (
        {"safeguard": world_rows("safeguard")[:1]},
        "has 1 rows, fewer than the 2 that all devices take",
    ),
    "columns of safeguard": ({"safeguard": [{"sentence": "a"}] * 4}, "`data.safeguard` has columns ['sentence']"),
    "columns of retain": ({"retain": [{"sentence": "a"}] * 4}, "`data.retain` has columns ['sentence']"),
    "nulls in safeguard": ({"safeguard": [*texts(3), {"text": None}]}, "`data.safeguard` has 1 rows without a value"),
    "nulls in retain": ({"retain": [*texts(3), {"text": None}]}, "`data.retain` has 1 rows without a value"),
    "nulls in general": ({"general": [*texts(3), {"text": None}]}, "`data.general` has 1 rows without a value"),
    "nulls in a chat": (
        {"forget": [*[{"messages": CHAT[0]["prompt"]}] * 3, {"messages": None}]},
        "`adversary_datasets['forget']` has 1 rows without a value in its column 'messages'. Leave them out.",
    ),
    "general of another type": ({"general": texts(4)}, "`data.general` has columns ['text'] and `data.retain` "),
    "general of text and messages": ({"general": MIXED}, "`data.general` has plain text and chat messages"),
    "text that the model writes, of another type": (
        {"general": world_rows("retain"), "self_written": texts(4)},
        "`data.self_written` has columns ['text'] and `data.retain` ",
    ),
    "general of chat beside text": ({"general": CHAT}, "which cannot be trained on together"),
    "an entity of D_TR in retain": (
        {"tamper_resistance": SHARED, "retain": SHARED},
        "`tamper_resistance_dataset` and `train_dataset` share 1 entities, for example 'Ada'",
    ),
    "an entity of D_TR that an adversary reads": (
        {"tamper_resistance": SHARED, "forget": SHARED},
        "`tamper_resistance_dataset` and `adversary_datasets['forget']` share 1 entities",
    ),
    "an entity of safeguard in retain": (
        {"safeguard": SHARED, "retain": SHARED},
        "`data.retain` and `data.safeguard` share 1 entities",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_a_later_phase_would_refuse(tmp_path, monkeypatch, capsys, case):
    rows, message = ROWS[case]
    refused(tmp_path, monkeypatch, capsys, message, rows=rows)


PAIRS = [{"prompt": "a", "chosen": " b", "rejected": " c"}] * 4


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (texts(4), "`data.preferences` has columns ['text']"),
        (
            [*PAIRS, {**PAIRS[0], "chosen": None}],
            "`data.preferences` has 1 rows without a value in its column 'chosen'",
        ),
        (
            [*PAIRS, {**PAIRS[0], "chosen": [{"role": "assistant", "content": "b"}]}],
            "`data.preferences` has plain text and chat messages",
        ),
    ],
)
def test_preferences_that_are_no_pairs(tmp_path, monkeypatch, capsys, pairs, message):
    data = {name: str(tmp_path / f"{name}.jsonl") for name in ("retain", "tamper_resistance", "forget", "hazard")}
    data["preferences"] = write_rows(tmp_path / "pairs.jsonl", pairs)
    refused(tmp_path, monkeypatch, capsys, message, "refusal", data=data, phases=["dpo", "tar"])


SFT = {"name": "sft", "dataset": "forget", "num_steps": 4, "batch_size": 2}
FIELDS = [
    ({"repair_steps": 0}, "The recipe has repair_steps=0. Use a finite number above 0."),
    ({"repair_steps": 1.5}, "The recipe has repair_steps=1.5. Give repair_steps as int."),
    ({"repair_learning_rate": 0}, "The recipe has repair_learning_rate=0. Use a finite number above 0."),
    ({"safeguard_steps": 0}, "The recipe has safeguard_steps=0. Use a finite number above 0."),
    (
        {"safeguard_learning_rate": float("nan")},
        "The recipe has safeguard_learning_rate=nan. Use a finite number above 0.",
    ),
    (
        {"safeguard_forget_weight": float("nan")},
        "The recipe has safeguard_forget_weight=nan. Use a finite number of at",
    ),
    ({"attack_seeds": 1.5}, "The recipe has attack_seeds=1.5. Give attack_seeds as int."),
    ({"attack_evaluation_steps": 10}, "The recipe has attack_evaluation_steps=10."),
    ({"attacks": 3}, "The recipe has attacks=3."),
    ({"metrics": ["harm.jsonl"]}, "The recipe has metrics=['harm.jsonl']."),
    ({"data": ["retain.jsonl"]}, "The recipe has data=['retain.jsonl']."),
    ({"data": {1: "retain.jsonl"}}, "`data` has the name 1, which YAML does not read as text. Write it in quotes."),
    ({"adversaries": {"name": "sft"}}, "The recipe has adversaries={'name': 'sft'}."),
    ({"max_steps": 1.5}, "TARConfig has max_steps=1.5. Give max_steps as a whole number."),
    ({"optimizer_in_backward": True, "adversaries": [{**SFT, "micro_batch_size": 1}]}, "or optimizer_in_backward."),
    ({"adversaries": [{**SFT, "lora_r": 2, "lora_target_modules": ["c_attn"]}]}, "'c_attn' matches no module"),
    ({"max_steps": 0}, "TARConfig has max_steps=0. Use at least 1, or -1 for num_train_epochs."),
    ({"per_device_train_batch_size": 0}, "TARConfig has per_device_train_batch_size=0. Use at least 1."),
    ({"gradient_accumulation_steps": 0}, "TARConfig has gradient_accumulation_steps=0. Use at least 1."),
    ({"dataloader_num_workers": -1}, "TARConfig has dataloader_num_workers=-1. Use at least 0."),
    ({"seed": -1}, "TARConfig has seed=-1. Use a whole number from 0"),
    ({"eval_strategy": "steps", "eval_steps": 1}, "TARConfig has eval_strategy='steps', and a recipe has no data"),
    ({"report_to": "a-notebook"}, "TARConfig has report_to=['a-notebook'] ("),
    (
        {"pad_token": "<nothing>"},
        "`pad_token` is '<nothing>', which the tokenizer does not have. Name one of its tokens",
    ),
    (
        {"model_name_or_path": "no-such/folder/at-all"},
        "The model is 'no-such/folder/at-all', neither the folder of a model",
    ),
    ({"save_steps": [3]}, "The recipe has a value of another type than its field"),
    ({"world": 0}, "The recipe has `world` and `model_name_or_path`. Leave one out"),
    ({"benign": {"dataset": "baking", "metric": "a.jsonl"}}, "Name one of the datasets"),
    ({"benign": {"dataset": "benign", "metric": "harm_questions.jsonl"}}, "fewer than its batch_size=32"),
]


@pytest.mark.parametrize(("fields", "message"), FIELDS, ids=lambda each: next(iter(each)) if type(each) is dict else "")
def test_fields_of_another_type_or_out_of_range(tmp_path, monkeypatch, capsys, fields, message):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, monkeypatch, capsys, message, **fields)


QUESTION = {"prompt": "a", "choices": [" b", " c"], "answer": 0}
ODD = [
    ({"choices": [3, 4]}, "Give text, numbers in quotes."),
    ({"prompt": 2}, "Give text, numbers in quotes."),
    ({"choices": ["", " c"]}, "so that nothing tells them apart. Give different texts."),
    ({"choices": [" c", " c"]}, "so that nothing tells them apart. Give different texts."),
    ({"prompt": "a b " * 5000}, "tokens with an answer, and the model's context"),
]


@pytest.mark.parametrize(("changed", "message"), ODD)
def test_questions_that_no_likelihood_answers(tmp_path, monkeypatch, capsys, changed, message):
    rows = [QUESTION, {**QUESTION, **changed}]
    metrics = {name: write_rows(tmp_path / "questions.jsonl", rows) for name in ("harm", "capability")}
    refused(tmp_path, monkeypatch, capsys, message, metrics=metrics)


def test_prompts_of_which_too_few_leave_room(tmp_path, monkeypatch, capsys):
    pairs = [{"prompt": "a", "completion": " b"}, *[{"prompt": "a b " * 40, "completion": " b"}] * 3]
    message = (
        "`data.hazard` has 4 rows, and 1 of their prompts leave room for an answer within max_length=32, where 2 rows"
    )
    refused(tmp_path, monkeypatch, capsys, message, rows={"hazard": pairs})


def test_no_length_of_rows(tmp_path, monkeypatch, capsys):
    config = described(tmp_path)
    config.write_text(config.read_text() + "max_length: null\n")
    with pytest.raises(SystemExit):
        start("knowledge", monkeypatch, "--config", config)
    assert "`max_length` is None. Use at least 2 tokens" in capsys.readouterr().err


def test_a_question_about_an_entity_that_is_trained_on(tmp_path, monkeypatch, capsys):
    hazard = world_rows("hazard")
    question = {"prompt": "a", "choices": [" b", " c"], "answer": 0, "group": hazard[0]["entity"]}
    metrics = {name: write_rows(tmp_path / "questions.jsonl", [question]) for name in ("harm", "capability")}
    said = refused(tmp_path, monkeypatch, capsys, "`datasets['hazard']` and the questions share 1", metrics=metrics)
    assert hazard[0]["entity"] in said


def test_plain_questions_beside_chats_are_refused(tmp_path, monkeypatch, capsys):
    questions = write_rows(tmp_path / "plain.jsonl", [QUESTION])
    (tmp_path / "own").mkdir()
    changes = {**files_of_ones_own(tmp_path / "own"), "metrics": {"harm": questions, "capability": questions}}
    message = (
        "Metric 'capability' asks plain text, without the chat template, and `datasets['forget']` holds chat messages."
    )
    refused(tmp_path, monkeypatch, capsys, message, "refusal", **changes)
