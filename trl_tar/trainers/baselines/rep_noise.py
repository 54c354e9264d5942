"""RepNoise: what the layers make of hazardous text becomes noise, and no layer predicts its next token."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch, all_reduce
from ...losses import IGNORED
from ...models.decoder_layers import feed_forward_modules
from ...models.layer_logits import final_norm, layer_cross_entropy
from ...models.module_outputs import outputs_read
from ...validation import check_not_negative, check_sizes
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer
from ..model_checks import check_whole


KERNELS = 5  # of the MMD, each twice as wide as the one before: as in the released code


@dataclass
class RepNoiseConfig(ForgetConfig):
    r"""
    Configuration class for the [`RepNoiseTrainer`]. Learning rate, α and β have to be searched for each model, its authors say.

    Parameters:
        noise_weight (`float`, *optional*, defaults to `0.001`):
            β, weight of the distance from noise, at least 0.
        ascent_weight (`float`, *optional*, defaults to `1.0`):
            α, weight of the logarithm of the loss, at least 0.
        noise_tokens (`int`, *optional*, defaults to `256`):
            Most tokens of a step that the distance is taken over; at least one of each row.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.
    """

    method: ClassVar[str] = "RepNoise"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {"noise_weight": 0.001, "ascent_weight": 1.0, "forget_weight": 1.0},
        "booster": {"noise_weight": 0.001, "ascent_weight": 0.1, "forget_weight": 1.0},  # as Booster's paper runs it
    }

    noise_weight: float = field(default=0.001, metadata={"help": "Weight of the distance from noise."})
    ascent_weight: float = field(default=1.0, metadata={"help": "Weight of the logarithm of the loss."})
    noise_tokens: int = field(default=256, metadata={"help": "Most tokens of a step that are compared with noise."})

    def check(self) -> None:
        super().check()
        check_not_negative(self, ("noise_weight", "ascent_weight"))
        check_sizes(self, ("noise_tokens",))


class RepNoiseTrainer(ForgetTrainer):
    """
    Trainer for RepNoise: what the layers make of hazardous text becomes noise (https://huggingface.co/papers/2405.14577), no
    layer predicts its next token, and the next-token loss on retain data stays low.

        L = λ_forget · [β · mean_ℓ MMD(a^ℓ_θ(x), N(0, I)) − α · log(1 + h̄(θ))] + λ_retain · L_LM(θ)        x ~ D_forget

    with a^ℓ the output of the feed-forward network of layer ℓ, and h̄ the mean cross-entropy of all layers, whose hidden states
    are read through the model's last norm and head. Both are no means over tokens, and of the whole global batch: a first pass
    without gradient measures them and their derivatives, and the second one multiplies these with what they are derived by.

    Differences to the released code: MMD compares tokens with noise, where that compares whole rows, flattened, so that it depends
    on their number and length; of each row of n labelled tokens, up to `noise_tokens` in a step are taken at even distances from a
    place that changes from step to step. Tokens are those with a label, where that takes those in which a hazardous and a harmless
    answer differ; positions without a label are left out, where that sets their logits to 0. Each layer counts once, where that
    counts the last one twice, normed twice. The harmless answers are rows of D_retain.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "rep-noise"]
    _name = "RepNoise"
    config_class = RepNoiseConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_whole(self, "reads the layers of the model one by one")
        self.model_outputs.check_hidden_states("RepNoise", "Use another defence.", one_width=True)
        self._final_norm = final_norm(self.model)
        self._feed_forward = feed_forward_modules(self.model)

    def reads_hidden_states(self, args: RepNoiseConfig) -> bool:
        return True

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._measured: Measured | None = None  # until the first micro-batch
        return batches, num_items_in_batch

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of the global batch, in the share of this micro-batch's tokens, with the gradient of what it adds to it."""
        if self._measured is None:
            self._measured = self._measure()
        measured, weight = self._measured, self.args.noise_weight
        (total, _), states = self._read(model, batch)
        linear = measured.by_cross_entropy * total + weight * (next(measured.by_states) * states).sum()
        tokens = self._means.counts[1]  # of the step, which the sum of all shares is divided by
        share = self.forget_count(batch) * linear.new_tensor(measured.loss)
        return share + tokens * (linear - linear.detach())

    @torch.no_grad()
    def _measure(self) -> "Measured":
        """The loss on the step's global batch, and its derivatives, at the weights that the model has now."""
        device, group = self.accelerator.device, self._batches.devices
        sums, parts = torch.zeros(2, dtype=torch.float64, device=device), []
        for batch in self.step_batches[1]:
            pair, states = self._read(self.model, batch)
            sums += torch.stack([term.double() for term in pair])
            parts.append(states)
        own = torch.cat(parts)  # (M, L, D) on this device
        counts = torch.zeros(group.size, dtype=torch.long, device=device)
        counts[group.rank] = len(own)
        all_reduce([sums, counts])
        start = int(counts[: group.rank].sum())
        states = own.new_zeros(int(counts.sum()), *own.shape[1:])
        states[start : start + len(own)] = own
        all_reduce([states])

        cross_entropy = (sums[0] / sums[1]).item()  # h̄
        distance, derivative = self._distance(states)
        args, by_states = self.args, derivative[start : start + len(own)].split([len(part) for part in parts])
        return Measured(
            args.noise_weight * distance - args.ascent_weight * math.log1p(cross_entropy),
            -args.ascent_weight / (1 + cross_entropy) / sums[1].item(),
            iter(by_states),
        )

    def _distance(self, states: torch.Tensor) -> tuple[float, torch.Tensor]:
        """MMD of states `(M, L, D)` from noise, mean over the layers, and its derivative. The noise is a function of (seed, step)."""
        generator = torch.Generator(states.device).manual_seed(self.noise_seed())
        total, derivative = 0.0, torch.empty_like(states)
        for layer in range(states.shape[1]):
            points = states[:, layer].clone().requires_grad_()
            noise = torch.randn(points.shape, dtype=points.dtype, device=points.device, generator=generator)
            with torch.enable_grad():
                distance = noise_distance(points, noise) / states.shape[1]
                (derivative[:, layer],) = torch.autograd.grad(distance, points)
            total += distance.item()
        return total, derivative

    def _read(self, model: nn.Module, batch: Batch) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Cross-entropy of all layers, sum and count, and the states of the chosen tokens, `(M, L, D)`."""
        most = max(1, self.args.noise_tokens // self._rows_of_a_step(len(self.step_batches[1])))
        chosen = spread(batch["labels"] != IGNORED, most, random.Random(self._seed_name("tokens")).random())
        with self.accelerator.autocast(), outputs_read(self._feed_forward) as outputs:
            pair = layer_cross_entropy(model, self._final_norm, self.model.get_output_embeddings(), batch)
        states = torch.stack([outputs[module][chosen] for module in self._feed_forward], dim=1)
        return pair, states.to(torch.promote_types(states.dtype, torch.float32))

    def noise_seed(self) -> int:
        """Seed of the noise of this step, the same on all devices."""
        return random.Random(self._seed_name("noise")).getrandbits(31)

    def _seed_name(self, what: str) -> str:
        return f"{self.args.seed} {what} {self.state.global_step}"


@dataclass
class Measured:
    """The loss on D_forget of a step, with its derivatives.

    Args:
        loss (`float`):
            β MMD − α log(1 + h̄) of the global batch.
        by_cross_entropy (`float`):
            Its derivative by the summed cross-entropy.
        by_states (`Iterator[torch.Tensor]`):
            That of MMD by the chosen states of each micro-batch of this device, `(M, L, D)`, in their order.
    """

    loss: float
    by_cross_entropy: float
    by_states: Iterator[torch.Tensor]


def noise_distance(states: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """MMD² of two sets of M vectors, `(M, D)` each, with a sum of Gaussian kernels; in [0, 10].

    The kernels are exp(−‖x − y‖² / (2^i w)), i = −2 … 2, with w the mean squared distance of two different vectors among all, which
    gets no gradient."""
    vectors = torch.cat([states, noise])
    # not by matrix products, which cancel where vectors are near each other
    squares = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    count, middle = len(vectors), len(states)
    width = squares.detach().sum() / (count**2 - count)
    scales = [width * 2.0 ** (i - KERNELS // 2) for i in range(KERNELS)]
    kernel = torch.stack([torch.exp(-squares / scale) for scale in scales]).sum(0)
    return kernel[:middle, :middle].mean() + kernel[middle:, middle:].mean() - 2 * kernel[:middle, middle:].mean()


def spread(wanted: torch.Tensor, most: int, offset: float) -> torch.Tensor:
    """Of each row's `wanted` places, `(B, T)`, at most so many, at even distances; which ones is a function of the row's number of
    them and of `offset`, in [0, 1), alone."""
    counts = wanted.sum(1, keepdim=True)
    rate = counts.clamp(max=most).double() / counts.clamp(min=1)
    rank = wanted.cumsum(1)  # 1 for the first wanted place of a row
    return wanted & ((rate * rank - offset).ceil() > (rate * (rank - 1) - offset).ceil())
