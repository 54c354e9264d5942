"""Random mapping, the initial safeguard for knowledge (phase 1 of https://huggingface.co/papers/2408.00761)."""

import math
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..adversaries.data_order import draw_rows
from ..data.dataset_types import check_dataset
from ..data.entities import refuse_shared_entities
from ..data.tokenisation import drop_fused_head, tokenised_rows
from ..distributed.gradients import all_reduce
from ..losses import IGNORED, language_modeling_loss, random_mapping_loss
from ..models.tokenizers import check_tokenizer, tokenizer_of
from ..optim.schedule_free import AveragedWeightsMixin
from .data_checks import check_forget_rows, check_retain_rows, check_train_and_eval_datasets
from .model_checks import MODEL_INIT_KWARGS, check_launch, check_weights
from .publishing import EvidenceCardMixin
from .random_mapping_config import RandomMappingConfig
from .refused_options import check_refused_arguments
from .tar_trainer import TARTrainer


class RandomMappingTrainer(EvidenceCardMixin, AveragedWeightsMixin, SFTTrainer):
    """
    Trainer for random mapping: hidden states of hazardous text are turned towards random vectors, while the next-token
    loss on retain data stays low. It hides knowledge, and fine-tuning brings it back: phase 2, [`TARTrainer`], is for
    that.

        L = λ_forget · mean[1 − |cos(h_θ(x), r)|] + λ_retain · L_LM(θ)        x ~ D_forget, r ~ N(0, I) a token id

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`RandomMappingConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain, in a type that [`~trl.SFTTrainer`] takes.
        forget_dataset ([`~datasets.Dataset`]):
            D_forget, the hazardous text, likewise.
        eval_dataset, processing_class, data_collator, callbacks, optimizers, formatting_func, peft_config, …:
            As in [`~trl.SFTTrainer`].

    Raises:
        `ValueError`: for data sets and options that cannot be trained with, before anything is trained.

    Example:

    ```python
    from trl_tar import RandomMappingConfig, RandomMappingTrainer

    trainer = RandomMappingTrainer(
        model="my-model",
        args=RandomMappingConfig("my-safeguarded-model", max_steps=600, warmup_steps=100),
        train_dataset=retain,
        forget_dataset=hazard,
    )
    trainer.train()
    ```
    """

    _tag_names = ["trl", "trl-tar", "random-mapping"]
    _name = "Random mapping"
    _paper = TARTrainer._paper
    loss_is_scaled_for_ga = True  # compute_loss divides by the counts of all micro-batches

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: RandomMappingConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        forget_dataset: Dataset,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = RandomMappingConfig(f"{name.split('/')[-1]}-Random-Mapping")
        args.check()
        check_refused_arguments("RandomMappingTrainer", kwargs)
        if isinstance(model, str):
            args.model_init_kwargs = {**MODEL_INIT_KWARGS, **(args.model_init_kwargs or {})}
        processing_class = tokenizer_of(model, processing_class, args.pad_token)
        formatted = kwargs.get("formatting_func") is not None
        check_train_and_eval_datasets(train_dataset, eval_dataset, args.dataset_text_field, formatted)
        check_dataset("forget_dataset", forget_dataset, preference=False, text_field=args.dataset_text_field)
        refuse_shared_entities("train_dataset", train_dataset, "forget_dataset", forget_dataset)
        check_tokenizer(processing_class, model)
        if not isinstance(model, str):
            check_weights(model)
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
        check_weights(self.model)
        check_launch(self)
        check_retain_rows(self)
        self._forget_batch_size = args.forget_batch_size or args.per_device_train_batch_size
        self._forget_rows = tokenised_rows(self, forget_dataset, "forget")
        check_forget_rows(len(self._forget_rows), self._forget_batch_size * self.accelerator.num_processes)
        self._forget_collator = DataCollatorForLanguageModeling(processing_class.pad_token_id)
        self._forget_batches: list[dict[str, torch.Tensor]] = []
        self._counts: torch.Tensor | None = None  # labels of D_retain, then tokens × hidden states of D_forget
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        self._targets = self._random_vectors()

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch of D_retain and one of D_forget."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            all_reduce([self._sums])
            retain, forget = (self._sums / self._counts).tolist()
            if self._counts[0] > 0:  # else no row of the batch had a token to predict
                self._metrics["train"]["retain_loss/lm"].append(retain)
            self._metrics["train"]["forget_loss"].append(forget)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of L; in evaluation, the retain term alone."""
        args = self.args
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        retain, count = language_modeling_loss(outputs.logits, inputs["labels"])
        if not model.training:
            loss = args.retain_weight * retain / count
            return (loss, outputs) if return_outputs else loss
        batch = self._prepare_inputs(self._forget_batches.pop(0))
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        forget, _ = random_mapping_loss(hidden, self._targets[ids], mask, args.signed)
        self._sums += torch.stack([retain.detach().double(), forget.detach().double()])
        loss = (
            args.retain_weight * retain / self._counts[0].clamp(min=1) + args.forget_weight * forget / self._counts[1]
        )
        loss = loss * self.accelerator.num_processes  # DDP averages over devices
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Draws D_forget beside D_retain, and counts what the means divide by, over micro-batches and devices."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        accelerator, size = self.accelerator, self._forget_batch_size
        self._forget_batches = []
        for i in range(len(batches)):
            seed = f"{self.args.seed} forget {self.state.global_step} {i}"
            rows = draw_rows(len(self._forget_rows), size * accelerator.num_processes, seed)
            share = rows[accelerator.process_index :: accelerator.num_processes]
            self._forget_batches.append(self._forget_collator([self._forget_rows[r] for r in share]))
        hidden_states = self.model.config.get_text_config().num_hidden_layers + 1
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        for batch, forget in zip(batches, self._forget_batches, strict=True):
            counts[0] += (batch["labels"][:, 1:] != IGNORED).sum()
            counts[1] += forget["attention_mask"].sum() * hidden_states
        all_reduce([counts])
        self._counts = counts
        self._sums.zero_()
        return batches, num_items_in_batch

    def _random_vectors(self) -> torch.Tensor:
        """r ~ N(0, I / D), of which only the direction counts, for each token id, shape `(V, D)`: a function of the seed, the
        same on all devices."""
        config = self.model.config.get_text_config()
        generator = torch.Generator().manual_seed(self.args.seed)
        rows = config.vocab_size if self.args.target == "token" else 1
        vectors = torch.randn(rows, config.hidden_size, generator=generator) / math.sqrt(config.hidden_size)
        return vectors.expand(config.vocab_size, -1).to(self.accelerator.device)
