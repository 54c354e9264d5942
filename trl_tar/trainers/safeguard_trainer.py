"""What all trainers of safeguards share: checks before anything is trained, the averaged weights, and the card."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer

from ..data.messages import with_text
from ..data.tokenisation import TOKENISED, drop_fused_head, length_of
from ..models.architecture import outputs_of
from ..models.loading import load, without_router_logits
from ..models.tokenizers import check_context, check_tokenizer, context_of, tokenizer_of
from ..models.training_noise import configured_noise, configured_with, disable_training_noise
from ..models.transformers_4 import write_for_transformers_4
from ..optim.schedule_free import AveragedWeightsMixin
from .data_checks import check_retain_rows, check_train_and_eval_datasets, each_evaluation
from .global_means import EvaluationMeans
from .model_checks import MODEL_INIT_KWARGS, check_launch, check_soft_prompt, check_weights
from .publishing import EvidenceCardMixin
from .refused_options import check_refused_arguments
from .safeguard_config import SafeguardConfig


class SafeguardTrainer(EvidenceCardMixin, AveragedWeightsMixin, SFTTrainer):
    """
    Base class of [`TARTrainer`] and [`ForgetTrainer`]: an [`~trl.SFTTrainer`] that refuses what a safeguard cannot be
    trained with, saves Schedule-Free weights at their average, and never calls a model safe that nobody attacked. It trains
    without dropout, also that of its own adapter, as [`~trl.DPOTrainer`] does: what it compares with has none either.

    A subclass names its `config_class`, `_name` and `_paper`, checks its own data sets in `check_data`, and divides its
    losses by counts over the whole step, such as those of [`GlobalMeans`]. `model_outputs` holds what the model returns.

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
        if not formatted:
            train_dataset = with_text("train_dataset", train_dataset, processing_class)
            eval_dataset = each_evaluation(eval_dataset, lambda name, rows: with_text(name, rows, processing_class))
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
        without_router_logits(self.model)  # TRL asks for them, for a loss of its own
        check_weights(self.model, self.takes_bfloat16)
        self._evaluated = EvaluationMeans()
        check_soft_prompt(self.model)
        self.model_outputs = outputs_of(self.model, hidden_states=self.reads_hidden_states(args))
        check_launch(self)
        check_retain_rows(self)
        self.check_fit("train_dataset", self.train_dataset)
        each_evaluation(self.eval_dataset, self.check_fit)

    def check_data(self, args: Any, train_dataset: Dataset) -> None:
        """Raises `ValueError` for data sets of the subclass that cannot be trained with; called before a model is loaded."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with configured_with(self.model.config, self._noise_as_given):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            write_for_transformers_4(output_dir or self.args.output_dir)

    def tokenised(self, argument: str, dataset: Dataset, objective: str) -> list[dict]:
        """Rows of a data set that an objective, `"sft"` or `"dpo"`, reads; `ValueError`, in the name of the argument, for those
        that the chat template refuses or the model's context does not hold."""
        rows = TOKENISED[objective](self, dataset, argument)
        self.check_fit(argument, rows)
        return rows

    def check_fit(self, argument: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raises `ValueError` for tokenised rows that are longer than the model's context."""
        context, max_length = context_of(self.model.config), self.args.max_length
        if context is not None and (max_length is None or max_length > context):
            check_context(argument, max(map(length_of, rows), default=0), max_length, context)

    def reads_hidden_states(self, args: Any) -> bool:
        """Tells whether a loss of the subclass reads hidden states."""
        return False

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Evaluates with a loss that is a mean over tokens; transformers' is one over the means of batches."""
        self._evaluated = EvaluationMeans()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if f"{metric_key_prefix}_loss" in output.metrics:
            # λ_retain = 0 would tell no checkpoint from another
            scale = self.args.retain_weight or 1.0
            output.metrics[f"{metric_key_prefix}_loss"] = scale * self.evaluation_loss(self._evaluated.values())
        return output

    def evaluation_loss(self, means: list[float]) -> float:
        """The loss on D_retain of the means of an evaluation."""
        return sum(means)

    def _log(self, name: str, value: float) -> None:
        """Adds a number of this step to the next entry of the log, which has its mean over steps."""
        self._metrics["train"][name].append(value)
