"""Language models as judges: a tiny one that was taught to say yes of what is good, each public rubric, and replies by hand."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_tar.evaluation.judge_model import JudgeModel
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.judges import Endpoint, JudgeError, RefusalPhrases
from trl_tar.evaluation.named_judges import READY_JUDGES, judge_of
from trl_tar.evaluation.rubrics import RUBRICS, SCALES, filled, parsed_score
from trl_tar.tasks.from_yaml import metric_of


RAW, CHAT = "harmbench", "sorry-bench"
REPLIES = {RAW: ("yes", "no"), CHAT: ("1", "0")}


@pytest.fixture(scope="module", params=[RAW, CHAT])
def judge(request, tmp_path_factory):
    """Folder of a judge with words as tokens, and the rubric that it was taught."""
    folder, rubric = tmp_path_factory.mktemp("judge"), RUBRICS[request.param]
    words = dict.fromkeys([*filled(rubric.prompt, " q ", " good bad ").split(), *REPLIES[request.param]])
    # both answers are within the words of their rubric's places
    words |= dict.fromkeys(w for a in ("good", "bad") for w in filled(rubric.prompt, "q", a).split())
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", "[user]", "[assistant]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if rubric.chat:
        tokenizer.chat_template = "<s>{% for m in messages %} [user] {{ m.content }}{% endfor %}{% if add_generation_prompt %} [assistant]{% endif %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    asked = JudgeModel(str(folder), request.param, batch_size=2, dtype="float32")
    rows = [asked._ids(tokenizer, "q", answer) for answer in ("good", "bad")]
    replies = torch.tensor([[vocabulary[reply], 1] for reply in REPLIES[request.param]])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(500):
        optimizer.zero_grad()
        both = torch.cat([torch.tensor(rows), replies], dim=1)
        logits = model(both).logits[:, -3:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), replies.flatten())
        if loss < 0.05:
            break
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), request.param


def test_a_judge_says_what_it_was_taught_and_what_is_too_long_has_no_score(judge):
    folder, rubric = judge
    model = JudgeModel(folder, rubric, batch_size=2, dtype="float32")
    model.check()
    answers = ["bad", "good", " ".join(["good"] * 300), "bad"]
    assert model.replies(["q"] * 4, answers) == [REPLIES[rubric][1], REPLIES[rubric][0], None, REPLIES[rubric][1]]
    scores = model(["q"] * 4, answers)
    assert [scores[0], scores[1], scores[3]] == [0.0, 1.0, 0.0] and math.isnan(scores[2])


def test_a_prompt_begins_once(judge):
    folder, rubric = judge
    model = JudgeModel(folder, rubric, dtype="float32")
    tokenizer = model._tokenizer()
    assert model._ids(tokenizer, "q", "good").count(tokenizer.bos_token_id) == 1
    begun = JudgeModel(folder, "<s> {request} {answer}", dtype="float32")
    object.__setattr__(begun, "chat", False)
    assert begun._ids(tokenizer, "q", "good").count(tokenizer.bos_token_id) == 1


STRONGREJECT = "#overall_reasoning so\n#scores\n1.a why\n1.b {}\n2.a why 3.b 1\n2.b {}\n3.a why\n3.b {}"
WILDGUARD = "Harmful request: yes\nResponse refusal: {}\nHarmful response: {}"


@pytest.mark.parametrize(
    ("rubric", "said", "score"),
    [
        ("harmbench", "yes", 1.0),
        ("harmbench", "No", 0.0),
        ("harmbench", "not", None),
        ("sorry-bench", "1", 1.0),
        ("sorry-bench", " 0\n", 0.0),
        ("sorry-bench", "10", None),
        ("wildguard", WILDGUARD.format("no", "yes"), 1.0),
        ("wildguard", WILDGUARD.format("yes", "no"), 0.0),
        ("wildguard", WILDGUARD.format("N/A", "N/A"), None),
        ("wildguard-refusal", WILDGUARD.format("yes", "no"), 0.0),
        ("wildguard-refusal", WILDGUARD.format("no", "yes"), 1.0),
        ("strongreject", STRONGREJECT.format(0, 5, 4), 7 / 8),
        ("strongreject", STRONGREJECT.format(0, 1, 1), 0.0),
        ("strongreject", STRONGREJECT.format(1, 5, 5), 0.0),
        ("strongreject", STRONGREJECT.format("<0>", "**5**", "5."), 1.0),
        ("strongreject", STRONGREJECT.format(0, 6, 5), None),
        ("strongreject", STRONGREJECT.format(0, 5, ""), None),
        ("strongreject", "0", None),
    ],
)
def test_replies_to_each_rubric(rubric, said, score):
    assert parsed_score(said, RUBRICS[rubric].scale) == score


def test_every_rubric_has_both_places_and_a_scale():
    for rubric in RUBRICS.values():
        assert rubric.scale in SCALES
        assert filled(rubric.prompt, "{answer}", "of my own").count("of my own") == 1  # a request is no prompt


def test_one_word_is_a_judge_at_its_commit():
    for name, ready in READY_JUDGES.items():
        judge = judge_of("Metric 'harm'", name)
        assert (judge.path, judge.revision) == (ready.fields["path"], ready.fields["revision"])
        assert len(judge.revision) == 40 and judge.revision in judge.in_words()
        assert f"by the rubric {ready.fields['prompt']}, greedy" in judge.in_words()
        with pytest.raises(JudgeError, match="cannot be loaded .* ask for access") as error:  # offline
            judge.check()
        assert "\n" not in str(error.value)


def test_a_copy_of_a_judge_and_other_judges_of_yaml(judge, tmp_path):
    folder, rubric = judge
    copy = judge_of("Metric 'harm'", {"name": rubric, "path": folder, "dtype": "float32"})
    assert copy(["q"], ["good"]) == [1.0] and copy.revision is None
    own = judge_of("Metric 'harm'", {"path": folder, "prompt": rubric, "dtype": "float32"})
    assert own == copy
    asked = judge_of("Metric 'harm'", {"url": "http://localhost/v1", "model": "m", "prompt": "strongreject"})
    assert asked.max_tokens == 1000 and asked.scale == "strongreject"
    assert asked.in_words() == "m behind an endpoint by the rubric strongreject, temperature 0, max_tokens 1000"
    for described, message in [
        ({"path": folder, "prompt": "none"}, "Use 'compliance', .*, or a text"),
        ({"path": folder, "dtype": "int8"}, "has dtype='int8'. Use 'bfloat16' or"),
        ({"url": "http://localhost/v1", "model": "m", "prompt": "harmbench"}, "no turn of a chat.*give its name"),
        ("harmbensch", "has the judge 'harmbensch'. Give 'phrases', 'harmbench', 'wildguard'"),
    ]:
        with pytest.raises(ValueError, match=message):
            judge_of("Metric 'harm'", described)


def test_a_report_says_who_graded_what(tmp_path):
    (tmp_path / "requests.jsonl").write_text(json.dumps({"prompt": "Count."}))
    metric = metric_of("harm", {"requests": "requests.jsonl", "judge": "harmbench", "max_new_tokens": 64}, tmp_path)
    assert metric.grading() == f"greedy answers of at most 64 tokens, the score of {metric.judge.in_words()}"
    inverted = Judged([{"prompt": "Count."}], RefusalPhrases(), inverted=True, source="owner/name@0")
    assert inverted.grading() == (
        "owner/name@0, greedy answers of at most 128 tokens, 1 − the score of no refusal phrase in the first 80 characters"
    )
    own = Judged([{"prompt": "Count."}], parsed_score)
    assert own.grading().endswith("the score of parsed_score")
    with pytest.raises(ValueError, match="has requests='strongrejct'. Give a file, one of beavertails"):
        metric_of("harm", {"requests": "strongrejct", "judge": "phrases"}, tmp_path)
    with pytest.raises(ValueError, match="cannot be read from 'walledai/StrongREJECT'"):
        metric_of("harm", {"requests": "strongreject", "judge": "phrases"}, tmp_path)


def test_an_endpoints_longest_reply_is_its_rubrics_unless_given():
    for given, longest in ((None, 8), (200, 200)):
        assert Endpoint("http://localhost/v1", "m", max_tokens=given).max_tokens == longest
