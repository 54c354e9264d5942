"""Four-way choice by likelihood."""

import torch


def choose(log_likelihoods: torch.Tensor, draws: int, choices: int = 4) -> torch.Tensor:
    """Share of draws in which the right answer is the likeliest of `choices`.

    Args:
        log_likelihoods (`torch.Tensor` of shape `(N, A)`):
            Of each answer to each question, up to a constant a question; the right answer comes first, the other
            A − 1 are candidates for distractors.
        draws (`int`):
            Draws of distractors a question. They are a function of the question's position, the same for every model.
        choices (`int`, *optional*, defaults to `4`):
            Answers offered, the right one included.

    Returns:
        `torch.Tensor` of shape `(N,)`: in [0, 1], float64. A tie counts as wrong, so that a constant model scores 0.
        NaN where a likelihood is not finite: a broken model is not a wrong one.
    """
    n, answers = log_likelihoods.shape
    generator = torch.Generator().manual_seed(answers)
    order = torch.rand(n, draws, answers - 1, generator=generator).argsort(-1)[..., : choices - 1] + 1  # (N, draws, 3)
    offered = log_likelihoods[:, None, :].expand(n, draws, answers).gather(2, order.to(log_likelihoods.device))
    share = (log_likelihoods[:, None, :1] > offered).all(-1).double().mean(1)
    return share.masked_fill(~log_likelihoods.isfinite().all(1), torch.nan)
