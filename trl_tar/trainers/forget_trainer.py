"""What the defences with a second data set share: D_forget is drawn for each step, and every mean is over its global batch."""

from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import nn

from ..adversaries.data_order import draw_rows
from ..data.dataset_types import check_dataset
from ..data.entities import refuse_shared_entities
from ..distributed.device_groups import DeviceGroup
from ..distributed.gradients import Batch
from ..losses import IGNORED, language_modeling_loss
from ..optim.stochastic_rounding import at_least_float32
from ..simulation.batches import Batches
from .data_checks import check_forget_rows
from .forget_config import ForgetConfig
from .global_means import GlobalMeans
from .safeguard_trainer import SafeguardTrainer


class ForgetTrainer(SafeguardTrainer):
    """
    Base class of the defences that minimise

        L = λ_forget · mean[forget_loss] + λ_retain · mean[retain_loss]        on D_forget and D_retain

    A defence is a subclass with a `forget_loss`, with a `forget_count` where its mean is not over the tokens to predict, and
    with the fields of its own configuration. Means are over all micro-batches and devices of a step, and D_forget is drawn once
    for all of them, so that neither `gradient_accumulation_steps` nor the number of devices changes the result. A row of
    [`~trl_tar.trainers.baselines.by_name.BASELINES`] makes it a phase 1 of the recipes.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`ForgetConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain, in a type that [`~trl.SFTTrainer`] takes.
        forget_dataset ([`~datasets.Dataset`]):
            D_forget: the hazardous text, likewise; preference pairs where `forget_objective` is `"dpo"`.
        eval_dataset, processing_class, data_collator, callbacks, optimizers, formatting_func, peft_config, …:
            As in [`~trl.SFTTrainer`].

    Raises:
        `ValueError`: for data sets and options that cannot be trained with, before anything is trained.
        `NotImplementedError`: for a class without a `forget_loss`.

    Example:

    ```python
    from trl_tar import ForgetConfig, ForgetTrainer


    class GradientAscentTrainer(ForgetTrainer):
        config_class = ForgetConfig

        def forget_loss(self, model, batch):
            loss, _ = self.retain_loss(model, batch)  # next-token cross-entropy
            return -loss
    ```
    """

    _tag_names = ["trl", "trl-tar", "unlearning"]
    _name = "Forget"
    config_class: ClassVar[type[ForgetConfig]] = ForgetConfig
    forget_objective: ClassVar[str] = "sft"  # rows of D_forget: "sft" for text, "dpo" for pairs
    retain_name: ClassVar[str] = "lm"  # of the retain loss in the log, behind `retain_loss/`
    hides: ClassVar[bool] = True  # whether harm falls before any attack, which is not the aim of every defence

    def __init__(self, *args, forget_dataset: Dataset, **kwargs):
        if type(self).forget_loss is ForgetTrainer.forget_loss:
            raise NotImplementedError(
                f"{type(self).__name__} has no forget_loss. Write it in a subclass of ForgetTrainer."
            )
        self.forget_dataset = forget_dataset
        super().__init__(*args, **kwargs)
        config, accelerator = self.args, self.accelerator
        self._batches = Batches(
            accelerator,
            DeviceGroup(accelerator.process_index, accelerator.num_processes),
            self.processing_class.pad_token_id,
            at_least_float32(next(self.model.parameters())),
            config.max_length,
            config.truncation_mode,
        )
        self._forget_batch_size = config.forget_batch_size or config.per_device_train_batch_size
        self._forget_rows = self.tokenised("forget_dataset", forget_dataset, self.forget_objective)
        check_forget_rows(len(self._forget_rows), self._rows_of_a_step(config.gradient_accumulation_steps))

    def check_data(self, args: Any, train_dataset: Dataset) -> None:
        pairs = self.forget_objective == "dpo"
        check_dataset("forget_dataset", self.forget_dataset, pairs, args.dataset_text_field)
        refuse_shared_entities("train_dataset", train_dataset, "forget_dataset", self.forget_dataset)

    # --- hooks: what a defence is -------------------------------------------------------------------------------------

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss on a micro-batch of D_forget, as a sum: `forget_count` is what its mean divides by.

        A defence with several means returns their sums, shape `(n,)`; λ_forget weights the sum of the means."""
        raise NotImplementedError

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Terms of the sum that `forget_loss` returns, in its shape: by default those of `retain_count`, tokens to predict."""
        return self.retain_count(batch)

    def retain_loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The loss on a micro-batch of D_retain, as a sum, and the model's outputs: by default, next-token cross-entropy."""
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return language_modeling_loss(outputs.logits, batch["labels"])[0], outputs

    def retain_count(self, batch: Batch) -> torch.Tensor:
        """Terms of the sum that `retain_loss` returns: by default, tokens to predict."""
        return (batch["labels"][:, 1:] != IGNORED).sum()

    def weights(self) -> tuple[float, float]:
        """λ_retain and λ_forget of this step: by default, those of the configuration in all steps."""
        return self.args.retain_weight, self.args.forget_weight

    # --- training -----------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch of D_retain and one of D_forget."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            retain, *forget = self._means.values()
            if retain is not None:
                self._log(f"retain_loss/{self.retain_name}", retain)
            if forget:
                self._log("forget_loss", sum(mean for mean in forget if mean is not None))
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of L; in evaluation, the retain term alone."""
        args = self.args
        retain, outputs = self.retain_loss(model, inputs)
        if model.training:
            forget = self.forget_loss(model, next(self._forget_batches)).reshape(-1)
            self._means.add(torch.cat([retain.detach().double().reshape(1), forget.detach().double()]))
            counts, (retain_weight, forget_weight) = self._means.counts, self.weights()
            loss = retain_weight * retain / counts[0] + (forget_weight * forget / counts[1:]).sum()
            loss = loss * self.accelerator.num_processes  # DDP averages over devices
        else:
            count = self.retain_count(inputs)
            self._evaluated.add(retain.reshape(1), count.reshape(1))
            loss = args.retain_weight * retain / count
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Draws D_forget for a step, and counts what the means divide by. `step_batches` are its micro-batches on this device,
        of D_retain and of D_forget."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        forget_batches = self.draw_forget_batches(len(batches))
        counts = torch.zeros((), dtype=torch.float64, device=device)
        for batch, forget in zip(batches, forget_batches, strict=True):
            counts = counts + torch.cat([self.retain_count(batch).reshape(1), self.forget_count(forget).reshape(-1)])
        self._means = GlobalMeans(counts)
        self.step_batches, self._forget_batches = (batches, forget_batches), iter(forget_batches)
        return batches, num_items_in_batch

    def draw_forget_batches(self, micro_batches: int) -> list[Batch]:
        """This device's micro-batches of D_forget for a step."""
        return self.draw_batches("forget", self._forget_rows, micro_batches, self.forget_objective)

    def draw_batches(self, name: str, rows: list[dict], micro_batches: int, objective: str = "sft") -> list[Batch]:
        """This device's micro-batches of tokenised rows for a step: one draw without replacement over all devices, a function
        of (seed, name, step), is cut into so many."""
        # recorded results were drawn under this name, whose 0 numbered the micro-batch
        seed_name = f"{self.args.seed} {name} {self.state.global_step} 0"
        drawn = [rows[i] for i in draw_rows(len(rows), self._rows_of_a_step(micro_batches), seed_name)]
        return self._batches.micro_batches(drawn, objective, self._forget_batch_size)

    def _rows_of_a_step(self, micro_batches: int) -> int:
        return self._forget_batch_size * micro_batches * self.accelerator.num_processes
