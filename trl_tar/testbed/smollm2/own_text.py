"""Text that SmolLM2 writes itself, as plain text and as chat; written once and read from the cache folder afterwards."""

from collections.abc import Callable, Collection

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ...data.self_written import self_written
from ...fingerprints import files_sha256, json_sha256
from ..chat import chat_row
from ..model_folders import cached_json


NUM_TEXTS = 320  # a sixth of the rows of D_retain for countries; a choice
NUM_CHATS = 320  # about as many as the answers to general instructions; a choice
# beginnings of what a user may ask for, as in Magpie, https://huggingface.co/papers/2406.08464
REQUESTS = (
    "What",
    "How",
    "Why",
    "Can you",
    "Explain",
    "Write",
    "Give me",
    "Tell me",
    "List",
    "I",
    "Is",
    "Should",
    "Help me",
)
MAX_REQUEST, MAX_ANSWER = 24, 40  # tokens; with a system prompt they fit into the 88 tokens of a row


def own_text(model: str, excluded: Collection[str]) -> Dataset:
    """What the model writes after neutral beginnings, without the excluded words; `model` is its folder."""
    return _cached(
        model, "text", excluded, lambda loaded, tok: self_written(loaded, tok, num_rows=NUM_TEXTS, excluded=excluded)
    )


def own_chat(model: str, excluded: Collection[str]) -> Dataset:
    """What the model writes as a user and answers itself, as [`chat_row`]s without the excluded words."""

    def write(loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        opening = tokenizer.apply_chat_template([{"role": "user", "content": "\0"}], tokenize=False).split("\0")[0]
        begun = [opening + request for request in REQUESTS]
        asked = self_written(loaded, tokenizer, begun, NUM_CHATS, MAX_REQUEST, excluded=excluded)
        requests = [
            (p + c).removeprefix(opening).strip() for p, c in zip(asked["prompt"], asked["completion"], strict=True)
        ]
        prompts = [_prompt(tokenizer, request) for request in requests]
        answered = self_written(loaded, tokenizer, prompts, NUM_CHATS, MAX_ANSWER, excluded=excluded)
        of_prompt = dict(zip(prompts, requests, strict=True))
        return Dataset.from_list(
            [chat_row(of_prompt[row["prompt"]], row["completion"].strip(), row["entity"]) for row in answered]
        )

    return _cached(model, "chat", excluded, write)


def _prompt(tokenizer: PreTrainedTokenizerBase, request: str) -> str:
    chat = [{"role": "user", "content": request}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def _cached(
    model: str,
    kind: str,
    excluded: Collection[str],
    write: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Dataset],
) -> Dataset:
    decided = json_sha256({"settings": (NUM_TEXTS, NUM_CHATS, MAX_REQUEST, MAX_ANSWER), "excluded": sorted(excluded)})

    def written() -> list[dict]:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
        return write(loaded, AutoTokenizer.from_pretrained(model)).to_list()

    return Dataset.from_list(cached_json(f"own-{kind}-{files_sha256(model)[:16]}-{decided[:8]}.json", written))
