"""A model's tokenizer: where it comes from, and checks that it fits the model."""

import copy

from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import has_file

from .adapters import adapter_configuration, whole_model
from .errors import NONSENSE, reason


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # one of which every tokenizer is saved with


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
    """Loads the tokenizer in the model's own folder or repository, or for an adapter without one that of its base.

    Raises `ValueError` for a model that was built in memory, and where there is no tokenizer that can be loaded."""
    name = model if isinstance(model, str) else model.config._name_or_path
    if not name:
        raise ValueError(
            "`processing_class` is missing, and the model was not loaded from a folder that could have a tokenizer. Give "
            "processing_class=tokenizer."
        )
    return _loaded(whole_model(name) if not _brings_a_tokenizer(name) else name)


def _brings_a_tokenizer(model: str) -> bool:
    """Tells whether the tokenizer is the model's own: of an adapter it may be the base's."""
    return adapter_configuration(model) is None or any(has_file(model, name) for name in TOKENIZER_FILES)


def _loaded(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        # of a file that it cannot read, the library of fast tokenizers says so by an `Exception` that is of no further class
        if type(error) is not Exception and not isinstance(error, NONSENSE):
            raise
        raise ValueError(
            f"The tokenizer of {name!r} cannot be loaded ({reason(error)}). Save one there with tokenizer.save_pretrained, or "
            "give processing_class=tokenizer."
        ) from error


def tokens_beyond(rows: int, adapter: str) -> int:
    """How many tokens the tokenizer that an adapter brings has beyond so many rows of embeddings; 0 where it brings none."""
    return max(len(_loaded(adapter)) - rows, 0) if _brings_a_tokenizer(adapter) else 0


def with_pad_token(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> None:
    """Gives a tokenizer without pad token that of another, where its vocabulary has it: padding decides no answer."""
    if tokenizer.pad_token is None and other.pad_token in tokenizer.get_vocab():
        tokenizer.pad_token = other.pad_token


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: str | PreTrainedModel | PeftModel) -> None:
    """Raises `ValueError` for a tokenizer without end of text or pad token, or with more tokens than the model embeds."""
    if tokenizer.eos_token is None:
        raise ValueError(
            "`processing_class` has no token for the end of text, which TRL puts behind every plain text. Set "
            "tokenizer.eos_token to the token of its vocabulary that ends a text or a turn."
        )
    if tokenizer.pad_token is None:
        raise ValueError(
            "`processing_class` has no pad token. Set tokenizer.pad_token (in a recipe, `pad_token`) to a token of its "
            "vocabulary that is not the end of text, so that the model still learns to stop."
        )
    if isinstance(model, str):
        configuration = AutoConfig.from_pretrained(whole_model(model), trust_remote_code=False)
        rows = configuration.get_text_config().vocab_size
        if adapter_configuration(model) is not None:  # which is loaded with embeddings for its own tokens
            rows += tokens_beyond(rows, model)
    else:
        rows = len(model.get_input_embeddings().weight)  # an adapter around them has no num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"`processing_class` has {len(tokenizer)} tokens and the model embeds {rows}. Give the model's own tokenizer, "
            "or call model.resize_token_embeddings."
        )
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if largest >= rows:
        raise ValueError(
            f"`processing_class` has {token!r} with the id {largest}, and the model embeds {rows}. Give the model's own tokenizer."
        )


# architectures that count positions from pad_token_id + 1
POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


def context_of(config: PretrainedConfig) -> int | None:
    """The number of tokens that a model can read; `None` for an architecture without a limit."""
    config = config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:  # XLNet has -1
        return None
    return context - config.pad_token_id - 1 if config.model_type in POSITIONS_AFTER_PADDING else context


def check_context(argument: str, longest: int, max_length: int | None, context: int | None) -> None:
    """Raises `ValueError` for a data set whose longest row, cut to `max_length` tokens, is longer than the model's context."""
    longest = longest if max_length is None else min(longest, max_length)
    if context is not None and longest > context:
        raise ValueError(
            f"`{argument}` has a row of {longest} tokens, max_length is {max_length}, and the model's context {context}. Lower "
            "max_length."
        )


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ValueError` for a tokenizer without a chat template."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template, which requests in chat format need. Set tokenizer.chat_template, or use "
            "an instruction-tuned model."
        )
