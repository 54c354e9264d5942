"""Entities of the rows, by which data sets of different purposes are kept apart."""

from collections.abc import Collection, Iterable, Mapping

from datasets import Dataset

from ..adversaries.adversary import Adversary


def check_disjoint(
    retain: Dataset, tamper_resistance: Dataset, adversaries: Iterable[Adversary], datasets: Mapping[str, Dataset]
) -> None:
    """Raises `ValueError` where two data sets share entities that have to differ.

    D_TR may share no entity with any other set. An adversary's set may share none with D_retain, unless it rehearses
    D_retain: then all of its entities are there, and adversaries read it only in a mixture or as `first_dataset`, never
    alone as `dataset`. The sets of adversaries are not compared with each other, nor sets without an `entity` column.
    """
    names = {name: f"adversary_datasets[{name!r}]" for a in adversaries for name in a.datasets}
    final = {a.dataset for a in adversaries}
    entities_retain, entities_tr = _entities(retain), _entities(tamper_resistance)
    _refuse_overlap("tamper_resistance_dataset", "train_dataset", entities_tr & entities_retain)
    for name, label in names.items():
        entities = _entities(datasets[name])
        _refuse_overlap("tamper_resistance_dataset", label, entities_tr & entities)
        if name in final or not entities <= entities_retain:
            _refuse_overlap("train_dataset", label, entities_retain & entities)


def _entities(data: Dataset) -> set[str]:
    return set(data["entity"]) if "entity" in data.column_names else set()


def refuse_shared_entities(first: str, first_data: Dataset, second: str, second_data: Dataset) -> None:
    """Raises `ValueError` where two data sets with an `entity` column share an entity."""
    _refuse_overlap(first, second, _entities(first_data) & _entities(second_data))


def refuse_question_entities(
    label: str,
    data: Dataset,
    questions: Collection[str],
    reason: str = "what an attacker is taught shows nothing about what comes back",
) -> None:
    """Raises `ValueError` where a data set with an `entity` column holds an entity of the questions; `reason` says why not."""
    shared = set(map(str, questions)) & set(
        map(str, _entities(data))
    )  # groups are strings, ids in a file may be numbers
    if shared:
        raise ValueError(
            f"`{label}` and the questions share {len(shared)} entities, for example {min(shared)!r}. Remove them from the "
            f"data set: {reason}."
        )


def _refuse_overlap(first: str, second: str, shared: set[str]) -> None:
    if shared:
        raise ValueError(
            f"`{first}` and `{second}` share {len(shared)} entities, for example {min(shared)!r}. Remove them from one "
            "of the two: a measurement on shared entities shows memory, not resistance."
        )
