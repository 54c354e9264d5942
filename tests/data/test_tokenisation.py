"""Text reaches the model as it was written, and the end of a turn is learned: in every type of row, and any script."""

import random

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_tar import Adversary
from trl_tar.losses import IGNORED
from trl_tar.red_teaming.attack_rows import tokenised_datasets


START, END, PAD = "<|im_start|>", "<|im_end|>", "<pad>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = [
    " leading and trailing spaces  ",
    "two\n\nparagraphs\tand a tab",
    "emoji 😀👩‍👩‍👧 and a flag 🇩🇪",
    "שלום עולם, mixed with English",
    "مرحبا بالعالم",
    "数学 and ﬁ ligatures, e\u0301 combined",
    "special tokens said aloud: <|im_start|>user <pad> </s>",
    "\u200bzero width\u200d and \u202eright to left\u202c",
    "{{ 7 * 7 }} {% for x in y %}",
]


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x5FF), (0x600, 0x6FF), (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 40)))


TEXTS += [random_text(seed) for seed in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, as most language models read them, with the template of SmolLM2 and Qwen."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"vocab_size": 400, "special_tokens": [PAD, START, END], "initial_alphabet": alphabet}
    raw.train_from_iterator(["user and assistant say words"], trainers.BpeTrainer(**settings, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, eos_token=END, extra_special_tokens=[START], chat_template=CHATML
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes))


def turn(role: str, text: str) -> list[dict]:
    return [{"role": role, "content": text}]


def rows(model, tokenizer, dataset: Dataset, objective: str = "sft") -> list[dict]:
    adversary = Adversary("a", "data", objective=objective)
    return tokenised_datasets(model, tokenizer, adversary, {"data": dataset}, max_length=2048)["data"].to_list()


def decoded(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_chat_is_what_the_template_writes_and_the_answer_is_learned_with_its_end(model, tokenizer):
    data = [{"prompt": turn("user", t), "completion": turn("assistant", t[::-1])} for t in TEXTS]
    for text, row in zip(TEXTS, rows(model, tokenizer, Dataset.from_list(data)), strict=True):
        whole = f"{START}user\n{text}{END}\n{START}assistant\n{text[::-1]}{END}\n"
        assert decoded(tokenizer, row["input_ids"]) == whole
        learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
        assert decoded(tokenizer, learned) == f"{text[::-1]}{END}\n"
        assert tokenizer.eos_token_id in learned


def test_conversations_are_learned_whole(model, tokenizer):
    data = [{"messages": [*turn("user", text), *turn("assistant", text)]} for text in TEXTS]
    for text, row in zip(TEXTS, rows(model, tokenizer, Dataset.from_list(data)), strict=True):
        assert decoded(tokenizer, row["input_ids"]) == f"{START}user\n{text}{END}\n{START}assistant\n{text}{END}\n"
        assert row["labels"] == row["input_ids"]


def test_plain_text_ends_with_the_end_and_nothing_is_put_before_it(model, tokenizer):
    plain = [{"text": text} for text in TEXTS]
    pairs = [{"prompt": f"{text}:", "completion": text} for text in TEXTS]
    for text, row, pair in zip(
        TEXTS,
        rows(model, tokenizer, Dataset.from_list(plain)),
        rows(model, tokenizer, Dataset.from_list(pairs)),
        strict=True,
    ):
        assert decoded(tokenizer, row["input_ids"]) == f"{text}{END}"
        assert decoded(tokenizer, pair["input_ids"]) == f"{text}:{text}{END}"


def test_preferences_hold_both_answers_with_their_ends(model, tokenizer):
    data = [
        {"prompt": turn("user", t), "chosen": turn("assistant", t), "rejected": turn("assistant", t[::-1])}
        for t in TEXTS
    ]
    for text, row in zip(TEXTS, rows(model, tokenizer, Dataset.from_list(data), "dpo"), strict=True):
        assert decoded(tokenizer, row["prompt_ids"]) == f"{START}user\n{text}{END}\n{START}assistant\n"
        assert decoded(tokenizer, row["chosen_ids"]) == f"{text}{END}\n"
        assert decoded(tokenizer, row["rejected_ids"]) == f"{text[::-1]}{END}\n"
