"""Which settings of a trainer a record keeps: those that decide the result, and no secrets."""

import re
from collections.abc import Mapping
from typing import Any


# beginnings of names of settings that decide what a trainer writes and where, but not the weights
UNDECISIVE = ("output_dir", "logging", "log_", "save_", "report_to", "run_name", "push_to_hub", "hub_", "disable_tqdm")

SECRETS = re.compile(
    r".*(auth|authorization|(api|access|private|secret)_?key|passwo?r?d|secret|credentials?|token)", re.IGNORECASE
)
TOKENS_OF_TEXT = re.compile(r"(bos|eos|pad|unk|sep|cls|mask)_token")
SECRET_VALUES = re.compile(r"hf_\w{8,}|Bearer\s.*")


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the weights of a phase, without secrets such as the token in `model_init_kwargs`."""
    return _without_secrets({name: value for name, value in settings.items() if not name.startswith(UNDECISIVE)})


def _without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    public = {name: value for name, value in settings.items() if not _is_secret(name, value)}
    return {name: _described(value) for name, value in public.items()}


def _is_secret(name: str, value: Any) -> bool:
    name = str(name).replace("-", "_")
    named = SECRETS.fullmatch(name) is not None and TOKENS_OF_TEXT.fullmatch(name) is None
    return named or (isinstance(value, str) and SECRET_VALUES.match(value) is not None)


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [_described(item) for item in value if not _is_secret("", item)]
    return value
