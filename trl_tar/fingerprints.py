"""Hashes of what a result depends on. They are the same in every process and on every machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase


WEIGHTS = "*.safetensors"  # matches a whole model, its shards, and an adapter


def json_sha256(content: Any) -> str:
    """Returns the SHA-256 of the content as JSON with sorted names, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def origin(model: str | Path) -> str:
    """Identifies the model that a phase starts from: by the hash of the weights in a folder, or by its Hub id."""
    files = sorted(Path(model).glob(WEIGHTS))
    if not files:
        return str(model)
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()


def file_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file, which may be larger than memory."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sha256_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the hash of all fields of all rows, in their order."""
    return json_sha256([dict(row) for row in rows])


def weights_sha256(model: PreTrainedModel) -> str:
    """Returns the hash of the names, dtypes, shapes and bytes of all weights, in the dtype that they are loaded in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def config_sha256(model: PreTrainedModel) -> str:
    """Returns the hash of the configuration, without the name of its folder and the version of the library."""
    unread = ("_name_or_path", "transformers_version")
    config = {name: value for name, value in model.config.to_dict().items() if name not in unread}
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def vocabulary_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the hash of the tokens, their roles, the rules that cut text, and the chat template.

    With other ones the same weights give other answers."""
    roles = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    of_last_call = ("padding", "truncation")
    lasting = {name: rule for name, rule in rules.items() if name not in of_last_call}
    return json_sha256([tokenizer.get_vocab(), roles, lasting, tokenizer.chat_template])


def rows_sha256(dataset: Dataset) -> str:
    """Returns the hash of all rows of a data set, read 1000 at a time."""
    digest = hashlib.sha256()
    for batch in dataset.iter(1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())  # a table of the user's may hold dates
    return digest.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """Returns the hash of a report's JSON fields, without the digest that they may hold."""
    held = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
