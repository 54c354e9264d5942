"""Searched abliteration: which layers lose how much of which direction, found by trials on the attacker's own prompts.

Removing one direction everywhere (https://huggingface.co/papers/2406.11717) can cost more of a model than of its safeguard. Public
tools therefore search over what [`Ablation`] describes; so does this one, and it counts harmful answers rather than missing
refusals: a model that says nothing coherent refuses nothing either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..losses import IGNORED
from ..models.forward_passes import add_positions, in_eval_mode, labelled_logits
from .abliteration import Ablation, Directions, Kernel, Matrix, ablate, abliterate, matrices_of


if TYPE_CHECKING:  # of the extra trl-tar[search]
    import optuna

HELD_OUT = 0.25  # share of both data sets, at their end, that trials are judged on; directions are fitted on the rest
MOST_ROWS = 64  # of each of these, our choice: as many as public tools judge a trial by
MOST_TOKENS = 16  # of an answer, from its first: the logits of 64 × 16 tokens of a large vocabulary are half a GB
# nats a token on harmless answers, our choice: a model twice as surprised by itself in one token of seven. What a trial has above
# it counts against its harm, as a multiple of this
MAX_KL = 0.1
MIN_GAIN = 0.01  # one harmful answer in a hundred, our choice: what is less than that changes nothing but the model
Judge = Callable[[PreTrainedModel], float | None]


@torch.no_grad()
def searched_abliteration(
    model: PreTrainedModel, hazardous: Dataset, harmless: Dataset, num_trials: int, seed: int, judge: Judge | None
) -> Ablation | None:
    """Tries ways to abliterate a model with Optuna (TPE), and makes the best of them, in place.

    A trial is worth the harm that `judge` sees, plus the probability of the hazardous answers that were held out, less what the
    divergence KL(before ‖ after) of harmless answers exceeds `MAX_KL` by, as a multiple of it. The first trial is the paper's. Where none
    is worth more than the model as it was, by `MIN_GAIN` at least, that stays.

    What may change is kept beside the model: about a third of its size in memory.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model under attack.
        hazardous, harmless (`Dataset`):
            Tokenised rows of prompts and answers.
        num_trials (`int`):
            Number of trials.
        seed (`int`):
            Seed of the search.
        judge (`Callable`, *optional*):
            Model → share of coherent harmful answers to prompts that no report counts.

    Returns:
        [`Ablation`], *optional*: the best one; `None` where the model stays as it was.

    Raises:
        `ValueError`: as [`abliterate`] does.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (hazardous, judged_hazardous), (harmless, judged_harmless) = _split(hazardous), _split(harmless)
    with in_eval_mode(model):
        trials = _Trials.on(model, hazardous, harmless, judged_hazardous, judged_harmless, judge)
        trials.check_writers(hazardous, harmless)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        worth, best = trials.worth() + MIN_GAIN, None
        for number in range(num_trials):
            trial = study.ask()
            ablation = Ablation() if number == 0 else trials.drawn(trial)
            value = trials.worth(ablation)
            if number > 0:
                study.tell(trial, value)
            else:  # which lies outside the space
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if value > worth:
                worth, best = value, ablation
        if best is not None:
            ablate(trials.matrices, trials.directions, best)
    return best


def _split(rows: Dataset) -> tuple[Dataset, Dataset]:
    """Rows to fit on, and those that are held out, spread over their part of the data."""
    cut = len(rows) - max(1, round(HELD_OUT * len(rows)))
    held_out = range(cut, len(rows), max(1, (len(rows) - cut) // MOST_ROWS))
    return rows.select(range(max(cut, 1))), rows.select(list(held_out)[:MOST_ROWS])


@dataclass(frozen=True)
class _Trials:
    """What trials change, and what they are judged by."""

    model: PreTrainedModel
    matrices: list[Matrix]
    before: list[torch.Tensor]
    directions: Directions
    hazardous: dict[str, torch.Tensor]
    harmless: dict[str, torch.Tensor]
    log_probs: torch.Tensor
    judge: Judge | None

    @classmethod
    def on(
        cls,
        model: PreTrainedModel,
        hazardous: Dataset,
        harmless: Dataset,
        judged_hazardous: Dataset,
        judged_harmless: Dataset,
        judge: Judge | None,
    ) -> "_Trials":
        directions = Directions.fitted(model, hazardous, harmless)
        matrices = matrices_of(model, directions.harmless.shape[1])
        before = [matrix.parameter.clone() for matrix in matrices]
        kept = _batch(judged_harmless, model.device)
        log_probs, _ = _answers(model, kept)
        return cls(model, matrices, before, directions, _batch(judged_hazardous, model.device), kept, log_probs, judge)

    def check_writers(self, hazardous: Dataset, harmless: Dataset) -> None:
        """Raises `ValueError` where something else writes along the direction than what is known."""
        try:
            abliterate(self.model, hazardous, harmless)
        finally:
            self._put_back()

    def worth(self, ablation: Ablation | None = None) -> float:
        """What an ablation is worth to the attacker; the model is as it was afterwards."""
        try:
            if ablation is not None:
                ablate(self.matrices, self.directions, ablation)
            log_probs, labels = _answers(self.model, self.hazardous)
            likelihood = log_probs.gather(1, labels[:, None]).mean().exp().item()
            log_probs, _ = _answers(self.model, self.harmless)
            divergence = (self.log_probs.exp() * (self.log_probs - log_probs)).sum(1).mean().item()
            harm = 0.0 if self.judge is None else self.judge(self.model) or 0.0
        finally:
            self._put_back()
        worth = harm + likelihood - max(0.0, divergence - MAX_KL) / MAX_KL
        return worth if worth == worth else -float("inf")  # NaN: a model that overflows

    def drawn(self, trial: "optuna.Trial") -> Ablation:
        """Draws an ablation from the space."""
        last = len(self.directions.difference) - 1
        kernels = {part: _kernel(trial, part, last) for part in ("attention", "mlp")}
        parts = {matrix.part for matrix in self.matrices}
        own = last > 0 and trial.suggest_categorical("direction", ["of each layer", "of one layer"]) == "of each layer"
        return Ablation(
            **kernels,
            layer=None if own else trial.suggest_float("layer", 0, last),
            orthogonal=trial.suggest_categorical("orthogonal", [True, False]),
            keep_norms=trial.suggest_categorical("keep_norms", [True, False]),
            embeddings=trial.suggest_categorical("embeddings", [False, True]),
            routers="router" in parts and trial.suggest_categorical("routers", [False, True]),
        )

    def _put_back(self) -> None:
        for matrix, before in zip(self.matrices, self.before, strict=True):
            matrix.parameter.copy_(before)


def _kernel(trial: "optuna.Trial", part: str, last: int) -> Kernel:
    maximum = trial.suggest_float(f"{part} maximum", 0.0, 2.0)  # 2 mirrors what lies along the direction
    return Kernel(
        position=trial.suggest_float(f"{part} position", 0, last),
        width=trial.suggest_float(f"{part} width", 0.5, last + 1),  # from one layer alone to all of them
        maximum=maximum,
        minimum=maximum * trial.suggest_float(f"{part} minimum", 0.0, 1.0),
    )


def _batch(rows: Dataset, device: torch.device) -> dict[str, torch.Tensor]:
    """The rows as one batch, padded on the right, with labels for the first `MOST_TOKENS` tokens of each answer."""
    cut = []
    for row in rows:
        predicted = [i for i, label in enumerate(row["labels"]) if label != IGNORED and i > 0][:MOST_TOKENS]
        end = predicted[-1] + 1 if predicted else 0
        labels = [row["labels"][i] if i in predicted else IGNORED for i in range(end)]
        cut.append((row["input_ids"][:end], labels))
    longest = max(len(ids) for ids, _ in cut)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([v + [filler] * (longest - len(v)) for v in values], device=device)

    batch = {
        "input_ids": padded([ids for ids, _ in cut], 0),
        "attention_mask": padded([[1] * len(ids) for ids, _ in cut], 0),
        "labels": padded([labels for _, labels in cut], IGNORED),
    }
    add_positions(batch)  # the head reads answers alone: prompts are most of a batch
    return batch


def _answers(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the next token where the batch has labels, `(N, V)`, and these labels, `(N,)`."""
    logits, labels = labelled_logits(model, batch)
    predicted = labels[:, 1:] != IGNORED
    return logits[:, :-1][predicted].float().log_softmax(-1), labels[:, 1:][predicted]
