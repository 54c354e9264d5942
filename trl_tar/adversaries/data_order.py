"""The rows that an attack sees, and their order."""

import random
from collections.abc import Iterator, Mapping, Sequence, Sized

from .adversary import Adversary


Rows = list[tuple[str, int]]  # (name of the data set, index of the row)


def draw_batches(adversary: Adversary, sizes: Mapping[str, int], seed: int | str) -> Iterator[Rows]:
    """Draws the rows of each of the attack's `num_steps` batches, over all devices, as `(data set, index)` pairs.

    Rows are drawn without replacement: each data set is shuffled, and shuffled again when what is left does not fill its
    part of a batch. Training and red team both call this, so the same seed means the same data order.

    Args:
        adversary ([`Adversary`]):
            The attack.
        sizes (`dict[str, int]`):
            Number of rows of each data set.
        seed (`int` or `str`):
            Seed of the data order (and of the switch point).

    Yields:
        `list[tuple[str, int]]`: the rows of one batch, `batch_size` of them; for GRPO, its prompts.
    """
    rng = random.Random(f"{seed}")
    switch, first = 0, adversary.first_dataset
    if first is not None:
        share = rng.betavariate(6, 3) if adversary.switch_at == "beta" else adversary.switch_at
        switch = int(adversary.num_steps * share)
    left: dict[str, list[int]] = {name: [] for name in adversary.datasets}
    for step in range(adversary.num_steps):
        counts = adversary.rows_per_batch() if first is None or step >= switch else {first: adversary.batch_size}
        batch = []
        for name, count in counts.items():
            if len(left[name]) < count:
                left[name] = list(range(sizes[name]))
                rng.shuffle(left[name])
            batch += [(name, left[name].pop()) for _ in range(count)]
        yield batch


def check_adversary_batches(adversaries: Sequence[Adversary], rows: Mapping[str, Sized]) -> None:
    """Raises `ValueError` where a data set has fewer rows, best counted once tokenised, than a batch takes."""
    for adversary in adversaries:
        counts = adversary.rows_per_batch()
        if adversary.first_dataset is not None:
            counts = {**counts, adversary.first_dataset: adversary.batch_size}
        for name, count in counts.items():
            size = len(rows[name])
            if size < count:
                raise ValueError(
                    f"Adversary {adversary.name!r} takes {count} rows of {name!r} in each batch, and the data set has "
                    f"{size}. Lower its batch_size or give more rows."
                )


def draw_rows(size: int, count: int, seed: str) -> list[int]:
    """Draws `count` different row numbers below `size`, for a seed."""
    return random.Random(seed).sample(range(size), count)
