"""General chat of a real model: harmless instructions, each with the model's own answer, as in Magpie
(https://huggingface.co/papers/2406.08464)."""

import json
import random

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..evaluation.generation import answers
from ..phases import origin
from ..records import write_json
from .models import cache_folder


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
MAX_NEW_TOKENS = 40


def general_instructions(model: str, num_rows: int = 256, kept: int = 32) -> tuple[Dataset, list[dict]]:
    """Instructions and the model's greedy answers, made once and kept in the cache folder.

    Args:
        model (`str`):
            Folder of a chat model.
        num_rows (`int`, *optional*, defaults to `256`):
            Of the data set.
        kept (`int`, *optional*, defaults to `32`):
            Further ones, with the same columns, for evaluation.

    Returns:
        `tuple[Dataset, list[dict]]`: columns `prompt` (with the chat template's tokens), `completion` and `entity`.
    """
    requests = [request.format(t=topic) for request in REQUESTS for topic in TOPICS]
    random.Random("instructions").shuffle(requests)
    file = cache_folder() / f"instructions-{origin(model)[:16]}-{num_rows + kept}.json"
    tokenizer = AutoTokenizer.from_pretrained(model)
    if not file.is_file():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, answers(loaded, tokenizer, requests[: num_rows + kept], MAX_NEW_TOKENS, 32))
    said = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for request, answer in zip(requests, said, strict=False):
        chat = [{"role": "user", "content": request}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "completion": answer, "entity": "general instruction"})
    return Dataset.from_list(rows[:num_rows]), rows[num_rows:]
