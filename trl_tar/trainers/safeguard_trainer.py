"""What all trainers of safeguards share: checks before anything is trained, the averaged weights, and the card."""

from typing import Any, ClassVar

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer

from ..data.tokenisation import drop_fused_head
from ..models.loading import load
from ..models.tokenizers import check_tokenizer, tokenizer_of
from ..models.training_noise import configured_noise, configured_with, disable_training_noise
from ..optim.schedule_free import AveragedWeightsMixin
from .data_checks import check_retain_rows, check_train_and_eval_datasets
from .model_checks import MODEL_INIT_KWARGS, check_launch, check_weights
from .publishing import EvidenceCardMixin
from .refused_options import check_refused_arguments
from .safeguard_config import SafeguardConfig


class SafeguardTrainer(EvidenceCardMixin, AveragedWeightsMixin, SFTTrainer):
    """
    Base class of [`TARTrainer`] and [`ForgetTrainer`]: an [`~trl.SFTTrainer`] that refuses what a safeguard cannot be
    trained with, saves Schedule-Free weights at their average, and never calls a model safe that nobody attacked. It trains
    without dropout, also that of its own adapter, as [`~trl.DPOTrainer`] does: what it compares with has none either.

    A subclass names its `config_class`, `_name` and `_paper`, checks its own data sets in `check_data`, and divides its
    losses by counts over the whole step, such as those of [`GlobalMeans`].

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`SafeguardConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain, in a type that [`~trl.SFTTrainer`] takes.
        data_collator, eval_dataset, processing_class, **kwargs:
            As in [`~trl.SFTTrainer`].

    Raises:
        `ValueError`: for data sets and options that cannot be trained with, before anything is trained.
    """

    config_class: ClassVar[type[SafeguardConfig]] = SafeguardConfig
    takes_bfloat16: ClassVar[bool] = False  # whether weights in bfloat16 are stepped in float32
    loss_is_scaled_for_ga: Any = True  # compute_loss divides by the counts of all micro-batches

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SafeguardConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = self.config_class(f"{name.split('/')[-1]}-{self._name.replace(' ', '-')}")
        if not isinstance(args, self.config_class):
            raise ValueError(
                f"`args` is {type(args).__name__!r}. Give {type(self).__name__} a {self.config_class.__name__}, or None."
            )
        args.check()
        check_refused_arguments(type(self).__name__, kwargs)
        if isinstance(model, str):
            assert not isinstance(args.model_init_kwargs, str)  # parsed by transformers
            settings = {
                "trust_remote_code": args.trust_remote_code,
                **MODEL_INIT_KWARGS,
                **(args.model_init_kwargs or {}),
            }
        processing_class = tokenizer_of(model, processing_class, args.pad_token)
        formatted = kwargs.get("formatting_func") is not None
        check_train_and_eval_datasets(train_dataset, eval_dataset, args.dataset_text_field, formatted)
        self.check_data(args, train_dataset)
        check_tokenizer(processing_class, model)
        if isinstance(model, str):  # not by TRL, which would train what a file lacks as it was drawn at random
            model, args.model_init_kwargs = load(model, **settings), None
        check_weights(model, self.takes_bfloat16)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        drop_fused_head(self.model)
        self._noise_as_given = configured_noise(self.model.config)
        disable_training_noise(self.model)
        check_weights(self.model, self.takes_bfloat16)
        check_launch(self)
        check_retain_rows(self)

    def check_data(self, args: Any, train_dataset: Dataset) -> None:
        """Raises `ValueError` for data sets of the subclass that cannot be trained with; called before a model is loaded."""

    def _save(self, *args, **kwargs):
        with configured_with(self.model.config, self._noise_as_given):
            super()._save(*args, **kwargs)

    def _log(self, name: str, value: float) -> None:
        """Adds a number of this step to the next entry of the log, which has its mean over steps."""
        self._metrics["train"][name].append(value)
