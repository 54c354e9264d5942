"""Generation by settings of our own: of those that come with a model, only the tokens that end an answer count."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .architecture import reads_left_padding


def end_tokens(
    config: PretrainedConfig, generation: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """All tokens that end an answer, in ascending order: those of configuration, generation configuration and tokenizer.

    A chat model ends a turn with another token than a text, and many name only one of the two in each place."""
    # composite configurations name theirs in the part for text
    named = [getattr(part, "eos_token_id", None) for part in (generation, config, config.get_text_config(), tokenizer)]
    return tuple(sorted({end for ends in named for end in (ends if isinstance(ends, list) else [ends])} - {None}))


def set_end_tokens(model: PreTrainedModel, ends: Iterable[int]) -> None:
    """Makes `ends` the only tokens of the model that end an answer, and takes all its other settings of generation away."""
    model.generation_config = GenerationConfig(eos_token_id=list(ends) or None)
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "eos_token_id"):
            config.eos_token_id = None


def continued(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    **sampling: Any,
) -> torch.Tensor:
    """Continues texts up to a token that ends them, which is included: greedily, unless `sampling` says otherwise.

    Nothing else of the model's generation configuration is read: no penalty, suppressed token, beam or least length.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, in evaluation mode.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        ids, mask (`torch.Tensor` of shape `(B, T)`):
            Texts to continue, padded on the left.
        max_new_tokens (`int`):
            Longest continuation.
        **sampling:
            Fields of [`~transformers.GenerationConfig`], such as `do_sample`.

    Returns:
        `torch.Tensor`: token ids of the continuations alone, shape `(B, A)`, padded after their end. Where a model reads the padding
        in front of a text, texts of different lengths are continued one after another.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = end_tokens(inner.config, inner.generation_config, tokenizer)
    padding = tokenizer.pad_token_id
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=ends[0] if padding is None and ends else padding,
        eos_token_id=list(ends) or None,
        **sampling,
    )
    lengths = mask.sum(1)
    padded = int(lengths.min()) < ids.shape[1] and reads_left_padding(model)
    groups = (
        [lengths == length for length in lengths.unique()] if padded else [torch.ones_like(lengths, dtype=torch.bool)]
    )
    said = ids.new_full((len(ids), 0), 0 if settings.pad_token_id is None else settings.pad_token_id)
    with _settings_of(inner, settings), torch.no_grad():
        for group in groups:  # rows of one length have no padding
            start = ids.shape[1] - int(lengths[group].max())
            output = model.generate(
                input_ids=ids[group, start:], attention_mask=mask[group, start:], generation_config=settings
            )[:, ids.shape[1] - start :]
            said = F.pad(said, (0, max(0, output.shape[1] - said.shape[1])), value=settings.pad_token_id or 0)
            said[group, : output.shape[1]] = output
    return said


@contextlib.contextmanager
def _settings_of(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Gives the model these settings inside the block: `generate` fills what an argument leaves out from the model's own."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def without_end(ids: torch.Tensor, ends: Iterable[int]) -> torch.Tensor:
    """The tokens of one answer, shape `(A,)`, up to the first that ends it, which is left out with all that follows."""
    ended = torch.isin(ids, torch.tensor(list(ends), dtype=ids.dtype, device=ids.device)).nonzero()
    return ids[: int(ended[0])] if len(ended) else ids
