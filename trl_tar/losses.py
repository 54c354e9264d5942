"""Tamper-resistance and retain losses, each with its equation.

Every loss comes as a (sum, count) pair of this device's batch, so that a caller who sees several devices or micro-batches
can form the global mean: Σ sums / Σ counts.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


IGNORED = -100  # label of a token that is not predicted, as in PyTorch and transformers
# Most logits of a batch that become losses all at once; those of a larger batch do so in parts. The size is a choice: 64 MiB
# in float32.
MOST_LOGITS = 2**24


def language_modeling_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross-entropy, in nats, L_LM of Eq. 2 (https://huggingface.co/papers/2408.00761).

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`):
            In their own precision: transformers' `.loss` would upcast to float32 and lose float64.
        labels (`torch.Tensor` of shape `(B, T)`):
            Token ids; −100 is ignored.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over next-token positions with a label, and their number.
    """
    targets = labels[:, 1:]
    if logits.numel() > MOST_LOGITS:
        total = _in_chunks(_cross_entropy, logits, labels).sum()
    else:
        total = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (targets != IGNORED).sum()


def max_entropy_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative next-token entropy Σ p log p (Eq. 3), in nats; its mean lies in [−log V, 0].

    Shapes and return are those of [`language_modeling_loss`]. The authors' code averages over all positions; here only
    positions that predict a label count, so neither padding nor a masked prompt does.
    """
    wanted = labels[:, 1:] != IGNORED
    if logits.numel() > MOST_LOGITS:
        return _in_chunks(_negative_entropy, logits, labels).sum(), wanted.sum()
    log_p = F.log_softmax(logits[:, :-1][wanted], dim=-1)  # (N, V)
    return (log_p.exp() * log_p).sum(), wanted.sum()


def negative_cross_entropy_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """−L_CE of MLAC-AR (https://huggingface.co/papers/2408.00761), before the clamp at log V.

    Shapes and return are those of [`language_modeling_loss`]. The clamp −min(CE, log V) applies to the mean over the global
    batch, which the trainer alone knows; see `bound` of [`Loss`].
    """
    total, count = language_modeling_loss(logits, labels)
    return -total, count


def inverse_cross_entropy_loss(
    logits: torch.Tensor, labels: torch.Tensor, threshold: float = -math.inf
) -> tuple[torch.Tensor, torch.Tensor]:
    """−log(1 − p_y) of SOPHON (https://huggingface.co/papers/2404.12699), in nats, ≥ 0, minimised.

    Shapes and return are those of [`language_modeling_loss`]. It is formed as logsumexp(all) − logsumexp(all but y), which stays finite
    as p_y → 1. A token with log p_y < `threshold` adds 0, and counts.
    """
    wanted, token_loss = labels[:, 1:] != IGNORED, partial(_inverse_cross_entropy, threshold=threshold)
    if logits.numel() > MOST_LOGITS:
        return _in_chunks(token_loss, logits, labels).sum(), wanted.sum()
    return token_loss(logits[:, :-1][wanted], labels[:, 1:][wanted]).sum(), wanted.sum()


def kl_divergence_loss(
    logits: torch.Tensor, reference_logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """T² KL(p_ref ‖ p_θ) = T² Σ p_ref (log p_ref − log p_θ) of the next token at temperature T, in nats, ≥ 0: the anchor at the
    output.

    It is distillation (https://huggingface.co/papers/1503.02531): p_θ has to cover what p_ref says, and T² keeps the scale of the
    gradient. Where p_ref is all but certain, KL at T = 1 does not tell a margin of 10 nats from one of 5; a temperature
    does. Only positions that predict a label count, so neither padding nor a masked prompt does. Probabilities are formed in
    float32, or in the precision of the logits if that is higher.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`):
            The model's.
        reference_logits (`torch.Tensor` of shape `(B, T, V)`):
            The reference's, without gradient.
        labels (`torch.Tensor` of shape `(B, T)`):
            Token ids; −100 is not counted.
        temperature (`float`, *optional*, defaults to `1.0`):
            T, by which the logits of both are divided.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over next-token positions with a label, and their number.
    """
    wanted, divergence = labels[:, 1:] != IGNORED, partial(_kl_divergence, temperature=temperature)
    if logits.numel() > MOST_LOGITS:
        return _in_chunks(divergence, logits, labels, reference_logits).sum(), wanted.sum()
    rows, references = logits[:, :-1][wanted], reference_logits[:, :-1][wanted]
    return divergence(rows, labels[:, 1:][wanted], references).sum(), wanted.sum()


def sequence_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed log-probability of each row's labelled tokens.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`):
            The model's, in any precision.
        labels (`torch.Tensor` of shape `(B, T)`):
            Token ids; −100 is not counted.

    Returns:
        `torch.Tensor` of shape `(B,)`: in nats.
    """
    if logits.numel() > MOST_LOGITS:
        return -_in_chunks(_cross_entropy, logits, labels).sum(-1)
    targets = labels[:, 1:]
    token = -F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return token.sum(-1)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each position, shape `(N,)`, for logits `(N, V)` and targets `(N,)`; the next two take the same."""
    return F.cross_entropy(logits, targets, reduction="none")


def _negative_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    log_p = F.log_softmax(logits, dim=-1)
    return (log_p.exp() * log_p).sum(-1)


def _inverse_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, threshold: float) -> torch.Tensor:
    others, total = logits.scatter(1, targets[:, None], -torch.inf), logits.logsumexp(-1)
    log_p = logits.detach().gather(1, targets[:, None])[:, 0] - total.detach()
    return (total - others.logsumexp(-1)).masked_fill(log_p < threshold, 0)


def _kl_divergence(
    logits: torch.Tensor, targets: torch.Tensor, reference_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    both = [rows if temperature == 1 else rows.to(dtype) / temperature for rows in (logits, reference_logits)]
    log_p, log_p_ref = (F.log_softmax(rows, dim=-1, dtype=dtype) for rows in both)
    return temperature**2 * F.kl_div(log_p, log_p_ref, reduction="none", log_target=True).sum(-1)


TokenLoss = Callable[..., torch.Tensor]


def _in_chunks(
    token_loss: TokenLoss, logits: torch.Tensor, labels: torch.Tensor, *constants: torch.Tensor
) -> torch.Tensor:
    """Loss of each position, shape `(B, T)`; 0 at those that predict no label, the last one among them.

    `constants` of shape `(B, T, ·)` are further arguments of the loss, and get no gradient."""
    return _InChunks.apply(token_loss, logits, F.pad(labels[:, 1:], (0, 1), value=IGNORED), *constants)


class _InChunks(torch.autograd.Function):
    """Takes a few positions at a time, and computes them again in the backward pass, so that no tensor of the size of the
    logits is held in addition to themselves and their gradient."""

    @staticmethod
    def forward(
        ctx, token_loss: TokenLoss, logits: torch.Tensor, targets: torch.Tensor, *constants: torch.Tensor
    ) -> torch.Tensor:
        ctx.token_loss = token_loss
        ctx.save_for_backward(logits, targets, *constants)
        losses = [
            token_loss(chunk, target.clamp(min=0), *others).masked_fill(target == IGNORED, 0)
            for chunk, target, *others in _chunks(logits, targets, *constants)
        ]
        return torch.cat(losses).view_as(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, targets, *constants = ctx.saved_tensors
        grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for chunk, target, grad_loss, part, *others in _chunks(logits, targets, grad_losses, grad_logits, *constants):
            with torch.enable_grad():
                chunk = chunk.detach().requires_grad_()
                losses = ctx.token_loss(chunk, target.clamp(min=0), *others)
            (grad_chunk,) = torch.autograd.grad(losses, chunk, grad_loss)
            part.copy_(grad_chunk.masked_fill_((target == IGNORED)[:, None], 0))
        return None, grad_logits, None, *(None for _ in constants)


def _chunks(logits: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Splits rows into positions that have at most `MOST_LOGITS` / 8 logits together, and the other tensors alike."""
    positions = max(1, MOST_LOGITS // 8 // logits.shape[-1])
    for rows in zip(logits, *others, strict=True):
        yield from zip(*(row.split(positions) for row in rows), strict=True)


def dpo_loss(
    log_probs: torch.Tensor, reference_log_probs: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """−log σ(β · margin) (https://huggingface.co/papers/2305.18290, Eq. 7), in nats; ln 2 where policy = reference.

    Args:
        log_probs (`torch.Tensor` of shape `(2B,)`):
            Summed completion log-probabilities, the B chosen ones first. For the tamper-resistance loss the chosen
            completion is the refusal.
        reference_log_probs (`torch.Tensor` of shape `(2B,)`):
            The same under the reference model.
        beta (`float`):
            β.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over pairs, and their number.
    """
    chosen, rejected = (log_probs - reference_log_probs).chunk(2)
    losses = -F.logsigmoid(beta * (chosen - rejected))
    return losses.sum(), torch.full((), len(losses), device=losses.device)


def representation_loss(
    hidden_states: tuple[torch.Tensor, ...],
    reference_hidden_states: tuple[torch.Tensor, ...],
    attention_mask: torch.Tensor,
    distance: str = "l2",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of h_θ from h_ref, over tokens that are not padding and all hidden states.

    It is ‖h_θ − h_ref‖₂ (`"l2"`, the released runs), its square (`"l2_squared"`, Eq. 2 of
    https://huggingface.co/papers/2408.00761) or ‖h_θ − h_ref‖₂ / ‖h_ref‖₂ (`"relative"`), which is about as large for every
    model, whatever the length of its hidden states. A token with h_ref = 0 adds 0 to the relative distance, which has no value
    there.

    Args:
        hidden_states (`tuple[torch.Tensor, ...]`, each of shape `(B, T, D)`):
            Embeddings and the output of each layer.
        reference_hidden_states (`tuple[torch.Tensor, ...]`):
            The same under the reference, θ_G0 in Eq. 2, without gradient.
        attention_mask (`torch.Tensor` of shape `(B, T)`):
            0 on padding.
        distance (`str`, *optional*, defaults to `"l2"`):
            `"l2"`, `"l2_squared"` or `"relative"`.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over hidden states and tokens, and their number.
    """
    mask = attention_mask.bool()
    total = hidden_states[0].new_zeros(())
    for h, reference in zip(hidden_states, reference_hidden_states, strict=True):
        difference = (h - reference)[mask]  # (N, D)
        if distance == "l2_squared":
            total = total + difference.pow(2).sum()
            continue
        # vector_norm has subgradient 0 at 0, so the anchor is silent where nothing has moved
        distances = torch.linalg.vector_norm(difference, dim=-1)
        if distance == "relative":
            lengths = torch.linalg.vector_norm(reference[mask], dim=-1)
            distances = distances / lengths.masked_fill(lengths == 0, torch.inf)
        total = total + distances.sum()
    return total, mask.sum() * len(hidden_states)


def random_mapping_loss(
    hidden_states: tuple[torch.Tensor, ...], targets: torch.Tensor, attention_mask: torch.Tensor, signed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """1 − |cos(h_θ(x), r)|, or 1 − cos, over tokens that are not padding and all hidden states; each in [0, 1] or [0, 2].

    Args:
        hidden_states (`tuple[torch.Tensor, ...]`, each of shape `(B, T, D)`):
            Embeddings and the output of each layer.
        targets (`torch.Tensor` of shape `(B, T, D)`):
            Random vector r of each token.
        attention_mask (`torch.Tensor` of shape `(B, T)`):
            0 on padding.
        signed (`bool`, *optional*, defaults to `False`):
            Drop the absolute value of the authors' code.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over hidden states and tokens, and their number.
    """
    mask = attention_mask.bool()
    total = hidden_states[0].new_zeros(())
    for h in hidden_states:
        cosine = F.cosine_similarity(h[mask], targets[mask].to(h.dtype), dim=-1)  # (N,)
        total = total + (1 - (cosine if signed else cosine.abs())).sum()
    return total, mask.sum() * len(hidden_states)


@dataclass(frozen=True)
class Loss:
    """A tamper-resistance loss L_TR: a function with what the trainer, its checks and the card must know of it.

    Args:
        name (`str`):
            Value of `tamper_resistance_loss` in [`TARConfig`].
        function (`Callable`):
            Returns (sum, count). With objective `"sft"` it takes logits `(B, T, V)` and labels `(B, T)`; with `"dpo"`, log-
            probabilities of the policy and of the reference, `(2B,)` each with the B chosen ones first, and β.
        objective (`str`, *optional*, defaults to `"sft"`):
            Rows that D_TR must have: `"sft"` for text, `"dpo"` for preference pairs.
        bound (`Callable`, *optional*):
            Vocabulary size → least value of the mean over the global batch, in nats. Where the mean is below, it counts as
            this value and has no gradient. By default the loss is unbounded.
    """

    name: str
    function: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    objective: str = "sft"
    bound: Callable[[int], float] | None = None

    @property
    def takes_pairs(self) -> bool:
        """Tells whether D_TR holds preference pairs, with a reference and β."""
        return self.objective == "dpo"

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, reference_log_probs: torch.Tensor | None, beta: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum and count over a batch: logits `(B, T, V)`, labels `(B, T)` and, for pairs, the reference's log-probabilities `(2B,)`."""
        if self.takes_pairs:
            return self.function(sequence_log_probs(logits, labels), reference_log_probs, beta)
        return self.function(logits, labels)


TAMPER_RESISTANCE_LOSSES = {
    loss.name: loss
    for loss in (
        Loss("entropy", max_entropy_loss),
        # −min(CE, log V): the paper clamps, and no gradient is left above the cross-entropy of the uniform distribution
        Loss("negative_cross_entropy", negative_cross_entropy_loss, bound=lambda vocab_size: -math.log(vocab_size)),
        Loss("inverse_cross_entropy", inverse_cross_entropy_loss),
        Loss("dpo", dpo_loss, objective="dpo"),
    )
}


def inner_weight(step: int, num_steps: int, interval: int, weighting: str, rate: float) -> float:
    """w_k, the weight of L_TR after step k of an attack.

    Args:
        step (`int`):
            k, counted from 0; −1 is θ itself, in an attack of no steps, with weight 1.
        num_steps (`int`):
            K.
        interval (`int`):
            L_TR is taken where (k + 1) mod interval = 0.
        weighting (`str`):
            `"exponential"`: exp(rate · (k − (K − 1))), as the released code, not normalised. `"uniform"`: 1 / number of
            evaluations, the 1/K of Algorithm 1 (https://huggingface.co/papers/2408.00761).
        rate (`float`):
            Rate of the exponential weights.

    Returns:
        `float`: above 0.
    """
    if step < 0:
        return 1.0
    if weighting == "uniform":
        return 1 / (num_steps // interval)
    return math.exp(rate * (step - (num_steps - 1)))
