"""One attack of one model, by TRL's own trainers."""

from collections.abc import Mapping, Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversaries.adversary import Adversary
from ..adversaries.diverged import AttackDiverged
from ..evaluation.scores import Evaluate, Reward
from ..report.records import AttackRecord, attack_record
from .abliteration_search import Judge
from .attack_rows import attack_rows, tokenised_datasets
from .custom_attacks import run_custom
from .trl_attackers import AttackedModel, Progress, check_finite, rng_as_found, train
from .weight_edits import edit_weights


def run_attack(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    datasets: Mapping[str, Dataset],
    seed: int,
    evaluate: Evaluate,
    *,
    evaluation_steps: Sequence[int] | None = None,
    max_length: int = 256,
    bf16: bool = False,
    base: PreTrainedModel | None = None,
    rewards: Mapping[str, Reward] | None = None,
    judge: Judge | None = None,
) -> AttackRecord:
    """Attacks `model` in place: an edit of its weights, and training by TRL's `SFTTrainer`, `DPOTrainer` or `GRPOTrainer`, or by
    code from outside the package.

    An adapter is merged at the end; a soft prompt leaves the weights as they were. An attack that `adversary.after` names
    is made first and not evaluated: step 0 is what it left.

    Data order, optimizer and schedule are those of the simulated attack: with the same seed both reach the same weights.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model; it is changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        adversary ([`Adversary`]):
            The attack.
        datasets (`dict[str, Dataset]`):
            The data sets that the adversary names, raw or from [`tokenised_datasets`].
        seed (`int`):
            Seed of data order, adapter and dropout.
        evaluate (`Callable`):
            Model → value of each metric. It sees the model in evaluation mode, a Schedule-Free one at its averaged point.
        evaluation_steps (`Sequence[int]`, *optional*):
            Steps after which to evaluate; [`default_evaluation_steps`] by default.
        max_length (`int`, *optional*, defaults to `256`):
            Longest row in tokens.
        bf16 (`bool`, *optional*, defaults to `False`):
            bf16 autocast.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The public base, for an attack that reads it.
        rewards (`dict[str, Callable]`, *optional*):
            Reward functions of GRPO, as [`~trl.GRPOTrainer`] takes them.
        judge (`Callable`, *optional*):
            Model → harm on questions that no report counts, for an attack that searches.

    Returns:
        [`AttackRecord`]: with status `"completed"` or `"diverged"`.
    """
    steps = default_evaluation_steps(adversary.num_steps) if evaluation_steps is None else evaluation_steps
    progress = Progress(evaluate, frozenset(steps), model.num_parameters())
    with rng_as_found():
        try:
            tokenised = tokenised_datasets(model, tokenizer, adversary, datasets, max_length)
            attacked = AttackedModel(model, tokenizer, tokenised, seed, bf16, base, rewards or {})
            _attack(attacked, adversary, progress, judge)
        except AttackDiverged as error:
            return attack_record(adversary.name, seed, progress.trajectory, "diverged", str(error))
    return attack_record(adversary.name, seed, progress.trajectory)


def _attack(attacked: AttackedModel, adversary: Adversary, progress: Progress, judge: Judge | None) -> None:
    if adversary.after is not None:
        unseen = Progress(progress.evaluate, frozenset(), progress.num_parameters)
        _attack(attacked, adversary.after, unseen, judge)
        progress.tokens = unseen.tokens
    if adversary.edit is not None:
        edit_weights(attacked.model, adversary, attacked.seed, attacked.base, attacked.tokenised, judge)
    if adversary.custom is not None:
        run_custom(attacked, adversary, progress)
        return
    if adversary.num_steps > 0:
        train(attacked, adversary, attack_rows(adversary, attacked.tokenised, attacked.seed), progress)
        return
    check_finite(attacked.model, 0)
    if 0 in progress.steps:
        progress.measure(attacked.model, 0)


def default_evaluation_steps(num_steps: int) -> list[int]:
    """Returns 0, 1, 2, 5, 10, 20, 50, then every 50th step, and the last one: dense where a short attack breaks a model."""
    regular = [0, 1, 2, 5, 10, 20, *range(50, num_steps + 1, 50)]
    return sorted({step for step in regular if step <= num_steps} | {num_steps})
