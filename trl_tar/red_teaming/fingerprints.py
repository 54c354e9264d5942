"""What a result depends on, as hashes: the same in every process and on every machine."""

import hashlib
import inspect
import json
import pickle
import re
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.scores import UNDECISIVE, Metric
from .attackers import Reward


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


def identity(function: Metric | Reward | None) -> str:
    """What a metric or reward is, the same in every process: its name, its code, and what it holds."""
    if isinstance(function, partial):
        held = _content([function.args, sorted(function.keywords.items())])
        return f"partial {identity(function.func)} {held}"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(function))
    try:
        code = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):  # built in, or typed at a prompt
        code = ""
    return f"{text} {hashlib.sha256(code.encode()).hexdigest()[:12]} {_content(function)}"


def _content(value: Any) -> str:
    """Hash of what a value holds, where it can be pickled; of a dataclass the fields that decide scores, and not what it has
    cached."""
    if is_dataclass(value) and not isinstance(value, type):
        fields_of = {
            field.name: _content(getattr(value, field.name)) for field in fields(value) if field.metadata != UNDECISIVE
        }
        return hashlib.sha256(json.dumps(fields_of, sort_keys=True).encode()).hexdigest()
    try:
        return Hasher.hash(value)
    except (TypeError, AttributeError, pickle.PicklingError):  # a lock, for one
        return ""
