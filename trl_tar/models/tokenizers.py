"""A model's tokenizer: where it comes from, and checks that it fits the model."""

import copy

from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .loading import whole_model


def tokenizer_of(
    model: str | PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, pad_token: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a trainer: a copy of `tokenizer`, as trainers change theirs, or the model's own one.

    Its pad token is that of the configuration, if it names one."""
    tokenizer = own_tokenizer(model) if tokenizer is None else copy.deepcopy(tokenizer)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def own_tokenizer(model: str | PreTrainedModel | PeftModel) -> PreTrainedTokenizerBase:
    """Loads the tokenizer in the model's own folder or repository; `ValueError` for a model that was built in memory."""
    name = model if isinstance(model, str) else model.config._name_or_path
    if not name:
        raise ValueError(
            "`processing_class` is missing, and the model was not loaded from a folder that could have a tokenizer. Give "
            "processing_class=tokenizer."
        )
    return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: str | PreTrainedModel | PeftModel) -> None:
    """Raises `ValueError` for a tokenizer without pad token, or with more tokens than the model embeds."""
    if tokenizer.pad_token is None:
        raise ValueError(
            "`processing_class` has no pad token. Set tokenizer.pad_token (in a recipe, `pad_token`) to a token of its "
            "vocabulary that is not the end of text, so that the model still learns to stop."
        )
    if isinstance(model, str):
        configuration = AutoConfig.from_pretrained(whole_model(model), trust_remote_code=False)
        rows = configuration.get_text_config().vocab_size
    else:
        rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"`processing_class` has {len(tokenizer)} tokens and the model embeds {rows}. Give the model's own tokenizer, "
            "or call model.resize_token_embeddings."
        )


def context_of(config: PretrainedConfig) -> int | None:
    """The number of tokens that a model can read; `None` for an architecture without a limit."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if context is None or context < 1 else context  # XLNet has -1


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ValueError` for a tokenizer without a chat template."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template, which requests in chat format need. Set tokenizer.chat_template, or use "
            "an instruction-tuned model."
        )
