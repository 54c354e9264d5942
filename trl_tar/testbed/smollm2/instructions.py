"""General chat of a real model: harmless instructions, each with the model's own answer, as in Magpie
(https://huggingface.co/papers/2406.08464)."""

import json
import random
from collections.abc import Sequence

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...evaluation.generation import answers
from ...files import write_json
from ...fingerprints import origin
from ..small_llama import cache_folder


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
# none is about a place, an element or an animal
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
NUM_ROWS, KEPT = 256, 32  # of the data set; further ones, for evaluation
MAX_NEW_TOKENS = 40
GENERAL = "general instruction"  # in the column `entity`


def general_instructions(model: str) -> tuple[Dataset, list[dict]]:
    """Instructions and the model's greedy answers, made once and kept in the cache folder.

    Args:
        model (`str`):
            Folder of a chat model.

    Returns:
        `tuple[Dataset, list[dict]]`: columns `prompt` (with the chat template's tokens), `completion` and `entity`; and rows
        with the same columns that are kept for evaluation.
    """
    rows = []
    tokenizer = AutoTokenizer.from_pretrained(model)
    for request, answer in instructions_and_answers(model):
        chat = [{"role": "user", "content": request}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "completion": answer, "entity": GENERAL})
    return Dataset.from_list(rows[:NUM_ROWS]), rows[NUM_ROWS:]


def instructions_and_answers(model: str) -> list[tuple[str, str]]:
    """Every instruction, those kept for evaluation last, with the model's greedy answer of at most that many tokens."""
    requests = [request.format(t=topic) for request in REQUESTS for topic in TOPICS]
    random.Random("instructions").shuffle(requests)
    asked = requests[: NUM_ROWS + KEPT]
    return list(zip(asked, kept_answers(model, "instructions", asked, MAX_NEW_TOKENS), strict=True))


def kept_answers(model: str, name: str, requests: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy answers, made once and kept in the cache folder under a name that stands for the requests."""
    file = cache_folder() / f"{name}-{origin(model)[:16]}-{len(requests)}.json"
    if not file.is_file():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, answers(loaded, AutoTokenizer.from_pretrained(model), requests, max_new_tokens, 32))
    return json.loads(file.read_text(encoding="utf-8"))
