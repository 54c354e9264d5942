"""Checks and batches of the data sets beside D_retain: D_TR and those of the adversaries."""

import copy
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized

import torch
from datasets import Dataset, Json, Value
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file
from trl import DPOTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from .adversary import Adversary
from .adversary_checks import check_installed
from .losses import IGNORED
from .row_checks import check_common_prompts, check_messages
from .tar_config import TARConfig


LANGUAGE_MODELING_COLUMNS = ({"messages"}, {"conversations"}, {"prompt", "completion"}, {"input_ids"})
CHAT = {"messages", "conversations"}
ANSWERED = {"prompt", "completion", "chosen", "rejected"}  # columns of text, or of messages
PREFERENCE_COLUMNS = ({"chosen", "rejected"}, {"prompt_ids", "chosen_ids", "rejected_ids"})


def check_dataset(argument: str, dataset: Dataset, preference: bool, text_field: str = "text") -> None:
    """Raises `ValueError` for a data set that is missing, empty or of another type than the objective needs.

    Args:
        argument (`str`):
            Name of the argument, for the message.
        dataset ([`~datasets.Dataset`]):
            Data set in one of TRL's types, raw or tokenised.
        preference (`bool`):
            Whether pairs are needed (DPO).
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of a plain-text data set.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`{argument}` is {type(dataset).__name__!r}. Give a `datasets.Dataset`.")
    if len(dataset) == 0:
        raise ValueError(f"`{argument}` has 0 rows. Give a data set with at least one batch.")
    allowed = PREFERENCE_COLUMNS if preference else ({text_field}, *LANGUAGE_MODELING_COLUMNS)
    columns = set(dataset.column_names)
    if not any(wanted <= columns for wanted in allowed):
        wanted = " or ".join("+".join(sorted(names)) for names in allowed)
        raise ValueError(f"`{argument}` has columns {sorted(columns)}. Rename them: TRL reads {wanted}.")
    beside = sorted(columns & {text_field, *CHAT})
    if not preference and "prompt" in columns and beside and "input_ids" not in columns:
        raise ValueError(
            f"`{argument}` has 'prompt' beside {beside}, which TRL would mix up. Leave the columns of one type: prompt and "
            "completion, or one of the others."
        )
    read = _read(columns, preference, text_field)
    for name in sorted(read):
        empty = dataset.select_columns(name).with_format("arrow")[:].column(0).null_count
        if empty:
            raise ValueError(f"`{argument}` has {empty} rows without a value in its column {name!r}. Leave them out.")
    raw = sorted(read & {text_field, *ANSWERED, *CHAT})
    for name in raw:
        type_ = dataset.features[name]
        if isinstance(type_, Value) and (name in CHAT or "string" not in type_.dtype):
            wanted = "messages" if name in CHAT else "text"
            raise ValueError(
                f"`{argument}` has rows of type {type_.dtype!r} in its column {name!r}. Give {wanted} in every row."
            )
    # TRL goes by any one of the columns that it knows, whichever it reads
    known = sorted({*raw, *(columns & {*ANSWERED, "messages"})}) if raw else []
    kinds = set().union(*(_kinds(dataset, name) for name in known))
    if len(kinds) > 1:
        raise ValueError(
            f"`{argument}` has plain text and chat messages in its columns {known}. Give one of the two in all rows and "
            "columns."
        )
    if "messages" in kinds:
        for name in raw:
            check_messages(argument, name, dataset)
        if preference and "prompt" not in columns:
            check_common_prompts(argument, dataset)


def _read(columns: set[str], preference: bool, text_field: str) -> set[str]:
    """Of columns of several types, those that TRL reads."""
    if preference:
        pairs, tokenised = {"prompt", "chosen", "rejected"}, {"prompt_ids", "chosen_ids", "rejected_ids"}
        return tokenised if tokenised <= columns else pairs & columns
    order = ({"input_ids"}, {"prompt", "completion"}, {"conversations"}, {"messages"}, {text_field})
    return next(wanted for wanted in order if wanted <= columns)


def _kinds(dataset: Dataset, column: str) -> set[str]:
    """Of what a column holds: `"text"`, `"messages"`, or both, which `datasets` reads from JSON as a type of its own."""
    if isinstance(dataset.features[column], Json):
        return {"text" if isinstance(value, str) else "messages" for value in dataset[column]}
    return {"text" if isinstance(dataset.features[column], Value) else "messages"}


def check_prompts(
    argument: str, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, wanted: int = 1
) -> None:
    """Raises `ValueError` for messages that the tokenizer cannot write, or where too few prompts leave room for an answer.

    Args:
        argument (`str`):
            Name of the argument, for the message.
        dataset ([`~datasets.Dataset`]):
            As [`check_dataset`] accepts it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Of the model.
        max_length (`int`):
            Tokens of a row. Some longer prompts are no error: TRL leaves such rows out.
        wanted (`int`, *optional*, defaults to `1`):
            Rows that are taken at once.
    """
    chat = any(
        not isinstance(each, Value) for name, each in dataset.features.items() if name in {"messages", *ANSWERED}
    )
    if chat and tokenizer.chat_template is None:
        raise ValueError(
            f"`{argument}` holds chat messages, and the tokenizer has no chat template. Set tokenizer.chat_template, or "
            "use an instruction-tuned model."
        )
    if "prompt" not in dataset.column_names:
        return
    fitting = 0
    for prompt in dataset["prompt"]:
        text = prompt if isinstance(prompt, str) else tokenizer.apply_chat_template(prompt, tokenize=False)
        fitting += len(tokenizer(text)["input_ids"]) < max_length
        if fitting == wanted:
            return
    raise ValueError(
        f"`{argument}` has {len(dataset)} rows, and {fitting} of their prompts leave room for an answer within max_length="
        f"{max_length}, where {wanted} rows are taken at once. Raise max_length, or shorten the prompts."
    )


def check_train_and_eval_datasets(
    train: Dataset, evaluation: Dataset | Mapping[str, Dataset] | None, text_field: str, formatted: bool
) -> None:
    """Raises `ValueError` as [`check_dataset`]; with a `formatting_func` columns may have any name."""
    parts = evaluation if isinstance(evaluation, Mapping) else {} if evaluation is None else {"": evaluation}
    names = {"train_dataset": train, **{f"eval_dataset[{n!r}]" if n else "eval_dataset": d for n, d in parts.items()}}
    for name, dataset in names.items():
        if not formatted or not isinstance(dataset, Dataset) or len(dataset) == 0:
            check_dataset(name, dataset, False, text_field)


def check_retain_rows(trainer: SFTTrainer) -> None:
    """Raises `ValueError` for a D_retain without a single batch once tokenised: training would end where it began."""
    args, rows = trainer.args, len(trainer.train_dataset)
    wanted = args.per_device_train_batch_size * trainer.accelerator.num_processes if args.dataloader_drop_last else 1
    if rows < wanted:
        raise ValueError(
            f"`train_dataset` has {rows} rows with a token to predict, and a batch takes {wanted}. Give more rows, raise "
            "max_length or lower per_device_train_batch_size."
        )


def tokenizer_of(
    model: str | PreTrainedModel | PeftModel, given: PreTrainedTokenizerBase | None, pad_token: str | None
) -> PreTrainedTokenizerBase:
    """A copy of what a trainer was given, which it changes, or the model's own tokenizer; with the configuration's pad token."""
    tokenizer = own_tokenizer(model) if given is None else copy.deepcopy(given)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def own_tokenizer(model: str | PreTrainedModel | PeftModel) -> PreTrainedTokenizerBase:
    """The tokenizer in the model's own folder or repository."""
    name = model if isinstance(model, str) else model.config._name_or_path
    if not name:
        raise ValueError(
            "`processing_class` is missing, and the model was not loaded from a folder that could have a tokenizer. Give "
            "processing_class=tokenizer."
        )
    return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def whole_model(model: str) -> str:
    """The folder or Hub id itself, or of an adapter that of its base."""
    if find_adapter_config_file(model) is None:
        return model
    return PeftConfig.from_pretrained(model).base_model_name_or_path


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


def check_reference(reference: PreTrainedModel, model: PreTrainedModel | PeftModel) -> None:
    """Raises `ValueError` for a `ref_model` whose hidden states are not those of the same tokens, layers and width."""
    if not isinstance(reference, PreTrainedModel | PeftModel):
        raise ValueError(f"`ref_model` is {type(reference).__name__!r}. Give a PreTrainedModel, or None for θ_G0.")

    def shape(model: PreTrainedModel | PeftModel) -> dict[str, int]:
        config = model.config.get_text_config()
        return {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "embedded tokens": model.get_input_embeddings().num_embeddings,
        }

    expected = shape(model)
    for name, value in shape(reference).items():
        if value != expected[name]:
            raise ValueError(
                f"`ref_model` has {value} {name} and the model {expected[name]}, so their hidden states cannot be "
                "compared. Give a reference of the same architecture and tokenizer."
            )


# fields of Adversary
RED_TEAM_ONLY = ("quantization", "use_dora", "num_virtual_tokens", "edit", "prompt_template", "after")


def checked_adversaries(
    adversaries: Iterable[Adversary], datasets: Mapping[str, Dataset], args: TARConfig
) -> list[Adversary]:
    """Raises `ValueError` for adversaries that cannot be simulated, or whose data sets are missing."""
    if not isinstance(adversaries, Iterable):
        raise ValueError(f"`adversaries` is {type(adversaries).__name__!r}. Give a list of Adversary.")
    adversaries = list(adversaries)
    for i, adversary in enumerate(adversaries):
        if not isinstance(adversary, Adversary):
            raise ValueError(
                f"`adversaries[{i}]` is {type(adversary).__name__!r}. Give an Adversary: Adversary(**fields) for a dict."
            )
    if not isinstance(datasets, Mapping):
        raise ValueError(
            f"`adversary_datasets` is {type(datasets).__name__!r}. Give a dict of name → `datasets.Dataset`."
        )
    if not adversaries:
        raise ValueError("`adversaries` is empty. Give at least one Adversary (num_steps=0 for none simulated).")
    names = [a.name for a in adversaries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"`adversaries` has two named {twice!r}. Give each its own name.")
    for adversary in adversaries:
        check_installed(adversary)
        for name in RED_TEAM_ONLY:
            if getattr(adversary, name):
                raise ValueError(
                    f"Adversary {adversary.name!r} has {name}={getattr(adversary, name)!r}, which cannot be simulated in "
                    "training. Drop it, or pass the adversary to red_team only."
                )
        if adversary.objective == "grpo":
            raise ValueError(
                f"Adversary {adversary.name!r} has objective='grpo', which cannot be simulated in training. Use 'sft' or "
                "'dpo', or pass the adversary to red_team only."
            )
        if 0 < adversary.num_steps < args.tamper_resistance_interval:
            raise ValueError(
                f"Adversary {adversary.name!r} has num_steps={adversary.num_steps}, below tamper_resistance_interval="
                f"{args.tamper_resistance_interval}: it would never be judged. Raise the one or lower the other."
            )
        for name in adversary.datasets:
            if name not in datasets:
                raise ValueError(
                    f"Adversary {adversary.name!r} reads {name!r}, and `adversary_datasets` has {sorted(datasets)}. Add "
                    "the data set under that name."
                )
            check_dataset(
                f"adversary_datasets[{name!r}]", datasets[name], adversary.objective == "dpo", args.dataset_text_field
            )
            if any(name in other.datasets and other.objective != adversary.objective for other in adversaries):
                raise ValueError(
                    f"`adversary_datasets` has {name!r}, which adversaries with objective='sft' and 'dpo' both read. Give "
                    "it to one of them under a second name."
                )
    return adversaries


def check_adversary_batches(adversaries: Sequence[Adversary], rows: Mapping[str, Sized]) -> None:
    """Raises `ValueError` where a data set has fewer rows, best counted once tokenised, than a batch takes."""
    for adversary in adversaries:
        counts = adversary.rows_per_batch()
        if adversary.first_dataset is not None:
            counts = {**counts, adversary.first_dataset: adversary.batch_size}
        for name, count in counts.items():
            size = len(rows[name])
            if size < count:
                raise ValueError(
                    f"Adversary {adversary.name!r} takes {count} rows of {name!r} in each batch, and the data set has "
                    f"{size}. Lower its batch_size or give more rows."
                )


def check_tamper_resistance_rows(rows: Sized, args: TARConfig) -> None:
    """Raises `ValueError` for a D_TR of less than one batch once tokenised, which drops rows without a label."""
    if len(rows) < args.tamper_resistance_batch_size:
        raise ValueError(
            f"`tamper_resistance_dataset` has {len(rows)} rows, fewer than tamper_resistance_batch_size="
            f"{args.tamper_resistance_batch_size}. Lower the batch size or give more rows."
        )


def check_disjoint(
    retain: Dataset, tamper_resistance: Dataset, adversaries: Iterable[Adversary], datasets: Mapping[str, Dataset]
) -> None:
    """Raises `ValueError` where a measurement would be on entities that it must not share.

    D_TR shares no entity with any other set. An adversary's set shares none with D_retain, unless it rehearses D_retain:
    all of its entities are there, and adversaries read it only in a mixture or as `first_dataset`, never alone as
    `dataset`. The sets of adversaries are not compared with each other. Only sets with an `entity` column are compared.
    """
    names = {name: f"adversary_datasets[{name!r}]" for a in adversaries for name in a.datasets}
    final = {a.dataset for a in adversaries}
    entities_retain, entities_tr = _entities(retain), _entities(tamper_resistance)
    _refuse_overlap("tamper_resistance_dataset", "train_dataset", entities_tr & entities_retain)
    for name, label in names.items():
        entities = _entities(datasets[name])
        _refuse_overlap("tamper_resistance_dataset", label, entities_tr & entities)
        if name in final or not entities <= entities_retain:
            _refuse_overlap("train_dataset", label, entities_retain & entities)


def _entities(data: Dataset) -> set[str]:
    return set(data["entity"]) if "entity" in data.column_names else set()


def refuse_shared_entities(first: str, first_data: Dataset, second: str, second_data: Dataset) -> None:
    """Raises `ValueError` where two data sets with an `entity` column share one."""
    _refuse_overlap(first, second, _entities(first_data) & _entities(second_data))


def _refuse_overlap(first: str, second: str, shared: set[str]) -> None:
    if shared:
        raise ValueError(
            f"`{first}` and `{second}` share {len(shared)} entities, for example {min(shared)!r}. Remove them from one "
            "of the two: a measurement on shared entities shows memory, not resistance."
        )


def tokenised_rows(trainer: SFTTrainer, dataset: Dataset, name: str) -> list[dict]:
    """`input_ids` and `labels` of a language-modeling or prompt-completion data set, in memory, as TRL prepares them.

    Whether the prompt counts is decided by the type of this data set, where TRL would go by that of `train_dataset`."""
    completion_only, chosen = trainer.completion_only_loss, trainer.args.completion_only_loss
    trainer.completion_only_loss = "prompt" in dataset.column_names if chosen is None else chosen
    try:
        prepared = trainer._prepare_dataset(dataset, trainer.processing_class, trainer.args, False, None, name)
    finally:
        trainer.completion_only_loss = completion_only
    rows = prepared.select_columns(["input_ids", "labels"]).to_list()
    return [row for row in rows if any(label != IGNORED for label in row["labels"][1:])]  # the first is not predicted


def tokenised_pairs(trainer: SFTTrainer, dataset: Dataset, name: str) -> list[dict]:
    """`prompt_ids`, `chosen_ids` and `rejected_ids` of a preference data set, in memory, as TRL prepares them."""
    if "prompt_ids" not in dataset.column_names:
        dataset = DPOTrainer._prepare_dataset(trainer, dataset, trainer.processing_class, trainer.args, name)
    return dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).to_list()


def drop_fused_head(model: PreTrainedModel | PeftModel) -> None:
    """Removes TRL's patched forward, which has neither hidden states nor the precision of the weights."""
    unpatched = model.get_base_model() if isinstance(model, PeftModel) else model
    unpatched.__dict__.pop("forward")


class PreferenceCollator:
    """Pairs → `input_ids`, `attention_mask` and `labels` of shape `(2B, T)`, the B chosen ones first."""

    def __init__(self, pad_token_id: int, max_length: int | None, truncation_mode: str = "keep_start"):
        self._collate = DataCollatorForPreference(pad_token_id, max_length, truncation_mode)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, IGNORED)
        return {**batch, "labels": labels}


def draw_rows(size: int, count: int, seed: str) -> list[int]:
    """`count` different row numbers below `size`, for a seed."""
    return random.Random(seed).sample(range(size), count)


def device_share(rows: list, rank: int, world_size: int, micro_batch_size: int | None) -> Iterator[list]:
    """This device's rows of a global batch, in micro-batches; an empty share gives no micro-batch."""
    share = rows[rank::world_size]
    size = micro_batch_size or max(len(share), 1)
    for start in range(0, len(share), size):
        yield share[start : start + size]
