"""Honest users in the simulation: what they learn, what they are to keep, and the loss that says so."""

import random
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from torch import nn

from ..adversaries.adversary import Adversary
from ..adversaries.data_order import draw_rows
from ..distributed.gradients import Batch
from ..losses import kl_divergence_loss, language_modeling_loss
from ..models.forward_passes import labelled_logits
from ..simulation.attacker_pool import Attacker
from ..simulation.batches import Batches
from .outer_gradient import OuterTerm
from .reference import Reference
from .tar_config import TARConfig


TASK = "task"  # column that says which rows belong together
HELD_OUT = 4  # one row of so many is held out for the outer loss: our choice
Tasks = dict[str | int | None, list[dict]]


class HonestUsers:
    """The tasks of benign adversaries, and the outer loss: CE(held-out rows of the task) and T² KL(reference ‖ θ_k) on D_retain.

    Each attack of a benign adversary draws one task of its data set, and trains on the rows that are not held out. A data set
    without a column `task` is one task.

    Args:
        adversaries (`Sequence[Adversary]`):
            A_train, of which those with role `"benign"` are read.
        rows (`Mapping[str, list[dict]]`):
            The tokenised rows of each data set.
        retain ([`~datasets.Dataset`]):
            D_retain, tokenised.
        batches ([`Batches`]):
            Collates rows.
        reference ([`Reference`]):
            Says what is kept.
        args ([`TARConfig`]):
            Weight of the loss, sizes of its batches, and the seed by which rows are held out.

    Raises:
        `ValueError`: where a task has fewer rows than a batch takes.
    """

    def __init__(
        self,
        adversaries: Sequence[Adversary],
        rows: Mapping[str, list[dict]],
        retain: Dataset,
        batches: Batches,
        reference: Reference,
        args: TARConfig,
    ):
        self._retain, self._batches, self._reference, self._args = retain, batches, reference, args
        benign = [a for a in adversaries if a.role == "benign"]
        self._trained_on: dict[str, Tasks] = {}
        self._held_out: dict[str, Tasks] = {}
        for name in {name: None for a in benign for name in a.datasets}:
            self._trained_on[name], self._held_out[name] = _split(rows[name], f"{args.seed} held-out {name}")
        for adversary in benign:
            _check_tasks(adversary, self._trained_on[adversary.datasets[0]])

    def rows(self, attacker: Attacker) -> dict[str, list[dict]]:
        """The rows that the attacker trains on, under the name of its data set."""
        (name,) = attacker.adversary.datasets
        return {name: self._trained_on[name][self._task(attacker)]}

    def terms(self, attacker: Attacker, seed: str) -> list[OuterTerm]:
        """The outer loss of a visit, on rows drawn by the seed. The model has to be at θ."""
        (name,) = attacker.adversary.datasets
        held_out = self._held_out[name][self._task(attacker)]
        learned = self._drawn(len(held_out), f"{seed} learned")
        kept = self._drawn(len(self._retain), f"{seed} kept")
        learned_batches = self._micro_batches([held_out[i] for i in learned])
        kept_batches = self._micro_batches(self._retain.select(kept).select_columns(["input_ids", "labels"]).to_list())
        for batch in kept_batches:
            _, logits = self._reference.outputs(batch, hidden_states=False, logits=True)
            assert logits is not None
            batch["reference_logits"] = logits
        return [
            OuterTerm("benign_loss/learned", self._args.benign_weight, learned_batches, _learned),
            OuterTerm("benign_loss/kept", self._args.benign_kl_weight, kept_batches, self._kept),
        ]

    def _kept(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = labelled_logits(model, batch)
        return kl_divergence_loss(logits, batch["reference_logits"], labels, self._args.kl_temperature)

    def _drawn(self, size: int, seed: str) -> list[int]:
        return draw_rows(size, min(size, self._args.tamper_resistance_batch_size), seed)

    def _micro_batches(self, rows: list[dict]) -> list[Batch]:
        return self._batches.micro_batches(rows, "sft", self._args.tamper_resistance_micro_batch_size)

    def _task(self, attacker: Attacker) -> str | int | None:
        tasks = self._trained_on[attacker.adversary.datasets[0]]
        return random.Random(f"{attacker.seed} task").choice(list(tasks))


def _split(rows: list[dict], seed: str) -> tuple[Tasks, Tasks]:
    """The rows of each task, in the order of the tasks' names: those that are trained on, and those held out."""
    tasks: Tasks = {}
    for row in rows:
        tasks.setdefault(row.get(TASK), []).append(row)
    trained_on, held_out = {}, {}
    for task in sorted(tasks, key=str):
        order = random.Random(f"{seed} {task}").sample(tasks[task], len(tasks[task]))
        count = max(1, len(order) // HELD_OUT)
        held_out[task], trained_on[task] = order[:count], order[count:]
    return trained_on, held_out


def _check_tasks(adversary: Adversary, trained_on: Tasks) -> None:
    for task, rows in trained_on.items():
        if len(rows) < adversary.batch_size:
            raise ValueError(
                f"Adversary {adversary.name!r} takes {adversary.batch_size} rows in each batch, and task {task!r} of "
                f"{adversary.dataset!r} has {len(rows)} in addition to those held out. Lower its batch_size or give more rows."
            )


def _learned(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return language_modeling_loss(*labelled_logits(model, batch))
