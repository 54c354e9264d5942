"""What an architecture makes of tokens, found out in one small pass: whether it reads as a causal language model does, and what
it returns."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel

from .forward_passes import in_eval_mode


# errors that models raise for inputs which they cannot read
UNREADABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
ROWS, LENGTH = 3, 5  # of the pass; two numbers that are not alike, so that a shape says which is which


@dataclass(frozen=True)
class Outputs:
    """What a model returns for rows of tokens.

    Args:
        model (`str`):
            Its class.
        vocabulary (`int`):
            V, the width of its logits `(B, T, V)`.
        hidden_states (`tuple[tuple[str | int, ...], ...]`):
            Shape of each hidden state, `("B", "T", 64)` for one of width 64; none where they were not asked for.
    """

    model: str
    vocabulary: int
    hidden_states: tuple[tuple[str | int, ...], ...] = ()

    def check_hidden_states(self, reader: str, remedy: str, one_width: bool = False) -> None:
        """Raises `ValueError`, in the name of who reads them, for hidden states that are not a vector a token.

        `one_width` says that all must be as wide."""
        odd = [
            shape for shape in self.hidden_states if shape[:-1] != ("B", "T")
        ]  # such as several streams, (4, B, T, 64)
        if odd or not self.hidden_states:
            found = f"has hidden states of shape {_in_words(odd[0])}" if odd else "returns no hidden states"
            raise ValueError(f"{self.model} {found}, and {reader} reads one vector a token, (B, T, width). {remedy}")
        shapes = list(map(_in_words, dict.fromkeys(self.hidden_states)))
        if one_width and len(shapes) > 1:
            raise ValueError(
                f"{self.model} has hidden states of shapes {' and '.join(shapes)}, and {reader} reads states of one width. "
                f"{remedy}"
            )


def outputs_of(model: PreTrainedModel | PeftModel, hidden_states: bool = False) -> Outputs:
    """Reads a few tokens, and checks that what a model says after a token depends on that token and those before it alone.

    Losses, likelihoods and attacks take that for granted: rows are padded on the right, and each token is predicted from those
    before.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model.
        hidden_states (`bool`, *optional*, defaults to `False`):
            Ask for hidden states too.

    Returns:
        [`Outputs`]: what the model returns.

    Raises:
        `ValueError`: for a model that cannot read token ids alone, returns other logits than a row a token, reads the tokens
            that it is to predict, or takes padding for text.
    """
    name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    arguments = {"output_hidden_states": True} if hidden_states else {}
    ids, mask = sample_rows(model)
    try:
        with torch.no_grad(), in_eval_mode(model):
            outputs = model(input_ids=ids, attention_mask=mask, use_cache=False, **arguments)
        logits, states = outputs.logits, (outputs.hidden_states or ()) if hidden_states else ()
    except UNREADABLE as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{name} cannot read token ids with an attention mask alone ({said[0].rstrip('.')}). Use a causal language model of "
            "text."
        ) from error
    if logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise ValueError(
            f"{name} returns logits of shape {_in_words(_shape(logits))}, and a causal language model those of shape (B, T, V). Use one of "
            "text."
        )
    _check_causal(name, logits, next(model.parameters()).dtype)
    return Outputs(name, logits.shape[-1], tuple(map(_shape, states)))


def check_saved(model: PreTrainedModel, loaded: PreTrainedModel) -> None:
    """Checks that a model in memory is the one that its files hold, which alone is measured and attacked.

    Files hold neither hooks nor a forward method of one's own, and of some classes not all that decides an answer.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model in memory, in any precision.
        loaded ([`~transformers.PreTrainedModel`]):
            What was loaded from where it was saved.

    Raises:
        `ValueError`: where the two give other logits than each other. Half of the digits of the less precise weights may differ.
    """
    ids, mask = sample_rows(model)
    logits = []
    for each in (model, loaded):
        with torch.no_grad(), in_eval_mode(each):
            read = each(input_ids=ids.to(each.device), attention_mask=mask.to(each.device), use_cache=False)
            logits.append(read.logits)
    if logits[0].is_meta:  # see `_check_causal`
        return
    said, held = (each.double().cpu()[mask.bool().cpu()] for each in logits)
    dtypes = {p.dtype for each in (model, loaded) for p in each.parameters() if p.is_floating_point()} | {
        logits[0].dtype
    }
    allowed = float(held.nan_to_num().std()) * max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5
    if not torch.allclose(said, held, rtol=0, atol=allowed, equal_nan=True):
        raise ValueError(
            f"The {type(model).__name__} in memory gives other logits than what its files hold, which would be measured and "
            "attacked in its place. Remove hooks and a forward method of your own, or give the folder of a model that was saved "
            "and loaded again."
        )


def reads_left_padding(model: PreTrainedModel | PeftModel) -> bool:
    """Tells whether what a text is followed by changes with padding in front of it.

    It does for models with a state that passes through padding too, such as RWKV, and for those that count positions from the first
    token whatever the mask says, such as the decoders of Marian and Pegasus: their texts are to be continued without padding."""
    ids, _ = sample_rows(model)
    alone = ids[:1]
    padded = torch.cat([ids[2:, -1:], alone], 1)
    mask = torch.ones_like(padded)
    mask[:, 0] = 0
    try:
        with torch.no_grad(), in_eval_mode(model):
            expected, found = (_last_logits(model, *each) for each in ((alone, torch.ones_like(alone)), (padded, mask)))
    except (IndexError, RuntimeError, TypeError, ValueError):  # no room for another token, for one
        return True
    # half of the digits of the weights' precision may differ, as in `_check_causal`
    allowed = float(expected.std()) * torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    return not torch.allclose(found, expected, rtol=0, atol=allowed)


def _last_logits(model: PreTrainedModel | PeftModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits after the last token, shape `(B, V)`, with the positions that `generate` gives to models which take them."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    takes = "position_ids" in inspect.signature(inner.forward).parameters
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if takes else {}
    return model(input_ids=ids, attention_mask=mask, use_cache=False, **positions).logits[:, -1].double()


def sample_rows(model: PreTrainedModel | PeftModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of shape `(ROWS, LENGTH)`: a text, one with another last token, and one that ends in padding."""
    # what stands for padding, an end or an image may be read in another way
    special = {value for name, value in _fields(model.config) if "token" in str(name) and type(value) is int}
    rows = len(model.get_input_embeddings().weight)  # which a wrapper of PEFT has too
    before, last, other = [i for i in range(rows) if i not in special][-3:]
    pad = getattr(model.config, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and 0 <= pad < rows else 0
    ids = torch.tensor([[before] * (LENGTH - 1) + [end] for end in (last, other, pad)], device=model.device)
    mask = torch.ones_like(ids)
    mask[2, -1] = 0
    return ids, mask


def _fields(config: PretrainedConfig) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration and of those that it is made of."""
    fields = config.to_dict()
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        yield from part.items()


def _check_causal(name: str, logits: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises `ValueError` where logits of [`sample_rows`] before the last token change with it.

    Half of the digits of the weights' precision may differ, as experts multiply other rows together."""
    if logits.is_meta:  # a device that waits for the weights of another: nothing can be seen, and that one looks
        return
    text, other, padded = logits.double()[:, :-1]
    allowed = (logits[0, -1].double() - logits[1, -1].double()).abs().max() * torch.finfo(dtype).eps ** 0.5
    for row, reads in ((other, "the tokens that it is to predict"), (padded, "padding as text")):
        if (text - row).abs().max() > allowed:
            raise ValueError(
                f"{name} reads {reads}, so that neither its losses nor its likelihoods are those of a causal language model. "
                "Use another architecture; an encoder may become one by is_decoder=True in its configuration."
            )


def _shape(tensor: torch.Tensor) -> tuple[str | int, ...]:
    """A shape, with B for the rows and T for the tokens of the pass."""
    *sizes, width = tensor.shape
    return *("B" if size == ROWS else "T" if size == LENGTH else size for size in sizes), width


def _in_words(shape: tuple[str | int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
