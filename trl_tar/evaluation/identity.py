"""What a metric is, as a fingerprint."""

import hashlib
import inspect
import pickle
import re
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from datasets.fingerprint import Hasher

from ..fingerprints import json_sha256
from .scores import UNDECISIVE, Metric, Reward


def identity(function: Metric | Reward | None) -> str:
    """Describes a metric or reward, in the same way in every process: its name, its code, and what it holds."""
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
        return json_sha256(fields_of)
    try:
        return Hasher.hash(value)
    except (TypeError, AttributeError, pickle.PicklingError):  # a lock, for one
        return ""
