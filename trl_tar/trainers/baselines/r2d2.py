"""R2D2 with attacks on embeddings: prompts under attack are answered by a refusal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch
from ...losses import IGNORED, inverse_cross_entropy_loss, language_modeling_loss
from ...models.forward_passes import next_token_logits
from ...models.module_outputs import outputs_shifted
from ...models.tokenizers import context_of
from ...validation import check_above_0, check_sizes, coerce_numbers
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer
from ..model_checks import check_whole


TOKENS_AT_ONCE = 2**13  # of which the length of the embedding is taken; a choice: no result depends on it


@dataclass
class R2D2Config(ForgetConfig):
    r"""
    Configuration class for the [`R2D2Trainer`].

    Parameters:
        num_steps (`int`, *optional*, defaults to `10`):
            J, steps of the attack on a batch.
        step_size (`float`, *optional*, defaults to `1e-4`):
            η, what a step changes each number of an embedding by, above 0.
        radius (`float`, *optional*, defaults to `0.05`):
            ε, most that the attack moves a token by, in mean lengths of an embedding, above 0.
        threshold (`float`, *optional*, defaults to `-5.0`):
            τ, in nats: a hazardous token with log p < τ has no loss.
        refusal (`str`, *optional*, defaults to `"Sorry, I can't do that."`):
            What is to be answered.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > `forget_weight` defaults to `0.5` instead of the `1.0` of [`ForgetConfig`], and `learning_rate` to `2e-5` instead of its
    > `1e-5`.
    """

    method: ClassVar[str] = "R2D2 on embeddings"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # losses of R2D2, and the attack of CAT
        "paper": {
            "threshold": -5.0,
            "forget_weight": 0.5,
            "learning_rate": 2e-5,
            "num_steps": 10,
            "step_size": 1e-4,
            "radius": 0.05,
        }
    }

    num_steps: int = field(default=10, metadata={"help": "Steps of the attack on a batch."})
    step_size: float = field(default=1e-4, metadata={"help": "Change of a number of an embedding in a step."})
    radius: float = field(default=0.05, metadata={"help": "Most that a token is moved, in lengths of an embedding."})
    threshold: float = field(default=-5.0, metadata={"help": "Log-probability below which a token has no loss."})
    refusal: str = field(default="Sorry, I can't do that.", metadata={"help": "What is to be answered."})
    forget_weight: float = field(default=0.5, metadata={"help": "Weight of the two losses on D_forget."})
    learning_rate: float = field(default=2e-5, metadata={"help": "Learning rate."})

    def check(self) -> None:
        super().check()
        check_sizes(self, ("num_steps",))
        check_above_0(self, ("step_size", "radius"))
        coerce_numbers(self, ("threshold",), float)
        if not -math.inf < self.threshold < 0:
            raise ValueError(
                f"{type(self).__name__} has threshold={self.threshold}. Use a finite log-probability below 0."
            )


class R2D2Trainer(ForgetTrainer):
    """
    Trainer for R2D2 on embeddings: prompts of hazardous answers, under attack, are answered by a refusal
    (https://huggingface.co/papers/2402.04249), while the next-token loss on retain data stays low.

        L = λ_forget · (mean[−log(1 − p_θ(y | x + δ)) · 1[log p_θ ≥ τ]] + mean[−log p_θ(refusal | x + δ)]) + λ_retain · L_LM(θ)

    with x the prompt and y the answer of a row of D_forget. The deviation from R2D2: its attack is a suffix of tokens, from a pool
    that GCG improves through the run; here δ is added to the embeddings of the prompt, and starts at 0 for each batch, as in CAT
    (https://huggingface.co/papers/2405.15589): J steps of −η sign(∇_δ L_LM(y | x + δ)), each followed by a projection of each
    token's δ to length ε times the mean length of an embedding. The last δ is taken. The gradient of the attack is that of the sum
    over tokens, whose sign no other row changes. The embeddings are what the model's input layer returns, scaled where it
    scales them.

    Difference to R2D2's released code in the losses: padding is not pushed away from.

    Arguments and errors are those of [`ForgetTrainer`]; D_forget is of prompts with completions, and its rows have a prompt each.
    """

    _tag_names = ["trl", "trl-tar", "r2d2-embeddings"]
    _name = "R2D2 on embeddings"
    config_class = R2D2Config

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_whole(self, "attacks the embeddings of the model")
        config, tokenizer = self.args, self.processing_class
        self.refusal_ids = [*tokenizer.encode(config.refusal, add_special_tokens=False), tokenizer.eos_token_id]
        if any(row["labels"][0] != IGNORED for row in self._forget_rows):
            raise ValueError(
                "`forget_dataset` has rows without a prompt, whose embeddings R2D2 attacks. Give prompts and completions, and "
                "leave completion_only_loss on."
            )
        longest = max(_prompt_length(row["labels"]) for row in self._forget_rows) + len(self.refusal_ids)
        context = context_of(self.model.config)
        if context is not None and longest > context:
            raise ValueError(
                f"`forget_dataset` has prompts that make {longest} tokens with the refusal, and the model's context has "
                f"{context}. Shorten them, or `refusal`."
            )

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Of the answer, away from it, and of the refusal, towards it: each summed over tokens."""
        delta = self.attack(batch)
        toward = with_refusal(batch, self.refusal_ids)
        embeddings = self.model.get_input_embeddings()
        with outputs_shifted([embeddings], {embeddings: delta}):
            away_loss = inverse_cross_entropy_loss(
                next_token_logits(model, batch), batch["labels"], self.args.threshold
            )[0]
        with outputs_shifted([embeddings], {embeddings: _fitted(delta, toward["input_ids"].shape[1])}):
            toward_loss = language_modeling_loss(next_token_logits(model, toward), toward["labels"])[0]
        return torch.stack([away_loss, toward_loss])

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Tokens of the answers, and tokens of the refusals."""
        labels = batch["labels"]
        refusals = torch.tensor(len(labels) * len(self.refusal_ids), device=labels.device)
        return torch.stack([self.retain_count(batch), refusals])

    def attack(self, batch: Batch) -> torch.Tensor:
        """δ of a micro-batch, shape `(B, T, D)`; 0 behind the prompts. It leaves every `.grad` alone."""
        args, embeddings = self.args, self.model.get_input_embeddings()
        weight = next(embeddings.parameters())
        prompts = prompt_mask(batch["labels"])[..., None]
        radius = args.radius * mean_length(embeddings)
        delta = torch.zeros(*batch["input_ids"].shape, weight.shape[1], dtype=weight.dtype, device=prompts.device)
        for _ in range(args.num_steps):
            delta.requires_grad_()
            with outputs_shifted([embeddings], {embeddings: delta}):
                logits = next_token_logits(self.model, batch)
                loss = language_modeling_loss(logits, batch["labels"])[0]
                (gradient,) = torch.autograd.grad(loss, delta)
            delta = projected(delta.detach() - args.step_size * gradient.sign() * prompts, radius)
        return delta


@torch.no_grad()
def mean_length(embeddings: nn.Module) -> torch.Tensor:
    """The mean length of the embeddings of all tokens, as the model reads them."""
    weight = next(embeddings.parameters())
    ids = torch.arange(len(weight), device=weight.device)
    return torch.cat([torch.linalg.vector_norm(embeddings(part), dim=-1) for part in ids.split(TOKENS_AT_ONCE)]).mean()


def projected(delta: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
    """Each token's δ, the last dimension, cut to length `radius` where it is longer."""
    lengths = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    return torch.where(lengths > radius, delta * (radius / lengths), delta)


def prompt_mask(labels: torch.Tensor) -> torch.Tensor:
    """True before the first label of each row, shape `(B, T)`."""
    return (labels != IGNORED).cumsum(1) == 0


def with_refusal(batch: Batch, refusal_ids: list[int]) -> Batch:
    """The prompts of a batch, each followed by the refusal, which alone has labels."""
    ids = batch["input_ids"]
    lengths = prompt_mask(batch["labels"]).sum(1, keepdim=True)
    refusal = torch.tensor(refusal_ids, device=ids.device)
    places = torch.arange(int(lengths.max()) + len(refusal), device=ids.device).expand(len(ids), -1)
    behind = places - lengths  # the place in the refusal
    in_refusal = (behind >= 0) & (behind < len(refusal))
    answers = refusal[behind.clamp(0, len(refusal) - 1)]
    prompts = _fitted(ids[..., None], places.shape[1])[..., 0]
    return {
        "input_ids": torch.where(in_refusal, answers, torch.where(behind < 0, prompts, 0)),
        "attention_mask": (behind < len(refusal)).long(),
        "labels": torch.where(in_refusal, answers, IGNORED),
    }


def _fitted(values: torch.Tensor, length: int) -> torch.Tensor:
    """`values` of shape `(B, T, X)` with zeros behind them, or cut, to `length` places."""
    missing = length - values.shape[1]
    return values[:, :length] if missing <= 0 else torch.nn.functional.pad(values, (0, 0, 0, missing))


def _prompt_length(labels: list[int]) -> int:
    return next(place for place, label in enumerate(labels) if label != IGNORED)
