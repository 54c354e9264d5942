"""Loading of models and adapters from their files, as each attack does."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModelForCausalLM, load_peft_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from ..fingerprints import weights_sha256
from .adapters import adapter_configuration, merged
from .errors import NONSENSE, reason
from .tokenizers import tokens_beyond


ADAPTER = "default"  # PEFT's name of the adapter that it loads
# not in an adapter's file by design: PEFT draws or shares them, as its own warning of missing weights knows
NOT_SAVED = "vblora_vector_bank"
# masks and positions, no weights, which older versions wrote into files; classes declare most of them, GPT-Neo's does not
OLD_BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|(causal_mask|inv_freq|position_ids)$")
# where tokens were added, PEFT saves embeddings that are trained as a whole under a second name
SAVED_TWICE = (".modules_to_save.", f".modules_to_save.{ADAPTER}.")


def from_files(kind: Any, model: str, **arguments: Any) -> Any:
    """Loads a whole model whose files hold each of its weights, and no others.

    Args:
        kind (`type`):
            Class with `from_pretrained`, such as [`~transformers.AutoModelForCausalLM`].
        model (`str`):
            Folder or Hub id.
        **arguments:
            Further arguments of `from_pretrained`.

    Returns:
        [`~transformers.PreTrainedModel`]: in evaluation mode.

    Raises:
        `ValueError`: for an adapter, for damaged files, and for weights that are missing, too many or of other shapes than the
            configuration says; transformers would draw the missing ones at random.
    """
    if adapter_configuration(model) is not None:  # which transformers would hand to PEFT
        raise ValueError(f"{model!r} is an adapter, where a whole model is read. Merge it into its base first.")
    with _silent(), _one_sentence(model):
        loaded, found = kind.from_pretrained(model, output_loading_info=True, ignore_mismatched_sizes=True, **arguments)
    shapes = {name: (tuple(held), tuple(wanted)) for name, held, wanted in found["mismatched_keys"]}
    unexpected = [name for name in found["unexpected_keys"] if not OLD_BUFFERS.search(name)]
    _check_whole(f"The model {model!r}", found["missing_keys"], unexpected, shapes)
    return loaded.eval()


def _check_whole(
    owner: str,
    missing: Iterable[str],
    unexpected: Iterable[str],
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Raises `ValueError`, with the first name of each kind, for files that do not hold exactly the weights of the model."""
    faults = [
        f"{what} {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what, names in (("lacks", sorted(missing)), ("holds for nothing", sorted(unexpected)))
        if names
    ]
    if shapes:
        name, (held, wanted) = min(shapes.items())
        faults.append(f"holds {name!r} with the shape {held} where {wanted} is wanted")
    if faults:
        raise ValueError(
            f"{owner} cannot be loaded (it {', and it '.join(faults)}). Save it again with save_pretrained, without a wrapper "
            "around it, next to its own configuration."
        )


@contextlib.contextmanager
def _one_sentence(model: str) -> Iterator[None]:
    """Turns what the libraries say of files that they cannot read into one sentence."""
    try:
        yield
    except NONSENSE as error:
        raise ValueError(
            f"The model {model!r} cannot be loaded ({reason(error)}). Check that its files are whole, and that there is memory."
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Shows no bars, as the red team has one of its own for all jobs, and no table of the names that the error is about."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def base_weights(model: str, safetensors_only: bool = False) -> dict[str, str] | None:
    """Name and hash of the base into which [`load`] merges an adapter; `None` for a whole model."""
    fields = adapter_configuration(model)
    if fields is None:
        return None
    name = fields["base_model_name_or_path"]
    base = from_files(AutoModelForCausalLM, name, revision=fields.get("revision"), **_arguments(safetensors_only))
    return {"id": shown_name(name), "weights_sha256": weights_sha256(base)}


def _arguments(safetensors_only: bool) -> dict[str, Any]:
    """Arguments of `from_pretrained`: by default it reads safetensors if there are any, or else what `torch.save` wrote."""
    form = {"use_safetensors": True} if safetensors_only else {}
    return {"dtype": torch.float32, "trust_remote_code": False, **form}


def shown_name(name: str) -> str:
    """The name of a model in a report: a Hub id as it is, a folder without the folders it is in.

    A model that was built in memory has an empty name."""
    is_folder = bool(name) and (Path(name).is_absolute() or Path(name).is_dir())
    return Path(os.path.abspath(name)).name if is_folder else name


def load(
    model: str, quantization: str | None = None, *, safetensors_only: bool = False, **arguments: Any
) -> PreTrainedModel:
    """Loads a model in evaluation mode; an adapter is merged into its base.

    Args:
        model (`str`):
            Folder or Hub id of a model or an adapter.
        quantization (`str`, *optional*):
            `"nf4"` for weights in 4 bits, which an adapter cannot be merged into. By default they are in float32.
        safetensors_only (`bool`, *optional*, defaults to `False`):
            Read neither model nor base from a pickle.
        **arguments:
            Further arguments of `from_pretrained`, of an adapter's base.

    Raises:
        `ValueError`: for damaged files, for weights that do not fit the configuration, and for an adapter that names modules
            to import or merges into no weights.
    """
    arguments = {**_arguments(safetensors_only), **arguments}
    if quantization == "nf4":
        from bitsandbytes.nn import Linear4bit
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    adapter = adapter_configuration(model)
    if adapter is None:
        loaded = from_files(AutoModelForCausalLM, model, **arguments)
    else:
        assert quantization is None  # refused by `check_red_team`
        loaded = _merged_adapter(model, adapter, arguments)
    for module in loaded.modules() if quantization == "nf4" else ():
        # On a CPU with AVX-512 a layer of bitsandbytes repacks its weights when it is first evaluated. It then gives other
        # numbers than in training and on other CPUs, and fails for widths that are no multiple of 32.
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    without_router_logits(loaded)
    return loaded


def _merged_adapter(model: str, adapter: Mapping[str, Any], arguments: Mapping[str, Any]) -> PreTrainedModel:
    """An adapter, merged into its base, which has an embedding for each token of the adapter's own tokenizer."""
    name = adapter["base_model_name_or_path"]
    base = from_files(AutoModelForCausalLM, name, revision=adapter.get("revision"), **arguments)
    with _silent(), _one_sentence(model):
        added = _add_rows(base, model)
        wrapped = PeftModelForCausalLM.from_pretrained(base, model)
        found = wrapped.load_adapter(model, ADAPTER)  # once more, for the names
    missing = [name for name in found.missing_keys if NOT_SAVED not in name]
    known = wrapped.state_dict()
    unexpected = [name for name in found.unexpected_keys if name.replace(*SAVED_TWICE) not in known]
    _check_whole(f"The adapter {model!r}", missing, unexpected, {})
    with _silent(), _one_sentence(model):
        loaded = merged(wrapped)
    if added and any(bool(weight.isnan().any()) for weight in _embeddings(loaded)):
        raise ValueError(
            f"The adapter {model!r} has {added} tokens more than its base, and no embeddings of theirs. Save it with "
            "modules_to_save=['embed_tokens', 'lm_head'], or remove the tokens from its tokenizer."
        )
    return loaded.requires_grad_(True).eval()  # peft freezes the base


def _add_rows(base: PreTrainedModel, adapter: str) -> int:
    """Adds rows of NaN, which the adapter has to replace, to embeddings and head; returns how many."""
    rows = len(base.get_input_embeddings().weight)
    place = next(name for name, module in base.named_modules() if module is base.get_input_embeddings())
    saved = load_peft_weights(adapter, device="cpu").get(f"base_model.model.{place}.weight")
    added: int = max(tokens_beyond(rows, adapter), 0 if saved is None else len(saved) - rows, 0)
    if added:
        base.resize_token_embeddings(rows + added, mean_resizing=False)
        with torch.no_grad():
            for weight in _embeddings(base):
                weight[rows:] = torch.nan
    return added


def _embeddings(model: PreTrainedModel) -> list[nn.Parameter]:
    """The matrices of embeddings and head."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return [layer.weight for layer in layers if layer is not None]


def without_router_logits(model: PreTrainedModel) -> None:
    """Leaves out the router logits of a mixture of experts: only a loss of transformers' own reads them, and where a cache holds
    the beginning of a row its mask does not fit them."""
    config = model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
