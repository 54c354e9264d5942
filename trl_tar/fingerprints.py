"""What a result depends on, as hashes: the same in every process and on every machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase


WEIGHTS = "*.safetensors"  # of a whole model, its shards, or an adapter


def origin(model: str | Path) -> str:
    """Returns what a phase starts from: the hash of the weights in a folder, or an id of the Hub."""
    files = sorted(Path(model).glob(WEIGHTS))
    if not files:
        return str(model)
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()


def file_sha256(file: Path) -> str:
    """Hashes a file of any size."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sha256_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hashes all fields of all objects."""
    return hashlib.sha256(json.dumps([dict(row) for row in rows], sort_keys=True).encode()).hexdigest()


def weights_sha256(model: PreTrainedModel) -> str:
    """Hash of names, shapes and values of all weights, in the type they are loaded in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def config_sha256(model: PreTrainedModel) -> str:
    """Hash of the configuration, without the names of the folder and of the library's version."""
    unread = ("_name_or_path", "transformers_version")
    config = {name: value for name, value in model.config.to_dict().items() if name not in unread}
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def vocabulary_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all tokens, their roles, how text is cut and the chat template: with others the same weights answer otherwise."""
    roles = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    of_last_call = ("padding", "truncation")
    kept = {name: rule for name, rule in rules.items() if name not in of_last_call}
    content = [tokenizer.get_vocab(), roles, kept, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rows_sha256(dataset: Dataset) -> str:
    """Hash of all rows."""
    digest = hashlib.sha256()
    for batch in dataset.iter(1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())  # a table of the user's may hold dates
    return digest.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """Hash of a report's JSON fields, without the digest that they may hold."""
    held = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
