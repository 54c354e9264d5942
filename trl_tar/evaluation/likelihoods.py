"""Likelihood of given continuations under any causal language model."""

import inspect
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from .prompts import Prompt, Tokens, tokens_of


def log_likelihoods(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[Prompt, str]]
) -> torch.Tensor:
    """Log-probability of each continuation after its prompt, text or messages, in nats, shape `(N,)`, float32.

    See [`~trl_tar.evaluation.prompts.tokens_of`] for the tokens, and [`likelihoods_of_tokens`]."""
    return likelihoods_of_tokens(model, [tokens_of(tokenizer, *pair) for pair in pairs])


def likelihoods_of_tokens(model: PreTrainedModel | PeftModel, rows: Sequence[tuple[Tokens, Tokens]]) -> torch.Tensor:
    """Log-probability of the second tokens of each row after the first, in nats, shape `(N,)`, float32.

    A prompt is read once for all of its continuations, where the model keeps what it read in a plain cache of keys and values."""
    prefixes, continuations = [before for before, _ in rows], [after for _, after in rows]
    reader: nn.Module = model
    if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
        reader = model.get_base_model()  # its layers hold the adapter
    with torch.no_grad():
        found = _after_shared_prefixes(reader, prefixes, continuations) if _reads_ahead(reader) else None
        return _of_whole_rows(reader, prefixes, continuations) if found is None else found


def _reads_ahead(model: nn.Module) -> bool:
    """Tells whether positions and a cache can be given; a soft prompt adds tokens of its own."""
    return not isinstance(model, PeftModel) and "position_ids" in inspect.signature(model.forward).parameters


def _of_whole_rows(model: PreTrainedModel, prefixes: Sequence[Tokens], continuations: Sequence[Tokens]) -> torch.Tensor:
    """Each row by itself; one pass for those that differ in their last token only, from which nothing is predicted."""
    inputs = [
        (prefix + continuation)[:-1] or prefix for prefix, continuation in zip(prefixes, continuations, strict=True)
    ]
    place = {each: i for i, each in enumerate(dict.fromkeys(inputs))}
    ids, mask = padded(list(place), model.device)
    log_probs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)  # (U, T, V)
    likelihoods = []
    for prefix, continuation, each in zip(prefixes, continuations, inputs, strict=True):
        before = torch.arange(len(prefix) - 1, len(prefix) + len(continuation) - 1, device=model.device)
        tokens = torch.tensor(continuation, dtype=torch.long, device=model.device)
        likelihoods.append(log_probs[place[each], before, tokens].sum())
    return torch.stack(likelihoods)


def _after_shared_prefixes(
    model: PreTrainedModel, prefixes: Sequence[Tokens], continuations: Sequence[Tokens]
) -> torch.Tensor | None:
    """Prefixes first, then what follows on copies of their cache; `None` where the model keeps another kind of cache."""
    place = {each: i for i, each in enumerate(dict.fromkeys(prefixes))}
    ids, mask = padded([each[::-1] for each in place], model.device)
    ids, mask = ids.flip(1), mask.flip(1)  # padded on the left: what follows comes right after
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    read = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **last)
    cache = getattr(read, "past_key_values", None)  # some classes take `use_cache` and return no cache
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    at = torch.tensor([place[each] for each in prefixes], device=model.device)
    first = torch.tensor([each[0] if each else 0 for each in continuations], device=model.device)
    likelihoods = read.logits[:, -1].float().log_softmax(-1)[at, first]  # (N,)
    likelihoods = likelihoods.masked_fill(torch.tensor([not each for each in continuations], device=model.device), 0.0)
    longer = [i for i, each in enumerate(continuations) if len(each) > 1]
    if not longer:
        return likelihoods
    chosen = at[longer]
    cache.batch_select_indices(chosen)
    ids, own = padded([continuations[i][:-1] for i in longer], model.device)  # (M, S)
    targets, _ = padded([continuations[i][1:] for i in longer], model.device)
    positions = mask.sum(1)[chosen, None] + torch.arange(ids.shape[1], device=model.device)
    followed = model(
        input_ids=ids,
        attention_mask=torch.cat([mask[chosen], own], 1),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    log_probs = followed.logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (M, S)
    return likelihoods.index_add(0, torch.tensor(longer, device=model.device), (log_probs * own).sum(1))


def padded(rows: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of shape `(N, T)`, padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in rows], device=device)
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in rows], device=device)
    return ids, mask
