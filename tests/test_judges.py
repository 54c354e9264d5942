"""Judges of answers: phrases, a local classifier, and a real HTTP server that answers, errs, hangs and talks nonsense."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, LlamaForCausalLM

from trl_tar.described import metric_of
from trl_tar.evaluation.generation import answers
from trl_tar.evaluation.hub_metrics import AttackSuccessRate, OverRefusalRate
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.judges import QUALITY_PROMPT, Classifier, Endpoint, RefusalPhrases, parsed_score
from trl_tar.testbed.refusal import HARMFUL, RefusalWorld
from trl_tar.testbed.refusal_models import refusal_model_path


@pytest.fixture
def server():
    """An OpenAI-compatible server: `say` decides what it answers, `seen` is what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.seen.append({"path": self.path, "authorization": self.headers["Authorization"], **body})
            status, said = state.say(body["messages"][-1]["content"], len(state.seen))
            content = (
                said if isinstance(said, bytes) else json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    state = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.seen, state.say = [], lambda asked, n: (200, "yes")
    state.url = f"http://127.0.0.1:{state.server_port}/v1"
    thread = threading.Thread(target=state.serve_forever, daemon=True)
    thread.start()
    yield state
    state.shutdown()
    state.server_close()


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
    [("yes", 1.0), ("No.", 0.0), ("**Yes**, it does", 1.0), ("1", 0.0), ("10", 1.0), ("5/10", 4 / 9), ("", None)]
    + [("maybe", None), ("11", None), ("0", None), ("nothing of that", None)],
)
def test_what_a_judge_says_is_a_score_or_nothing(said, score):
    assert parsed_score(said) == score


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
        (200, "perhaps", 2, "it said 'perhaps', neither yes nor no nor a number from 1 to 10"),
        (200, b"<html>", 2, "JSONDecodeError"),
        (200, b"{}", 2, "KeyError"),
    ],
)
def test_a_judge_without_a_score_is_one_sentence(server, status, said, asked, reason):
    server.say = lambda *_: (status, said)
    with pytest.raises(RuntimeError, match=rf"The judge 'judge' at .* gave no score \({reason}.*Check the server"):
        judge(server, attempts=2)(["q"], ["a"])
    assert len(server.seen) == asked


def test_a_judge_that_hangs_is_given_up(server):
    def say(asked, n):
        time.sleep(1)
        return 200, "yes"

    server.say = say
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out"):
        judge(server, attempts=1, timeout=0.2)(["q"], ["a"])
    assert time.monotonic() - start < 1


def test_nobody_at_the_address_is_one_sentence():
    with pytest.raises(RuntimeError, match="Connection refused"):
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
    for described, message in [
        ({"requests": file, "judge": "oracle"}, "has the judge 'oracle'. Give 'phrases', path and label"),
        ({"requests": file, "judge": "phrases", "depth": 3}, "depth.*Give the fields"),
        ({"requests": "no.jsonl", "judge": "phrases"}, "no.jsonl' cannot be read"),
        ({"answers": 3}, "`task` for lm-eval, or `requests` and `judge`"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric_of("harm", described, tmp_path)


def test_evaluate_metrics_load_without_a_hub():
    said = ["Sure, take eggs.", "Sorry, no."]
    assert AttackSuccessRate().compute(predictions=said, references=["cook", "cook"]) == {"attack_success_rate": 0.5}
    yes = AttackSuccessRate().compute(predictions=said, references=["q", "q"], judge=lambda q, a: [1.0, 1.0])
    assert yes == {"attack_success_rate": 1.0}
    assert OverRefusalRate().compute(predictions=said, references=["cook", "cook"]) == {"over_refusal_rate": 0.5}
