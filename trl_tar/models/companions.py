"""What comes with a model beside its weights, and how it differs from what comes with another."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import has_file

from ..fingerprints import UNREAD, tokenizer_parts
from .adapters import whole_model
from .generation import end_tokens
from .tokenizers import TOKENIZER_FILES, own_tokenizer
from .training_noise import configured_noise


# fields that change no answer: padding is masked, the cache is faster and no more, and attacks load every model in float32
# by the class that its configuration names
INDIFFERENT = {*UNREAD, "architectures", "dtype", "pad_token_id", "torch_dtype", "use_cache", "_from_model_config"}
SHOWN = 80  # characters of a value in a report; a choice


@dataclass(frozen=True)
class Companions:
    """Tokenizer, configuration and generation configuration of a model.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            With its chat template; `None` where the model has none of its own.
        config ([`~transformers.PretrainedConfig`]):
            Configuration.
        generation ([`~transformers.GenerationConfig`]):
            Generation configuration, as transformers derives it where there is no file of one.
    """

    tokenizer: PreTrainedTokenizerBase | None
    config: PretrainedConfig
    generation: GenerationConfig

    @classmethod
    def of(cls, model: str, tokenizer: PreTrainedTokenizerBase | None) -> "Companions":
        """Reads configuration and generation configuration of a folder or a Hub id; those of an adapter are its base's."""
        whole = whole_model(model)
        config = AutoConfig.from_pretrained(whole, trust_remote_code=False)
        try:
            generation = GenerationConfig.from_pretrained(whole)
        except OSError:  # no such file
            generation = GenerationConfig.from_model_config(config)
        return cls(tokenizer, config, generation)

    def end_tokens(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return end_tokens(self.config, self.generation, tokenizer)


def tokenizer_beside(model: str) -> PreTrainedTokenizerBase | None:
    """Loads the tokenizer of a folder or a Hub id; `None` where it has none."""
    return own_tokenizer(model) if any(has_file(model, name) for name in TOKENIZER_FILES) else None


def attacks_differ(model: Companions, reference: Companions) -> bool:
    """Whether an attack with what the model brings along can end otherwise than one with what the reference does."""
    assert reference.tokenizer is not None
    own = model.tokenizer or reference.tokenizer
    return (
        bool(dict(_of_tokenizers(own, reference.tokenizer)))
        or model.end_tokens(own) != reference.end_tokens(reference.tokenizer)
        or bool(set(configured_noise(model.config).items()) - set(configured_noise(reference.config).items()))
    )


def differences(model: Companions, reference: Companions) -> list[dict[str, str]]:
    """Lists what the model brings along otherwise than the reference: `what`, and both values in words.

    Args:
        model ([`Companions`]):
            The model. Without a tokenizer of its own it has the reference's.
        reference ([`Companions`]):
            What it is compared with.
    """
    pairs: dict[str, tuple[Any, Any]] = {}
    if model.tokenizer is not None and reference.tokenizer is not None:
        pairs |= dict(_of_tokenizers(model.tokenizer, reference.tokenizer))
    for what, own, other in (
        ("generation_config", model.generation.to_dict(), reference.generation.to_dict()),
        ("config", model.config.to_dict(), reference.config.to_dict()),
    ):
        pairs |= dict(_of_fields(what, own, other))
    return [{"what": what, "reference": _shown(other), "model": _shown(own)} for what, (own, other) in pairs.items()]


def _of_tokenizers(
    own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    parts, others = (_without_padding(tokenizer_parts(tokenizer)) for tokenizer in (own, other))
    for name in dict.fromkeys([*others, *parts]):
        if parts.get(name) != others.get(name):
            yield f"tokenizer: {name}", (parts.get(name), others.get(name))


def _without_padding(parts: Mapping[str, Any]) -> dict[str, Any]:
    special = {role: token for role, token in parts["special tokens"].items() if role != "pad_token"}
    return {**parts, "special tokens": special}


def _of_fields(what: str, own: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in dict.fromkeys([*other, *own]):
        left, right = own.get(name), other.get(name)
        if name in INDIFFERENT or left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _of_fields(f"{what}: {name}", left, right)
        else:
            yield f"{what}: {name}", (left, right)


def _shown(value: Any) -> str:
    """A value in words: what is long is cut, and a vocabulary is counted."""
    if isinstance(value, Mapping) and len(value) > SHOWN:
        return f"{len(value)} entries"
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
