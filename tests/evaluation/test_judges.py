"""Judges of answers: phrases, a local classifier, and a real HTTP server that answers, errs, hangs and talks nonsense."""

import json
import math
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate

import pytest
import torch
from support import tiny
from support.judge_server import running_judge
from support.sentences import one_sentence
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, LlamaForCausalLM

from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.evaluate_metrics import AttackSuccessRate, OverRefusalRate
from trl_tar.evaluation.generation import answers
from trl_tar.evaluation.identity import identity
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.judges import Classifier, Endpoint, JudgeError, RefusalPhrases
from trl_tar.evaluation.named_judges import judge_of
from trl_tar.evaluation.rubrics import COMPLIANCE_PROMPT, QUALITY_PROMPT, parsed_score
from trl_tar.tasks.from_yaml import metric_of
from trl_tar.testbed.refusal.models import refusal_model_path
from trl_tar.testbed.refusal.world import HARMFUL, RefusalWorld


@pytest.fixture
def server():
    with running_judge() as server:
        yield server


def judge(server, **settings) -> Endpoint:
    return Endpoint(server.url, "judge", pause=0.01, **settings)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("I'm sorry, but I can't help with that.", 0.0),
        ("I’m sorry, no.", 0.0),  # a curly apostrophe
        ("As an AI, I will not do so.", 0.0),
        ("", 0.0),
        ("Sure, take two eggs.", 1.0),
        ("Take two eggs. " * 10 + "I cannot say more.", 1.0),  # late
        ("Sorrylan is a town.", 1.0),  # a longer word
    ],
)
def test_phrases_at_the_beginning_are_a_refusal(answer, score):
    assert RefusalPhrases()(["q"], [answer]) == [score]


@pytest.mark.parametrize(
    ("said", "score"),
    [("yes", 1.0), ("No.", 0.0), ("**no**", 0.0), ("Answer: **Yes**!", 1.0), ("'yes'\n", 1.0)]
    + [("", None), ("maybe", None), ("no idea...", None), ("nothing of that", None), ("yes and no", None)]
    + [("7", None), ("yesterday", None), ("No, I cannot judge that.", None)],
)
def test_a_reply_to_a_question_is_yes_or_no_or_nothing(said, score):
    assert parsed_score(said, "yes_no") == score


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("1", 0.0),
        ("10", 1.0),
        ("5/10", 4 / 9),
        ("**Grade:** 8", 7 / 9),
        ("Rating: [[8]]", 7 / 9),
        ("8 out of 10.", 7 / 9),
    ]
    + [
        ("", None),
        ("0", None),
        ("11", None),
        ("3 eggs", None),
        ("7.5", None),
        ("8/100", None),
        ("yes", None),
        ("²", None),
    ],
)
def test_a_grade_is_the_whole_reply_or_nothing(said, score):
    assert parsed_score(said, "grade") == score


def test_the_scale_that_a_prompt_has_is_no_other_judge():
    for prompt, scale in (("quality", "grade"), ("compliance", "yes_no")):
        told, given = Endpoint("http://a/v1", "m", prompt), Endpoint("http://a/v1", "m", prompt, scale)
        assert told == given and identity(told) == identity(given)


def test_what_a_judge_may_say_follows_from_its_prompt(server):
    own = "Grade {answer} to {request} from 1 to 10."
    server.say = lambda asked, n: (200, "yes" if "yes or no" in asked else "10")
    for settings in ({}, {"prompt": "quality"}, {"prompt": QUALITY_PROMPT}, {"prompt": own, "scale": "grade"}):
        assert judge(server, **settings)(["q"], ["a"]) == [1.0]
    with pytest.raises(JudgeError, match="it said '10', neither yes nor no; if it should say so, set scale='grade'"):
        judge(server, prompt=own, attempts=1)(["q"], ["a"])
    server.say = lambda asked, n: (200, "7")
    with pytest.raises(JudgeError, match="it said '7', neither yes nor no"):
        judge(server, attempts=1)(["q"], ["a"])
    with pytest.raises(JudgeError, match="it said 'yes', no whole number from 1 to 10"):
        server.say = lambda asked, n: (200, "yes")
        judge(server, prompt="quality", attempts=1)(["q"], ["a"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt": "complience"},
            "prompt='complience'. Use 'compliance', 'quality', 'strongreject', 'sorry-bench',",
        ),
        ({"prompt": "Is {answer} fine?"}, "or a text with {request} and {answer}."),
        ({"scale": "percent"}, "scale='percent'. Use 'yes_no' or 'grade' or 'zero_one'"),
        ({"url": "localhost:8000/v1"}, "url='localhost:8000/v1'. Give an address such as 'http://localhost:8000/v1'."),
        ({"url": "file:///etc/hosts"}, "url='file:///etc/hosts'. Give an address"),
        ({"url": "http://"}, "url='http://'. Give an address"),
        ({"attempts": 0}, "attempts=0. Use at least 1."),
        ({"attempts": 1.5}, "attempts=1.5. Give attempts as int."),
        ({"timeout": 0}, "timeout=0. Give seconds above 0"),
        ({"timeout": float("nan")}, "timeout=nan. Give seconds above 0"),
        ({"timeout": float("inf")}, "timeout=inf. Give seconds above 0"),
        ({"pause": -1}, "pause=-1. Give seconds from 0"),
        ({"max_tokens": 0}, "max_tokens=0. Use at least 1."),
        ({"parameters": {"messages": []}}, "'messages' in its parameters, which it sets itself."),
        ({"parameters": {"temperature": float("nan")}}, "parameters that JSON cannot hold"),
        ({"parameters": [1]}, "parameters=[1]. Give parameters as"),
        ({"key": "secret\n"}, "a key with white space"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused_at_once(changes, message):
    with pytest.raises(ValueError) as error:
        Endpoint(**{"url": "http://localhost/v1", "model": "m", **changes})
    assert str(error.value).startswith("The judge 'm' has ") and message in str(error.value)
    assert "secret" not in str(error.value)


def test_how_long_a_judge_is_waited_for_does_not_make_it_another():
    asked = Judged([{"prompt": "q"}], Endpoint("http://localhost/v1", "m"))
    patient = replace(asked, judge=replace(asked.judge, timeout=600, attempts=9, pause=5, key="k"))
    assert identity(patient) == identity(asked)
    for change in ({"model": "n"}, {"url": "http://other/v1"}, {"prompt": "quality"}, {"scale": "grade"}):
        assert identity(replace(asked, judge=replace(asked.judge, **change))) != identity(asked)


def test_an_endpoint_is_asked_about_each_answer(server):
    server.say = lambda asked, n: (200, "yes" if "eggs" in asked.split("Answer:")[1] else "no")
    found = judge(server, key="secret")(["cook", "cook {answer}"], ["take eggs", "sorry"])
    assert found == [1.0, 0.0]
    first, second = server.seen
    assert first["path"] == "/v1/chat/completions" and first["model"] == "judge" and first["temperature"] == 0
    assert first["authorization"] == "Bearer secret" and "secret" not in repr(judge(server, key="secret"))
    assert "Request: cook\n" in first["messages"][0]["content"]
    assert "Request: cook {answer}\n" in second["messages"][0]["content"]  # a request is not a template


def test_a_server_that_fails_for_a_while_is_asked_again(server):
    def say(asked, n):
        return [(500, b"broken"), (200, b"no json"), (200, "yes")][n - 1]

    server.say = say
    assert judge(server)(["q"], ["a"]) == [1.0] and len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "said", "asked", "reason"),
    [
        (500, b"broken", 2, "HTTP 500"),
        (401, b"who", 1, "HTTP 401"),  # another attempt would not help
        (200, "perhaps", 2, "it said 'perhaps', neither yes nor no"),
        (200, b"<html>", 2, "JSONDecodeError"),
        (200, b"{}", 2, "KeyError"),
    ],
)
def test_a_judge_without_a_score_is_one_sentence(server, status, said, asked, reason):
    server.say = lambda *_: (status, said)
    with pytest.raises(JudgeError, match=rf"The judge 'judge' at .* gave no score \({reason}.*Check the server"):
        judge(server, attempts=2)(["q"], ["a"])
    assert len(server.seen) == asked


def refused(why: str, **fields) -> dict:
    return {"error": {"message": why, **fields}}


FILTERS = {
    "status": (400, refused("blocked by the content filter", code="content_filter")),
    "forbidden": (403, b"blocked"),
    "too long": (413, b""),
    "finish reason": (200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}),
    "field": (200, {"choices": [{"message": {"content": None, "refusal": "I will not read that."}}]}),
    "words": (200, "I'm sorry, but I can't assist with that."),
}


@pytest.mark.parametrize("kind", FILTERS)
def test_an_answer_that_a_filter_refuses_has_no_score_and_the_others_have_one(server, kind):
    server.say = lambda asked, n: FILTERS[kind] if "how to 1" in asked else (200, "yes")
    scores = judge(server)(["how to 0", "how to 1", "how to 2"], ["so"] * 3)
    assert scores == pytest.approx([1.0, float("nan"), 1.0], nan_ok=True)
    assert len(server.seen) == 4  # the refused one is not asked again, and a harmless one tells that the server works
    server.say = lambda asked, n: FILTERS[kind]
    with pytest.raises(JudgeError, match="gave no score .*Check the server"):
        judge(server)(["how to 0"], ["so"])


def test_the_reason_of_a_server_is_shown_without_the_key(server):
    server.say = lambda asked, n: (400, refused("max_tokens is not supported,\nuse max_completion_tokens. key secret"))
    with pytest.raises(JudgeError) as error:
        judge(server, key="secret").check()
    assert (
        "(HTTP 400: max_tokens is not supported, use max_completion_tokens. key …; max_tokens and parameters of "
        in str(error.value)
    )
    one_sentence(error)
    for said, shown in [
        (b"<html>no</html>", "HTTP 404: <html>no</html>)"),
        ({"detail": "no model"}, "HTTP 404: no model)"),
    ]:
        server.say = lambda asked, n, said=said: (404, said)
        with pytest.raises(JudgeError) as error:
            judge(server).check()
        assert shown in str(error.value)


def test_a_judge_is_asked_with_parameters_of_its_own(server):
    judge(server)(["q"], ["a"])
    assert server.seen[-1]["max_tokens"] == 8 and server.seen[-1]["temperature"] == 0
    judge(server, max_tokens=200, parameters={"temperature": 1, "reasoning_effort": "low"})(["q"], ["a"])
    assert server.seen[-1]["max_tokens"] == 200 and server.seen[-1]["temperature"] == 1
    assert server.seen[-1]["reasoning_effort"] == "low"
    described = {"url": server.url, "model": "m", "parameters": {"max_tokens": None, "max_completion_tokens": 500}}
    judge_of("Metric 'harm'", described)(["q"], ["a"])
    assert "max_tokens" not in server.seen[-1] and server.seen[-1]["max_completion_tokens"] == 500
    asked = Judged([{"prompt": "q"}], judge(server))
    for change in ({"max_tokens": 9}, {"parameters": {"temperature": 1}}):  # which may decide a score
        assert identity(replace(asked, judge=replace(asked.judge, **change))) != identity(asked)


def test_a_reply_that_was_cut_says_what_to_raise(server):
    server.say = lambda asked, n: (200, {"choices": [{"message": {"content": "Well,"}, "finish_reason": "length"}]})
    with pytest.raises(JudgeError, match="it said 'Well,', neither yes nor no; it was cut, so raise max_tokens=8"):
        judge(server, attempts=1)(["q"], ["a"])


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_busy_server_is_waited_for_as_long_as_it_asks(server, kind):
    came = []

    def say(asked, n):
        came.append(time.time())
        after = "0.5" if kind == "seconds" else formatdate(math.ceil(came[0]) + 1, usegmt=True)
        return (200, "yes") if n == 2 else (429, refused("slow down"), {"Retry-After": after})

    server.say = say
    assert judge(server)(["q"], ["a"]) == [1.0]
    assert came[1] - came[0] >= 0.5


def test_a_server_that_asks_for_hours_is_one_sentence_at_once(server):
    server.say = lambda asked, n: (429, refused("quota used up"), {"Retry-After": "7200"})
    with pytest.raises(JudgeError, match="HTTP 429: quota used up, and asks to wait 7200 s"):
        judge(server)(["q"], ["a"])
    assert len(server.seen) == 1


def test_a_judge_that_hangs_is_given_up(server):
    def say(asked, n):
        time.sleep(1)
        return 200, "yes"

    server.say = say
    start = time.monotonic()
    with pytest.raises(JudgeError, match="timed out"):
        judge(server, attempts=1, timeout=0.2)(["q"], ["a"])
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_judge_that_sends_a_byte_now_and_then_is_given_up(beginning):
    """Each read ends in time, the whole answer never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection, suppress(ConnectionError):  # the judge is given up, and hung up on
                connection.sendall(beginning)
                for _ in range(60):
                    time.sleep(0.1)
                    connection.sendall(b" ")

        threading.Thread(target=drip, daemon=True).start()
        url, start = f"http://127.0.0.1:{listening.getsockname()[1]}/v1", time.monotonic()
        with pytest.raises(JudgeError, match="timed out after 0.5 s"):
            Endpoint(url, "judge", attempts=1, timeout=0.5)(["q"], ["a"])
        assert time.monotonic() - start < 3


def test_an_answer_that_is_cut_off_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def cut():
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # closed with a question unread, it would be reset
                    pass

        threading.Thread(target=cut, daemon=True).start()
        with pytest.raises(JudgeError, match="IncompleteRead"):
            Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "judge", attempts=1)(["q"], ["a"])


def test_nobody_at_the_address_is_one_sentence():
    with pytest.raises(JudgeError, match="Connection refused"):
        Endpoint("http://127.0.0.1:9", "judge", attempts=1)(["q"], ["a"])


@pytest.fixture
def classifier(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "eggs", "take", "cook", "sorry"])
    )
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, model, tokenizer


def test_a_local_classifier_reads_request_and_answer(classifier):
    path, model, tokenizer = classifier
    requests, said = ["cook eggs", "cook", "cook"], ["take eggs", "sorry", "take"]
    with torch.no_grad():
        expected = [
            model(**tokenizer(q, a, return_tensors="pt")).logits.softmax(-1)[0, 1].item()
            for q, a in zip(requests, said, strict=True)
        ]
    assert Classifier(str(path), "yes", batch_size=2)(requests, said) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3
    with pytest.raises(ValueError, match="has no class 'maybe'. Use one of"):
        Classifier(str(path), "maybe")(requests, said)


def test_a_classifier_with_another_tokenizer_is_another_judge(classifier):
    path, before = classifier[0], repr(Classifier(str(classifier[0]), "yes"))
    assert repr(Classifier(str(path), "yes")) == before
    rules = path / "tokenizer.json"
    rules.write_text(rules.read_text().replace('"eggs"', '"eggs "'))
    assert repr(Classifier(str(path), "yes")) != before


def test_a_classifier_is_checked_without_its_weights(classifier, tmp_path):
    path = classifier[0]
    (path / "model.safetensors").unlink()
    Classifier(str(path), "yes").check()
    Classifier(str(path), 1).check()
    with pytest.raises(JudgeError, match="cannot be loaded .*Give the folder or Hub id of a sequence-classification"):
        Classifier(str(path), "yes")(["cook"], ["take"])
    with pytest.raises(JudgeError, match="has no class 2. Use one of"):
        Classifier(str(path), 2).check()
    with pytest.raises(JudgeError, match="'no-such-folder' cannot be loaded"):
        Classifier("no-such-folder", "yes").check()
    tiny.llama().save_pretrained(tmp_path / "chat")
    with pytest.raises(JudgeError, match=r"has the architectures \['LlamaForCausalLM'\], none of which classifies"):
        Classifier(str(tmp_path / "chat"), "LABEL_1").check()
    with pytest.raises(ValueError, match="has label=True. Give label as"):  # `label: yes` in YAML
        Classifier(str(path), True)


@pytest.fixture(scope="module")
def world():
    world = RefusalWorld(0)
    requests = [{"prompt": world.requests(i)[0], "group": i.entity} for i in world.select(HARMFUL, "questions")[:6]]
    return LlamaForCausalLM.from_pretrained(refusal_model_path(world)).eval(), world.tokenizer(), requests


def test_attack_success_and_its_inverse(world, server):
    model, tokenizer, requests = world
    said = answers(model, tokenizer, [r["prompt"] for r in requests], 16)
    server.say = lambda asked, n: (200, "yes" if said[0] in asked or said[3] in asked else "no")
    scores = Judged(requests, judge(server))(model, tokenizer)
    assert scores.values == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert scores.groups == [r["group"] for r in requests]
    inverted = Judged(requests, judge(server), inverted=True)(model, tokenizer)
    assert inverted.values == [1 - value for value in scores.values]


def test_an_attackers_words_are_asked_and_the_judge_reads_the_request(world, server):
    model, tokenizer, requests = world
    Judged(requests[:1], judge(server))(model, tokenizer, prompt_template="please {prompt} here")
    assert f"Request: {requests[0]['prompt']}\n" in server.seen[0]["messages"][0]["content"]


def test_what_a_judged_metric_needs_is_checked_before_any_answer(server):
    tokenizer = tiny.tokenizer()
    metric = Judged([{"prompt": "w1 w2"}, {"prompt": " ".join(["w1"] * 13)}], judge(server, attempts=1))
    metric.check(tokenizer, 16)  # user … assistant: 15 tokens
    metric.check(tokenizer)
    assert len(server.seen) == 2
    with pytest.raises(ValueError, match="A request has 15 tokens, and the model's context of 15 leaves none"):
        metric.check(tokenizer, 15)
    server.say = lambda asked, n: (503, b"starting")
    with pytest.raises(JudgeError, match=r"gave no score \(HTTP 503\). Check the server"):
        metric.check(tokenizer, 16)
    Judged(metric.requests, RefusalPhrases()).check(tokenizer, 16)  # which needs nothing
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        metric.check(tokenizer, 16)


def test_metrics_of_yaml(tmp_path, world, classifier):
    _, _, requests = world
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    file = "requests.jsonl"
    metric = metric_of("harm", {"requests": file, "judge": "phrases", "max_new_tokens": 8}, tmp_path)
    assert metric.judge == RefusalPhrases() and metric.max_new_tokens == 8 and len(metric.requests) == 6
    metric = metric_of("harm", {"requests": file, "judge": {"path": str(classifier[0]), "label": "yes"}}, tmp_path)
    assert isinstance(metric.judge, Classifier)
    asked = {"url": "http://localhost/v1", "model": "m", "prompt": "quality"}
    assert metric_of("grade", {"requests": file, "judge": asked}, tmp_path).judge.prompt == QUALITY_PROMPT
    assert metric_of("harm", {"requests": file, "judge": {**asked, "prompt": "compliance"}}, tmp_path).judge.prompt == (
        COMPLIANCE_PROMPT
    )
    kept = [{"prompt": "Salt is", "completion": " a mineral."}]
    (tmp_path / "kept.jsonl").write_text("\n".join(map(json.dumps, kept)))
    assert metric_of("retain_nll", {"completions": "kept.jsonl"}, tmp_path) == CompletionLoss(kept)
    for described, message in [
        (
            {"requests": file, "judge": {**asked, "prompt": "complience"}},
            "Use 'compliance', 'quality', 'strongreject', .*, or a text with",
        ),
        (
            {"requests": file, "judge": "oracle"},
            "has the judge 'oracle'. Give 'phrases', 'harmbench', .*, path and label",
        ),
        ({"requests": file, "judge": "phrases", "depth": 3}, "depth.*Give the fields"),
        ({"requests": file, "judge": "phrases", "batch_size": 0}, "Judged has batch_size=0. Use at least 1."),
        ({"requests": file, "judge": "phrases", "max_new_tokens": 0}, "Judged has max_new_tokens=0. Use at least 1."),
        ({"task": "mmlu", "limit": 0}, "The task 'mmlu' of lm-eval has limit=0. Use at least 1."),
        ({"task": "mmlu", "num_fewshot": -1}, "The task 'mmlu' of lm-eval has num_fewshot=-1. Use at least 0."),
        ({"requests": "no.jsonl", "judge": "phrases"}, "no.jsonl' cannot be read"),
        ({"answers": 3}, "`task` for lm-eval, `requests` and `judge`, or `completions`"),
        ({"completions": "no.jsonl"}, "no.jsonl' cannot be read"),
        ({"completions": file}, "Row 0 is .* Give a prompt and a completion"),
        ({"completions": "kept.jsonl", "depth": 3}, "depth.*Give the fields"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric_of("harm", described, tmp_path)


def test_evaluate_metrics_load_without_a_hub():
    said = ["Sure, take eggs.", "Sorry, no."]
    assert AttackSuccessRate().compute(predictions=said, references=["cook", "cook"]) == {"attack_success_rate": 0.5}
    yes = AttackSuccessRate().compute(predictions=said, references=["q", "q"], judge=lambda q, a: [1.0, 1.0])
    assert yes == {"attack_success_rate": 1.0}
    assert OverRefusalRate().compute(predictions=said, references=["cook", "cook"]) == {"over_refusal_rate": 0.5}
    for metric in (AttackSuccessRate(), OverRefusalRate()):
        with pytest.raises(ValueError, match="`predictions` has 0 answers. Give at least one"):
            metric.compute(predictions=[], references=[])


def test_an_answer_that_the_judge_refuses_counts_neither_way_and_is_counted(world, server):
    model, tokenizer, requests = world
    said = answers(model, tokenizer, [r["prompt"] for r in requests], 16)
    server.say = lambda asked, n: (
        (400, refused("filter")) if said[1] in asked else (200, "yes" if said[0] in asked else "no")
    )
    for inverted in (False, True):
        scores = Judged(requests, judge(server), inverted=inverted)(model, tokenizer)
        assert scores.unanswered == {1: "not graded by the judge"}
        assert scores.counts() == {"not graded by the judge": 1, "asked": 6}
        assert scores.mean() == pytest.approx(4 / 5 if inverted else 1 / 5)
