"""Every question of one report is asked as the model is attacked, or somebody said that plain text is meant."""

import json

import pytest
import yaml
from datasets import Dataset
from support import tiny

from trl_tar import Adversary, Report
from trl_tar.cli.red_team import red_team_command
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.judges import RefusalPhrases
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.red_teaming import BenignTask, red_team
from trl_tar.verification.repeat_attacks import about_the_rows
from trl_tar.views.card import model_card
from trl_tar.views.words import asked_sentence, graded_sentence


PLAIN = [{"prompt": f"w{i}", "choices": [" w3", " w4"], "answer": 0} for i in range(2)]
CHATS = tiny.conversational(4, "chats")
BOTH_WAYS = (
    "Give the metric chat: true, which puts its questions into the template, or chat: false, if plain text is meant."
)


def attacked(harm, capability, data: Dataset = CHATS, **changes):
    return red_team(
        tiny.llama(),
        [Adversary("a", "h", num_steps=1, batch_size=2)],
        {"h": data},
        {"harm": harm, "capability": capability},
        [0],
        processing_class=tiny.tokenizer(),
        **changes,
    )


def in_messages(question: dict) -> dict:
    choices = [choice.strip() for choice in question["choices"]]
    return {**question, "prompt": [{"role": "user", "content": question["prompt"]}], "choices": choices}


@pytest.mark.parametrize(
    ("data", "harm", "capability", "reason"),
    [
        (CHATS, None, None, r"Metric 'harm' asks plain text, .* `datasets\['h'\]` holds chat messages"),
        (tiny.text(4, "plain"), True, None, "Metric 'capability' asks plain text, .* metric 'harm' asks through it"),
        (CHATS, False, None, "Metric 'capability' asks plain text"),
        (tiny.text(4, "plain"), "judge", None, "Metric 'capability' asks plain text, .* metric 'harm' asks through it"),
    ],
)
def test_plain_questions_about_chats_are_refused_before_any_work(data, harm, capability, reason):
    judged = Judged([{"prompt": "w1"}], judge=len)
    metrics = [judged if chat == "judge" else MultipleChoice(PLAIN, chat=chat) for chat in (harm, capability)]
    with pytest.raises(ValueError, match=reason) as raised:
        attacked(*metrics, data)
    assert str(raised.value).endswith(BOTH_WAYS)


def test_a_harmless_users_chats_count_too():
    plain, task = MultipleChoice(PLAIN), BenignTask(CHATS, MultipleChoice(PLAIN), num_steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"Metric 'benign' asks plain text, .* `datasets\['benign'\]` holds chat"):
        attacked(plain, plain, tiny.text(4, "plain"), benign=task, references={"base": tiny.llama()})


def test_the_report_says_how_each_metric_asked():
    in_chat = MultipleChoice([in_messages(question) for question in PLAIN])
    report = attacked(in_chat, MultipleChoice(PLAIN, chat=False))
    assert report.config["asked"] == {"harm": "chat template", "capability": "plain text"}
    assert asked_sentence(report) == "How questions were asked: harm in chat template; capability in plain text."
    same = attacked(MultipleChoice(PLAIN, chat=True), MultipleChoice(PLAIN, chat=False))
    assert (same.before, same.attacks) == (report.before, report.attacks)
    assert not list(about_the_rows(report, same))
    other = attacked(MultipleChoice(PLAIN, chat=False), MultipleChoice(PLAIN, chat=False))
    assert list(about_the_rows(report, other)) == [
        "The metric 'harm' asks in plain text here, and in chat template in the report. Mend its `chat`."
    ]


def test_a_file_says_how_its_questions_are_asked(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, PLAIN)))
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps(in_messages(question)) for question in PLAIN))
    suite = [{"name": "a", "dataset": "h", "num_steps": 1, "batch_size": 2}]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))

    def described(name: str, chat=None, **metrics) -> str:
        content = {"datasets": {"h": "chats.jsonl"}, "metrics": {"capability": "plain.jsonl", **metrics}}
        (tmp_path / name).write_text(yaml.safe_dump(content if chat is None else {**content, "chat": chat}))
        return tmp_path / name

    arguments = str(tmp_path / "model"), str(tmp_path / "suite.yaml")
    with pytest.raises(ValueError, match="Metric 'capability' asks plain text"):
        red_team_command(*arguments, described("bare.yaml", harm="chat.jsonl"), tmp_path / "out", seeds=1)
    mixed = {"harm": {"questions": "plain.jsonl", "chat": False}}
    report = red_team_command(*arguments, described("all.yaml", True, **mixed), tmp_path / "out", seeds=1)
    assert report.config["asked"] == {"capability": "chat template", "harm": "plain text"}
    assert "harm in plain text" in (tmp_path / "out" / "README.md").read_text()


def test_half_of_a_character_in_an_attackers_words_is_refused():
    harm = MultipleChoice(PLAIN)
    with pytest.raises(ValueError, match="Adversary 'b' has half of a character in its prompt_template"):
        red_team(
            tiny.llama(),
            [Adversary("b", prompt_template="\ud83d {prompt}", num_steps=0)],
            {},
            {"harm": harm, "capability": harm},
            [0],
            processing_class=tiny.tokenizer(),
        )


def test_a_report_says_who_graded_the_answers_and_where_rows_are_from(tmp_path):
    judge = RefusalPhrases(within=40)
    rows = CHATS.select(range(4))
    rows.info.homepage = "https://huggingface.co/datasets/owner/name/tree/" + "0" * 40
    harm = Judged([{"prompt": "w1"}], judge, max_new_tokens=4, source="owner/asked@1")
    report = attacked(harm, MultipleChoice(PLAIN, chat=True), rows)
    words = (
        "owner/asked@1, greedy answers of at most 4 tokens, the score of no refusal phrase in the first 40 characters"
    )
    assert report.config["graded"] == {"harm": words}
    assert graded_sentence(report) == f"How answers were graded: harm: {words}." and words in model_card(
        report, "m", "d"
    )
    assert [each["source"] for each in report.config["datasets"]] == ["owner/name@" + "0" * 40]
    report.save(tmp_path)
    assert Report.load(tmp_path).config["graded"] == report.config["graded"]
