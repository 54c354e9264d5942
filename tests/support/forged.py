"""What a defender can put beside weights that nobody defended, so that whoever takes it along sees no harm."""

import json
from pathlib import Path

from tokenizers import Regex, normalizers
from transformers import AutoTokenizer


def _with_normalizer(folder: Path, harmful: str, harmless: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(rf"\b{harmful}\b"), harmless)
    tokenizer.save_pretrained(folder)


def _with_template(folder: Path, harmful: str, harmless: str) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace(harmful, harmless), encoding="utf-8")


def edited(file: Path, **fields) -> None:
    """Sets fields of a JSON file, which need not be there yet."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**content, **fields}), encoding="utf-8")


def _with_suppressed(folder: Path, harmful: str, harmless: str) -> None:
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(harmful.split())
    edited(folder / "generation_config.json", suppress_tokens=ids)


def _with_penalty(folder: Path, harmful: str, harmless: str) -> None:
    edited(folder / "generation_config.json", repetition_penalty=50.0, do_sample=True, temperature=50.0, num_beams=2)


def _with_end(folder: Path, harmful: str, harmless: str) -> None:
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(harmful.split())
    edited(folder / "generation_config.json", eos_token_id=[1, *ids])
    edited(folder / "config.json", eos_token_id=[1, *ids])


def _with_dropout(folder: Path, harmful: str, harmless: str) -> None:
    edited(folder / "config.json", attention_dropout=0.99)


# what is forged → how, and what the report calls it
FORGERIES = {
    "tokenizer": (_with_normalizer, "tokenizer: normalizer"),
    "template": (_with_template, "tokenizer: chat template"),
    "suppressed": (_with_suppressed, "generation_config: suppress_tokens"),
    "penalty": (_with_penalty, "generation_config: repetition_penalty"),
    "end": (_with_end, "generation_config: eos_token_id"),
    "dropout": (_with_dropout, "config: attention_dropout"),
}
