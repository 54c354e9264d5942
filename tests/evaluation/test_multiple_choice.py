"""Choice by likelihood on any causal language model, against likelihoods worked out one token at a time."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support import tiny
from support.architectures import tiny_model

from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.likelihoods import log_likelihoods
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.evaluation.scores import Scores
from trl_tar.red_teaming.trl_attackers import _without_soft_prompt


QUESTIONS = [
    {"prompt": "w1 w2", "choices": [" w3", " w4 w5", " w6"], "answer": 1, "group": "a"},
    {"prompt": "w7", "choices": [" w8 w9 w10", " w11"], "answer": 0, "group": "a"},
    {"prompt": "w1 w2 w3 w4", "choices": [" w5", " w6"], "answer": 1},
]


def one_by_one(model, prompt: str, continuation: str) -> float:
    """Σ log p(token | all before it), each from a forward pass of its own."""
    tokenizer = tiny.tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    total = 0.0
    for token in tokenizer(continuation)["input_ids"]:
        total += model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total


def test_likelihoods_of_rows_of_unequal_length_are_those_of_each_alone():
    model = tiny.gpt2()
    pairs = [(q["prompt"], choice) for q in QUESTIONS for choice in q["choices"]]
    expected = torch.tensor([one_by_one(model, *pair) for pair in pairs])
    torch.testing.assert_close(log_likelihoods(model, tiny.tokenizer(), pairs).float(), expected)


def test_a_prompt_is_read_once_for_its_continuations():
    model, read = tiny.gpt2(), []
    model.register_forward_pre_hook(lambda m, a, k: read.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    log_likelihoods(model, tiny.tokenizer(), [("w1 w2", choice) for choice in (" w3", " w4", " w5 w6", " w7")])
    assert read == [(1, 2), (1, 1)]  # the prompt, and w5


@pytest.mark.parametrize("model_type", ["openai-gpt", "recurrent_gemma"])
def test_models_that_return_no_cache(model_type):
    model = tiny_model(model_type)
    pairs = [(q["prompt"], choice) for q in QUESTIONS for choice in q["choices"]]
    with torch.no_grad():
        expected = torch.tensor([one_by_one(model, *pair) for pair in pairs])
    torch.testing.assert_close(log_likelihoods(model, tiny.tokenizer(), pairs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Mamba", "OPT"])
def test_other_architectures_and_caches(architecture):
    """A sliding window, a state instead of keys and values, positions that begin at 2."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 64, "num_attention_heads": 2}
    more = {
        "Llama": {"intermediate_size": 32},
        "Mistral": {"intermediate_size": 32, "sliding_window": 3, "num_key_value_heads": 2},
        "Mamba": {"state_size": 4},
        "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    }
    config = getattr(transformers, f"{architecture}Config")(**sizes, **more[architecture], pad_token_id=0)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    pairs = [(q["prompt"], choice) for q in QUESTIONS for choice in q["choices"]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that a wrong position or mask shows
        expected = torch.tensor([one_by_one(model, *pair) for pair in pairs])
    torch.testing.assert_close(log_likelihoods(model, tiny.tokenizer(), pairs).float(), expected, rtol=1e-4, atol=1e-4)


def test_adapters_and_soft_prompts_count():
    pairs = [(q["prompt"], choice) for q in QUESTIONS for choice in q["choices"]]
    plain = log_likelihoods(tiny.gpt2(), tiny.tokenizer(), pairs)
    lora = get_peft_model(tiny.gpt2(), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    soft = get_peft_model(tiny.gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
    adapted = log_likelihoods(lora.eval(), tiny.tokenizer(), pairs)
    torch.testing.assert_close(adapted, log_likelihoods(lora.merge_and_unload(), tiny.tokenizer(), pairs))
    with _without_soft_prompt(soft):  # as an attack evaluates it
        prompted = log_likelihoods(soft, tiny.tokenizer(), pairs)
    assert not torch.allclose(adapted, plain) and not torch.allclose(prompted, plain)
    ids = tiny.tokenizer()("w1 w2 w3")["input_ids"]
    expected = soft(torch.tensor([ids])).logits[0, -2].log_softmax(-1)[ids[-1]]
    torch.testing.assert_close(prompted[0], expected.float())


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_answer_must_be_the_likeliest(batch_size):
    model = tiny.gpt2()
    scores = MultipleChoice(QUESTIONS, batch_size)(model, tiny.tokenizer())
    expected = []
    for question in QUESTIONS:
        likelihoods = [one_by_one(model, question["prompt"], choice) for choice in question["choices"]]
        expected.append(float(max(likelihoods) == likelihoods[question["answer"]]))
    assert scores.values == expected
    assert scores.groups == ["a", "a", "2"]


def test_a_tie_is_wrong_and_a_broken_model_has_no_answer():
    model = tiny.gpt2()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # every token is as likely as any other
    tie = MultipleChoice([{"prompt": "w1", "choices": [" w2", " w3"], "answer": 0}])
    assert tie(model, tiny.tokenizer()).values == [0.0]
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert torch.tensor(tie(model, tiny.tokenizer()).values).isnan().all()


def test_other_questions_have_another_representation():
    assert repr(MultipleChoice(QUESTIONS)) == repr(MultipleChoice([dict(q) for q in QUESTIONS]))
    assert repr(MultipleChoice(QUESTIONS)) != repr(MultipleChoice(QUESTIONS[:2]))


def test_a_file_has_one_question_a_line(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n")
    assert repr(MultipleChoice.from_file(file)) == repr(MultipleChoice(QUESTIONS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 questions"),
        ("not json", "cannot be read"),
        ('{"prompt": "a", "choices": ["b", "c"]}', "Question 0 has no 'answer'"),
        ('{"prompt": "a", "choices": ["b"], "answer": 0}', "two or more"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "answer=2"),
        ("[1]", "Question 0 has no 'prompt'"),
    ],
)
def test_a_file_that_is_no_questions_is_refused(tmp_path, text, message):
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        MultipleChoice.from_file(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl.*cannot be read"):
        MultipleChoice.from_file(tmp_path / "nowhere.jsonl")


def test_the_loss_of_completions_is_their_mean_over_tokens():
    model = tiny.gpt2()
    rows = [{"prompt": q["prompt"], "completion": choice} for q in QUESTIONS for choice in q["choices"]]
    expected = [
        -one_by_one(model, row["prompt"], row["completion"]) / len(tiny.tokenizer()(row["completion"])["input_ids"])
        for row in rows
    ]
    assert CompletionLoss(rows, batch_size=3)(model, tiny.tokenizer()).values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "metric", [MultipleChoice(QUESTIONS), CompletionLoss([{"prompt": "a b", "completion": " c d"}])]
)
def test_what_is_longer_than_the_context_is_refused_before_any_work(metric):
    metric.check(tiny.tokenizer(), 64)
    metric.check(tiny.tokenizer())  # an architecture without end
    with pytest.raises(ValueError, match="tokens with an answer, and the model's context 2. Leave it out"):
        metric.check(tiny.tokenizer(), 2)


def test_the_last_token_of_a_question_may_be_beyond_the_context():
    model = tiny.gpt2()
    asked = [{"prompt": "w1 " * 16, "choices": ["w2", "w3", "w3"], "answer": 0}]  # wrong ones twice tell nothing apart
    metric, tokens = MultipleChoice(asked), len(tiny.tokenizer()("w1 " * 16 + "w2")["input_ids"])
    assert tokens == model.config.n_positions + 1
    metric.check(tiny.tokenizer(), model.config.n_positions)
    assert metric(model, tiny.tokenizer()).values[0] in (0.0, 1.0)


@pytest.mark.parametrize(
    "row", [{"prompt": "a"}, {"prompt": "a", "completion": ""}, {"prompt": 3, "completion": "b"}, "a"]
)
def test_a_row_without_prompt_and_completion_is_refused(row):
    with pytest.raises(ValueError, match="Row 1 is .* Give a prompt and a completion that is not empty"):
        CompletionLoss([{"prompt": "a", "completion": "b"}, row])


def test_lines_are_split_at_their_ends_only(tmp_path):
    odd = {"prompt": "a\u2028b\x85c\x0bd", "choices": [" w", " x"], "answer": 0}
    (tmp_path / "q.jsonl").write_text("\ufeff" + json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    assert MultipleChoice.from_file(tmp_path / "q.jsonl").questions == [odd]


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        (["high"], None, "Give one number an example"),
        ([None], None, "Give one number"),
        ([1.0], ["a", "b"], "1 values and 2 groups"),
    ],
)
def test_scores_that_are_no_numbers_are_refused(values, groups, message):
    with pytest.raises(ValueError, match=message):
        Scores(values, groups)


def test_scores_of_tensors_and_arrays_are_numbers():
    assert Scores(torch.tensor([0.5, 1.0])).values == Scores(torch.tensor([0.5, 1.0]).numpy()).values == [0.5, 1.0]
