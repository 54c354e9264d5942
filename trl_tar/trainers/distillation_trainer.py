"""Distillation from a reference on harmless data: the repair of a recipe."""

import torch
from transformers import PreTrainedModel

from ..losses import IGNORED, kl_divergence_loss
from ..models.forward_passes import add_positions, at_labels, head_at_labels
from .distillation_config import DistillationConfig
from .global_means import GlobalMeans
from .reference import Reference
from .safeguard_trainer import SafeguardTrainer


class DistillationTrainer(SafeguardTrainer):
    """
    Trainer that brings a model back to what a reference says on D_retain, token by token:

        L = λ_retain · mean[KL(p_ref(· | x) ‖ p_θ(· | x))]        x ~ D_retain, over the tokens to predict

    It repairs what a safeguard cost. It also undoes safeguards that only hide, so a repaired model has to be attacked again;
    the red team has it as an attack of its own, `objective="distillation"` of [`Adversary`].

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to repair. A path is loaded in float32.
        args ([`DistillationConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain, in a type that [`~trl.SFTTrainer`] takes.
        ref_model ([`~transformers.PreTrainedModel`]):
            The reference, of the model's architecture: in a recipe, the base.
        eval_dataset, processing_class, data_collator, callbacks, optimizers, formatting_func, peft_config, …:
            As in [`~trl.SFTTrainer`].

    Raises:
        `ValueError`: for data sets, references and options that cannot be trained with, before anything is trained.

    Example:

    ```python
    from trl_tar.trainers.distillation_config import DistillationConfig
    from trl_tar.trainers.distillation_trainer import DistillationTrainer

    trainer = DistillationTrainer(
        model="my-tar-model",
        args=DistillationConfig("my-repaired-model", max_steps=100, learning_rate=1e-5),
        train_dataset=retain,
        ref_model=AutoModelForCausalLM.from_pretrained("my-base-model", dtype="float32"),
    )
    trainer.train()
    ```
    """

    _tag_names = ["trl", "trl-tar", "distillation"]
    _name = "Distillation"
    config_class = DistillationConfig

    def __init__(self, *args, ref_model: PreTrainedModel, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference = Reference(self.model, [], ref_model, self.accelerator, offload=False)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch of D_retain."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            (mean,) = self._means.values()
            if mean is not None:
                self._log("retain_loss/kl", mean)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of L."""
        arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        _, reference = self.reference.outputs(inputs, hidden_states=False, logits=True)
        with head_at_labels(self.model, inputs):
            outputs = model(**arguments)
        logits, labels = at_labels(outputs.logits, inputs)
        total, count = kl_divergence_loss(logits, reference, labels)
        devices = 1
        if model.training:
            self._means.add(total.detach().double().reshape(1))
            count, devices = self._means.counts[0], self.accelerator.num_processes  # DDP averages over devices
        else:
            self._evaluated.add(total.reshape(1), count.reshape(1))
        loss = self.args.retain_weight * total / count * devices
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Counts what the mean divides by: tokens to predict."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(1, dtype=torch.float64, device=device)
        for batch in batches:
            counts += (batch["labels"][:, 1:] != IGNORED).sum()
            add_positions(batch)
        self._means = GlobalMeans(counts)
        return batches, num_items_in_batch
