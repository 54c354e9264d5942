"""Adapters: what their configuration may say, which is read before PEFT reads it, and their merge into the base."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file

from .json_files import as_object, fields_of


# names of fields that PEFT, or a library under it, takes for something to import
IMPORTS = re.compile("megatron|auto_map|import|librar|package|remote_code|base_model_class")
UNUSED = {
    "megatron_core": "megatron.core"
}  # PEFT writes it into every configuration of LoRA, and reads it with megatron_config
# kinds whose weights are W + Δ with a Δ that does not depend on W, so that a step of W is one of the merged weights
ADDED_TO_THE_WEIGHTS = {"LORA", "ADALORA", "LOHA", "LOKR", "VERA"}


def adapter_configuration(model: str) -> dict[str, Any] | None:
    """Reads the configuration of an adapter, without PEFT.

    Args:
        model (`str`):
            Folder or Hub id.

    Returns:
        `dict`: the fields of its `adapter_config.json`; `None` for a whole model.

    Raises:
        `ValueError`: for a configuration that names modules to import, one of an adapter that merges into no weights, and one
            without a base that is a whole model.
    """
    file = find_adapter_config_file(model)
    if file is None:
        return None
    fields = as_object(Path(file))
    fault = next(_faults(fields), None)
    if fault is not None:
        raise ValueError(f"The adapter {model!r} {fault}")
    return fields


def whole_model(model: str) -> str:
    """The folder or Hub id of a whole model: the one given, or for an adapter that of its base."""
    fields = adapter_configuration(model)
    return model if fields is None else fields["base_model_name_or_path"]


def _faults(fields: dict[str, Any]) -> Iterator[str]:
    for name, value in fields_of(fields):
        if IMPORTS.search(str(name)) and value not in (None, UNUSED.get(name)):
            yield (
                f"names a module to import ({name}), which is not done. Save it with task_type='CAUSAL_LM', or merge it into its "
                "base."
            )
    kind, task = fields.get("peft_type"), fields.get("task_type")
    if not isinstance(kind, str) or not _merges(kind):
        yield f"is no adapter that can be loaded (peft_type={kind!r} merges into no weights). Give LoRA, or another of weights."
    if task not in (None, "CAUSAL_LM"):
        yield f"has task_type={task!r}. Give the adapter of a causal language model."
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        yield "names no base. Write its folder or Hub id as base_model_name_or_path into adapter_config.json."
    elif not isinstance(fields.get("revision"), str | None):
        yield f"has revision={fields['revision']!r}. Name a branch or commit of its base, or leave it out."
    elif find_adapter_config_file(base, revision=fields.get("revision")) is not None:
        yield f"has the base {base!r}, which is an adapter too. Merge that one first."


def _merges(kind: str) -> bool:
    """Tells whether PEFT has layers of this kind that merge into weights: soft prompts have none, and mixtures no merge."""
    tuner = next((tuner for each, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if each == kind), None)
    layer = getattr(tuner, "tuner_layer_cls", None)
    return layer is not None and any(each.merge is not BaseTunerLayer.merge for each in _with_subclasses(layer))


def _with_subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _with_subclasses(derived)


def merged(model: PeftModel) -> PreTrainedModel:
    """Merges the active adapters into the weights, in place, and returns the model without them.

    Layers that share a weight, such as embeddings and a head that is tied to them, are other functions once an adapter is on
    one of them: they get a weight each."""
    for places in _shared_under_adapters(model):
        for module, name in places[1:]:
            shared = getattr(module, name)
            setattr(module, name, nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad))
    whole = model.merge_and_unload()
    embeddings, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    if head is None or head.weight is embeddings.weight or not whole.config.get_text_config().tie_word_embeddings:
        return whole
    if head.weight.equal(embeddings.weight):
        head.weight = embeddings.weight
        return whole
    for config in (whole.config, whole.config.get_text_config()):
        config.tie_word_embeddings = False
    whole.all_tied_weights_keys = whole.get_expanded_tied_weights_keys(all_submodels=False)
    return whole


def _shared_under_adapters(model: PeftModel) -> list[list[tuple[nn.Module, str]]]:
    """Each weight that several layers have, an adapted one among them: the layers, with the weight's name there."""
    adapted: set[nn.Module] = set()
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.get_base_model().modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            adapted.add(_own_layer(module))
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(parameter, []).append((module, name))
    return [each for each in holders.values() if len(each) > 1 and adapted & {module for module, _ in each}]


def _own_layer(module: Any) -> Any:
    """The model's own layer under everything that PEFT has put around it."""
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        module = module.base_layer if isinstance(module, BaseTunerLayer) else module.original_module
    return module


def not_added_to_the_weights(model: PeftModel) -> str | None:
    """Why a step of the base's weights is not the same step of the merged ones; `None` where it is."""
    for name in model.active_adapters:
        config = model.peft_config[name]
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in ADDED_TO_THE_WEIGHTS:
            return f"{kind} is not added to the weights"
        if getattr(config, "use_dora", False):
            return "DoRA scales rows of the weights"
        if getattr(config, "trainable_token_indices", None):
            return "trainable_token_indices puts rows in the place of the embeddings'"
    if _shared_under_adapters(model):
        return "it adapts layers that share their weights with others, such as embeddings that are tied to the head"
    return None
