"""Hashes of what a result depends on. They are the same in every process and on every machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, extract_commit_hash


WEIGHTS = "*.safetensors"  # matches a whole model, its shards, and an adapter
# files that say how weights are read and answer
READ_WITH_WEIGHTS = ("config.json", "generation_config.json", "adapter_config.json")
READ_BY_TOKENIZERS = (
    "*token*.json",
    "vocab*",
    "merges*",
    "*.model",
    "chat_template*",
)  # names that transformers gives them
UNREAD = ("_name_or_path", "transformers_version")  # fields of theirs that change no number


def json_sha256(content: Any) -> str:
    """Returns the SHA-256 of the content as JSON with sorted names, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def origin(model: str | Path) -> str:
    """Identifies the model that a phase starts from.

    Of a folder that is the hash of its weights and of what decides how they are read and answer, apart from the tokenizer; of
    a Hub id the id with the commit that it stands for, where it is known."""
    folder = Path(model)
    if not folder.is_dir():
        commit = next(filter(None, (_commit(str(model), name) for name in READ_WITH_WEIGHTS)), None)
        return str(model) if commit is None else f"{model}@{commit}"
    read = {name: _decisive(folder / name) for name in READ_WITH_WEIGHTS if (folder / name).is_file()}
    return json_sha256([files_sha256(folder), read])


def with_tokenizer(model: str | Path) -> str:
    """Identifies a model with its tokenizer, as [`origin`] does without."""
    folder = Path(model)
    files = sorted({file for pattern in READ_BY_TOKENIZERS for file in folder.glob(pattern) if file.is_file()})
    return json_sha256([origin(model), {file.name: file_sha256(file) for file in files}])


def _commit(repository: str, name: str) -> str | None:
    try:
        return extract_commit_hash(cached_file(repository, name), None)
    except OSError:  # no such file, or no such repository, which loading will say
        return None


def _decisive(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    repeated = older_names(content)  # a model saved with them starts the same run as one without
    return {
        name: value
        for name, value in content.items()
        if name not in UNREAD and not (name in repeated and value == repeated[name])
    }


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a configuration of transformers 5 says, in the fields that transformers 4 reads; beside the newer ones they
    change no number.

    Positions by a scheme for each kind of layer have no such fields."""
    older = {}
    if isinstance(config.get("dtype"), str):
        older["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and isinstance(rope.get("rope_theta"), int | float):
        older |= {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
        if rope.get("rope_type", "default") != "default":
            older["rope_scaling"] = {name: value for name, value in rope.items() if name not in older}
    return older


def files_sha256(folder: str | Path) -> str:
    """Returns the hash of the files of weights in a folder: safetensors, or else what `torch.save` wrote."""
    files = sorted(Path(folder).glob(WEIGHTS)) or sorted(Path(folder).glob("*.bin"))
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
    """Returns the hash of configuration and generation configuration, without the name of the folder and the version of the
    library."""
    parts = [model.config.to_dict(), model.generation_config.to_dict()]
    read = [{name: value for name, value in part.items() if name not in UNREAD} for part in parts]
    return hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest()


def vocabulary_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the hash of all parts of a tokenizer, see [`tokenizer_parts`]: with other ones the same weights give other
    answers."""
    return json_sha256(tokenizer_parts(tokenizer))


def tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns, by name, what decides how a tokenizer reads and writes text: vocabulary, special tokens, rules and chat
    template."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    of_last_call = ("padding", "truncation")
    return {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        **{name: rule for name, rule in rules.items() if name not in of_last_call},
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "split_special_tokens": tokenizer.split_special_tokens,
        "chat template": tokenizer.chat_template,
    }


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
