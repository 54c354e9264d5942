"""Random mapping, the initial safeguard for knowledge (phase 1 of https://huggingface.co/papers/2408.00761)."""

import math

import torch
from torch import nn

from ..distributed.gradients import Batch
from ..losses import random_mapping_loss
from ..papers import TAR_PAPER
from .forget_trainer import ForgetTrainer
from .random_mapping_config import RandomMappingConfig


class RandomMappingTrainer(ForgetTrainer):
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
    _paper = TAR_PAPER
    config_class = RandomMappingConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_outputs.check_hidden_states("random mapping", "Use another defence.", one_width=True)
        self._targets = self._random_vectors()

    def reads_hidden_states(self, args: RandomMappingConfig) -> bool:
        return True

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """1 − |cos(h_θ(x), r)|, summed over tokens and hidden states."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        return random_mapping_loss(hidden, self._targets[ids], mask, self.args.signed)[0]

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Tokens × hidden states."""
        return batch["attention_mask"].sum() * len(self.model_outputs.hidden_states)

    def _random_vectors(self) -> torch.Tensor:
        """r ~ N(0, I / D) for each token id, shape `(V, D)`, of which only the direction counts. The vectors are a function
        of the seed, the same on all devices."""
        tokens, width = len(self.model.get_input_embeddings().weight), int(self.model_outputs.hidden_states[0][-1])
        generator = torch.Generator().manual_seed(self.args.seed)
        rows = tokens if self.args.target == "token" else 1
        vectors = torch.randn(rows, width, generator=generator) / math.sqrt(width)
        return vectors.expand(tokens, -1).to(self.accelerator.device)
