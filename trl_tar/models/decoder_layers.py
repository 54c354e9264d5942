"""The layers of a decoder, and the attention and the feed-forward network in each."""

from collections.abc import Mapping

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel


# what transformers calls these children of a layer; a name that is not here gives an error, not another module
ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


def decoder_layers(model: PreTrainedModel | PeftModel) -> nn.ModuleList:
    """The layers, in order: the outermost list of as many modules as the configuration has layers.

    Raises `ValueError` for a model without one."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if not found:
        raise ValueError(
            f"{_name(model)} has no list of its {count} layers, which this defence reads. Use another one."
        )
    return found[0]


def attention_modules(model: PreTrainedModel | PeftModel) -> list[nn.Module]:
    """The attention of each layer; `ValueError` where a layer has none under a known name."""
    return _children(model, ATTENTION, "attention")


def feed_forward_modules(model: PreTrainedModel | PeftModel) -> list[nn.Module]:
    """The feed-forward network of each layer; `ValueError` where a layer has none under a known name."""
    return _children(model, FEED_FORWARD, "feed-forward network")


def _children(model: PreTrainedModel | PeftModel, names: tuple[str, ...], what: str) -> list[nn.Module]:
    found = []
    for index, layer in enumerate(decoder_layers(model)):
        children: Mapping[str, nn.Module] = dict(layer.named_children())
        part = next((children[name] for name in names if name in children), None)
        if part is None:
            raise ValueError(
                f"{_name(model)} has no {what} in layer {index} under one of the names {', '.join(names)}, and this defence "
                "reads each layer's. Use another one."
            )
        found.append(part)
    return found


def _name(model: PreTrainedModel | PeftModel) -> str:
    return type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
