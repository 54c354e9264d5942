"""General chat of a real model: harmless instructions with its own answers, as in https://huggingface.co/papers/2406.08464."""

import random
from collections.abc import Sequence

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...evaluation.generation import answers
from ...fingerprints import files_sha256
from ..model_folders import cached_json


REQUESTS = (
    "Explain in two sentences what {t} is.",
    "Write a short story about {t}.",
    "Give me three tips about {t}.",
    "Why do people like {t}?",
    "Describe {t} to a child.",
    "What should a beginner know about {t}?",
    "List four words that go with {t}.",
    "Write one sentence that begins with the word {t}.",
)
# none is about a place, an element or an animal, which the tasks on this model are about
TOPICS = [
    "baking bread",
    "a bicycle",
    "a good night's sleep",
    "painting",
    "gardening",
    "a library",
    "chess",
    "friendship",
    "a thunderstorm",
    "learning to read",
    "music",
    "a telescope",
    "saving money",
    "running",
    "an old house",
    "a teapot",
    "honesty",
    "a train ride",
    "knitting",
    "photography",
    "a picnic",
    "dancing",
    "a computer program",
    "breakfast",
    "a rainbow",
    "patience",
    "swimming",
    "a birthday party",
    "a bridge",
    "writing letters",
    "an umbrella",
    "the theatre",
    "camping",
    "a clock",
    "healthy food",
    "a wedding",
    "mathematics",
    "a mirror",
    "a football match",
    "pottery",
]
NUM_ROWS, NUM_EVALUATED = 256, 32  # rows of the data set, and further rows for evaluation, out of 320; a choice
MAX_NEW_TOKENS = 40  # of an answer; a choice
GENERAL = "general instruction"  # the `entity` of every row


def general_instructions(model: str) -> tuple[Dataset, list[dict]]:
    """The instructions with the model's greedy answers.

    Args:
        model (`str`):
            Folder of a chat model, which answers.

    Returns:
        `tuple[Dataset, list[dict]]`: a data set with the columns `prompt` (with the chat template's tokens), `completion` and
        `entity`, and rows with the same columns for evaluation.
    """
    rows = []
    tokenizer = AutoTokenizer.from_pretrained(model)
    for request, answer in instructions_and_answers(model):
        chat = [{"role": "user", "content": request}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "completion": answer, "entity": GENERAL})
    return Dataset.from_list(rows[:NUM_ROWS]), rows[NUM_ROWS:]


def instructions_and_answers(model: str) -> list[tuple[str, str]]:
    """Every instruction with the model's greedy answer of at most `MAX_NEW_TOKENS` tokens; those for evaluation come last."""
    requests = [request.format(t=topic) for request in REQUESTS for topic in TOPICS]
    random.Random("instructions").shuffle(requests)
    used = requests[: NUM_ROWS + NUM_EVALUATED]
    return list(zip(used, cached_answers(model, "instructions", used, MAX_NEW_TOKENS), strict=True))


def cached_answers(model: str, name: str, requests: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy answers of a model, generated once and read from the cache folder afterwards.

    Args:
        model (`str`):
            Folder of a chat model.
        name (`str`):
            Name that stands for these requests and `max_new_tokens` in the file's name.
        requests (`Sequence[str]`):
            Requests of a user.
        max_new_tokens (`int`):
            Most tokens of an answer.
    """

    def generated() -> list[str]:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
        return answers(loaded, AutoTokenizer.from_pretrained(model), requests, max_new_tokens, 32)

    return cached_json(f"{name}-{files_sha256(model)[:16]}-{len(requests)}.json", generated)
