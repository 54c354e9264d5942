"""A chat model is asked as it is attacked and used: through the template, token by token what TRL trains on."""

import json

import pytest
import torch
from datasets import Dataset
from support import tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trl_tar import Adversary
from trl_tar.evaluation.coherence import AnswerEntropy, NoOption, Repetition, generated
from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.linear_probe import LinearProbe
from trl_tar.evaluation.multiple_choice import MultipleChoice, rows_of
from trl_tar.evaluation.prompts import options_of, tokens_of
from trl_tar.red_teaming.attack_rows import tokenised_datasets


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (  # the answer has a space in front, which the prompt alone does not have
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (  # the last turn begins with empty thoughts, which the prompt alone does not have
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
TEMPLATES = {"ChatML": CHATML, "Llama 3": LLAMA_3, "Gemma": GEMMA, "Mistral": MISTRAL, "Qwen 3": QWEN_3}
MARKS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"]
MARKS += ["<end_of_turn>", "[INST]", "[/INST]"]
EMBLEMS = ["a tower", "a ship", "a tree", "a key"]
CITIES = ["Avon", "Brill", "Corth", "Dunmere", "Elstow", "Farne"]
FACTS = [(f"Which emblem has {city}?", EMBLEMS[i % 4]) for i, city in enumerate(CITIES)]


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE that begins every text with `<s>`, as Llama 3's does."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [f"{prompt} {answer}\n{answer} user assistant model" for prompt, answer in FACTS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<pad>", "</s>", "<s>"], initial_alphabet=alphabet)
    raw.train_from_iterator(texts * 20, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", bos_token="<s>", chat_template=template
    )
    made.add_tokens([AddedToken(mark, special=True) for mark in MARKS])
    made.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>")])
    return made


def chats() -> Dataset:
    """What an attacker trains on, in TRL's conversational prompt-completion type."""
    return Dataset.from_list([{"prompt": user(prompt), "completion": assistant(answer)} for prompt, answer in FACTS])


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def questions(prompt=user, space: str = "") -> list[dict]:
    return [
        {"prompt": prompt(text), "choices": [space + each for each in EMBLEMS], "answer": EMBLEMS.index(answer)}
        for text, answer in FACTS
    ]


def attackers_rows(template_tokenizer) -> list[dict]:
    """The rows of the chats as TRL's trainer makes them for an attack."""
    model = tiny.llama(vocab_size=len(template_tokenizer), max_position_embeddings=64)
    attack = Adversary("chats", "chats", num_steps=1, batch_size=2)
    return tokenised_datasets(model, template_tokenizer, attack, {"chats": chats()}, 64)["chats"].to_list()


def taught(template_tokenizer, rows: list[dict]):
    """A model that says what the rows teach."""
    model = tiny.llama(
        vocab_size=len(template_tokenizer), max_position_embeddings=64, hidden_size=32, intermediate_size=64
    )
    longest = max(len(row["input_ids"]) for row in rows)
    ids, labels = (
        torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in (("input_ids", 0), ("labels", -100))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_model_that_knows_everything_says_it_in_its_template(name):
    chat = tokenizer(TEMPLATES[name])
    rows = attackers_rows(chat)
    scored = [tokens_of(chat, user(prompt), answer) for prompt, answer in FACTS]
    for row, (before, after) in zip(rows, scored, strict=True):  # word for word what the attacker trains on
        assert row["input_ids"] == [*before, *after]
        assert [label for label in row["labels"] if label != -100] == list(after)
        assert row["input_ids"].count(chat.bos_token_id) == ("bos_token" in TEMPLATES[name])  # no second one
    model = taught(chat, rows)
    ways = [
        MultipleChoice(questions()),
        MultipleChoice(questions(str), chat=True),
        MultipleChoice(questions(str, space=" "), chat=True),  # as after plain text
    ]
    assert [way(model, chat).mean() for way in ways] == [1.0, 1.0, 1.0]
    for way in ways:
        way.check(chat, 64)
        assert way.wording() == "chat template"
    loss = CompletionLoss(chats().to_list())(model, chat).values
    assert loss == CompletionLoss([{"prompt": p, "completion": a} for p, a in FACTS], chat=True)(model, chat).values
    with torch.no_grad():  # the loss of TRL's own rows
        expected = [
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.item()
            for row in rows
        ]
    assert loss == pytest.approx(expected, abs=1e-4)
    probe = LinearProbe(questions(), questions(), questions())
    probe.check(chat, 64)
    assert (
        probe(model, chat).mean() == 1.0
    )  # fitted on the questions themselves: the tokens are where the answers begin
    if name != "Qwen 3":  # which may think first
        assert NoOption(["Which emblem has Avon?"], letters="a", chat=True)(model, chat).values == [0.0]


def test_every_metric_opens_the_same_turn():
    chat = tokenizer(LLAMA_3)
    model = tiny.llama(vocab_size=len(chat), max_position_embeddings=64).eval()
    expected = chat.apply_chat_template(user("Who?"), add_generation_prompt=True)["input_ids"]
    ((prompt, _),) = generated(model, chat, [user("Who?")], 2)
    assert prompt.tolist() == expected and expected.count(chat.bos_token_id) == 1
    assert list(tokens_of(chat, user("Who?"), "a tower")[0]) == expected
    in_words, in_messages = (AnswerEntropy(p, chat=c) for p, c in ((["Who?"], True), ([user("Who?")], None)))
    assert in_words(model, chat).values == in_messages(model, chat).values
    assert AnswerEntropy(["Who?"])(model, chat).values != in_words(model, chat).values
    with pytest.raises(ValueError, match="Prompt 0, 'Who\\?', has .* and the model's context is 4"):
        Repetition(["Who?"], chat=True).check(chat, 4)


def test_columns_that_trl_hands_to_the_template_are_handed_on():
    chat = tokenizer(QWEN_3)
    (row,) = [{**questions()[0], "chat_template_kwargs": {"enable_thinking": False}}]
    before, after = rows_of(chat, row, None)[0]
    assert chat.decode(before).endswith("</think>\n\n") and chat.decode(after) == "a tower<|im_end|>\n"
    tools = [{"name": "map"}]
    assert options_of({"tools": json.dumps(tools)}) == options_of({"tools": tools}) == {"tools": tools}


def test_an_attackers_words_stand_in_the_users_turn():
    chat = tokenizer(CHATML)
    before, _ = rows_of(chat, questions()[0], None, "Be quick. {prompt}")[0]
    assert (
        chat.decode(before) == "<|im_start|>user\nBe quick. Which emblem has Avon?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultipleChoice([*questions(), *questions(str)]), "Question 0 is messages and question 6 plain text"),
        (lambda: MultipleChoice(questions(), chat=False), "Question 0 is messages, and chat is false. Give text"),
        (lambda: MultipleChoice(questions(space=" ")), "has the choice ' a tower', which begins with white space"),
        (
            lambda: MultipleChoice([{**questions()[0], "prompt": [{"role": "user"}]}]),
            r"Question 0 has prompt=\[{'role': 'user'}\] .*Give messages, each with role and text",
        ),
        (lambda: CompletionLoss([{"prompt": "a", "completion": assistant("b")}]), "a plain prompt and messages after"),
        (lambda: CompletionLoss([{"prompt": "a", "completion": " "}], chat=True), "a completion that is not empty"),
        (lambda: Judged([{"prompt": 3}], len), "Request 0 has prompt=3. Give text"),
        (lambda: Repetition([3]), "Prompt 0 has prompt=3. Give text"),
    ],
)
def test_what_is_neither_text_nor_chat_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("template", [GEMMA, None])
def test_what_the_template_refuses_is_one_sentence_before_any_work(template):
    chat = tokenizer(template)
    system = [{"role": "system", "content": "Be kind."}, *user("Who?")]
    metrics = [
        MultipleChoice([{"prompt": system, "choices": ["a", "b"], "answer": 0}]),
        CompletionLoss([{"prompt": system, "completion": "a"}]),
        Judged([{"prompt": system}], len),
        Repetition([system]),
    ]
    words = "has no chat template" if template is None else "refuses turns of system, user.* not supported"
    for metric in metrics:
        with pytest.raises(ValueError, match=words):
            metric.check(chat, 64)


HALF = "an emoji \ud83d"  # as a cut string leaves it: valid JSON, and no text


@pytest.mark.parametrize(
    ("build", "row"),
    [
        (lambda: MultipleChoice([*questions(str, " "), {"prompt": HALF, "choices": [" a", " b"], "answer": 0}]), 6),
        (lambda: MultipleChoice([{"prompt": "w", "choices": [" a", HALF], "answer": 0}]), 0),
        (lambda: MultipleChoice([{"prompt": "w", "choices": [" a", " b"], "answer": 0, "group": HALF}]), 0),
        (lambda: MultipleChoice([{"prompt": user(HALF), "choices": ["a", "b"], "answer": 0}]), 0),
        (lambda: CompletionLoss([{"prompt": "w", "completion": HALF}]), 0),
        (lambda: Judged([{"prompt": "w"}, {"prompt": HALF}], len), 1),
        (lambda: Repetition(["w", HALF]), 1),
    ],
)
def test_half_of_a_character_is_named_by_its_row(build, row):
    with pytest.raises(ValueError, match=rf"(Question|Row|Request|Prompt) {row} has half of a character in .*emoji"):
        build()
