"""Cross-entropy of given answers, which sees what capability by choice does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import read_lines
from ..fingerprints import sha256_of
from .likelihoods import check_lengths, log_likelihoods
from .scores import DescribedMetric, Scores


@dataclass(frozen=True)
class CompletionLoss(DescribedMetric):
    """Cross-entropy of completions after their prompts, in nats a token, one score a row.

    Args:
        rows (`Sequence[dict]`):
            Each `prompt` and `completion` (`str`), as in TRL's prompt-completion type.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows in a forward pass.
    """

    yaml_key = "completions"
    yaml_words = "`completions`, a file"

    rows: Sequence[Mapping[str, str]] = field(repr=False)
    batch_size: int = 8
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        for i, row in enumerate(self.rows):
            values = [row.get(name) if isinstance(row, Mapping) else None for name in ("prompt", "completion")]
            if not all(isinstance(value, str) for value in values) or not values[1]:
                raise ValueError(f"Row {i} is {row!r}. Give a prompt and a completion that is not empty.")
        object.__setattr__(self, "sha256", sha256_of(self.rows))

    @classmethod
    def from_file(cls, path: str | Path, **settings) -> "CompletionLoss":
        """Reads one JSON object a line; `ValueError` for a file that is not made of such lines."""
        return cls(read_lines(path, "Rows"), **settings)

    @classmethod
    def from_fields(cls, name: str, fields: dict[str, Any], folder: Path) -> "CompletionLoss":
        return cls.from_file(folder / str(fields.pop("completions")), **fields)

    def question_texts(self) -> list[str]:
        return [row["completion"] for row in self.rows]

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for a row that is longer than the context."""
        check_lengths(tokenizer, [(row["prompt"], row["completion"]) for row in self.rows], context)

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        values: list[float] = []
        for start in range(0, len(self.rows), self.batch_size):
            pairs = [(row["prompt"], row["completion"]) for row in self.rows[start : start + self.batch_size]]
            lengths = [len(tokenizer(a + b)["input_ids"]) - len(tokenizer(a)["input_ids"]) for a, b in pairs]
            found = log_likelihoods(model, tokenizer, pairs).tolist()
            values += [-each / max(length, 1) for each, length in zip(found, lengths, strict=True)]
        return Scores(values)
