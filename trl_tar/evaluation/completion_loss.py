"""Cross-entropy of given answers, which sees what capability by choice does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import read_lines
from ..fingerprints import sha256_of
from ..validation import check_at_least, shortened
from .likelihoods import likelihoods_of_tokens
from .prompts import (
    Messages,
    Prompt,
    answer_in_turn,
    asked,
    check_chat,
    check_texts,
    check_tokens,
    is_prompt,
    options_of,
    said_after,
    tokens_of,
    wording,
)
from .scores import DescribedMetric, Scores


@dataclass(frozen=True)
class CompletionLoss(DescribedMetric):
    """Cross-entropy of completions after their prompts, in nats a token, one score a row.

    The mean is over the tokens that are scored: those of the completion, with any of the prompt that merge into it, and what
    the tokenizer or the chat template writes after it.

    Args:
        rows (`Sequence[dict]`):
            Each `prompt` and `completion`, as in TRL's prompt-completion type: text, or messages, which go through the chat
            template.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows in a forward pass.
        chat (`bool`, *optional*):
            `True` asks a plain prompt as a user's turn; `False` says that plain text is meant, also where attacks train on chats.
    """

    yaml_key = "completions"
    yaml_words = "`completions`, a file"

    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    batch_size: int = 8
    chat: bool | None = None
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        check_at_least("CompletionLoss", self, batch_size=1)
        for i, row in enumerate(self.rows):
            found = [row.get(name) if isinstance(row, Mapping) else None for name in ("prompt", "completion")]
            if not all(map(is_prompt, found)) or not answer_in_turn(*found, self.chat):
                raise ValueError(f"Row {i} is {shortened(row)}. Give a prompt and a completion that is not empty.")
        prompts = [row["prompt"] for row in self.rows]
        for name in ("prompt", "completion"):
            check_texts("Row", [row[name] for row in self.rows])
        check_chat("Row", prompts, self.chat)
        odd = [
            i
            for i, row in enumerate(self.rows)
            if isinstance(row["prompt"], str) and not isinstance(row["completion"], str)
        ]
        if odd:
            raise ValueError(f"Row {odd[0]} has a plain prompt and messages after it. Give messages in both.")
        object.__setattr__(self, "sha256", sha256_of(self.rows))

    @classmethod
    def from_file(cls, path: str | Path, **settings) -> "CompletionLoss":
        """Reads one JSON object a line; `ValueError` for a file that is not made of such lines."""
        return cls(read_lines(path, "Rows"), **settings)

    @classmethod
    def from_fields(cls, name: str, fields: dict[str, Any], folder: Path) -> "CompletionLoss":
        return cls.from_file(folder / str(fields.pop("completions")), **fields)

    def higher_is_better(self) -> bool:
        return False

    def question_texts(self) -> list[str]:
        return [said_after(row["prompt"], row["completion"]) for row in self.rows]

    def wording(self) -> str:
        return wording([row["prompt"] for row in self.rows], self.chat)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for a row that the chat template refuses, is longer than the context, or has no token to score."""
        rows = ((i, *self._asked(row), options_of(row)) for i, row in enumerate(self.rows))
        check_tokens(tokenizer, "Row", rows, context)

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        rows = [tokens_of(tokenizer, *self._asked(row), **options_of(row)) for row in self.rows]
        values: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            found = likelihoods_of_tokens(model, some).tolist()
            values += [-each / len(scored) for each, (_, scored) in zip(found, some, strict=True)]
        return Scores(values)

    def _asked(self, row: Mapping[str, Any]) -> tuple[Prompt, str | Messages]:
        return asked(row["prompt"], self.chat), answer_in_turn(row["prompt"], row["completion"], self.chat)
