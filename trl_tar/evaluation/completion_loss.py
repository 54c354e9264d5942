"""Cross-entropy of given answers: what capability by choice does not see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .likelihoods import log_likelihoods
from .lines import sha256_of
from .scores import Scores


@dataclass(frozen=True)
class CompletionLoss:
    """Cross-entropy of completions after their prompts, in nats a token, one score a row.

    Args:
        rows (`Sequence[dict]`):
            Each `prompt` and `completion` (`str`), as in TRL's prompt-completion type.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows in a forward pass.
    """

    rows: Sequence[Mapping[str, str]] = field(repr=False)
    batch_size: int = 8
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        object.__setattr__(self, "sha256", sha256_of(self.rows))

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        values: list[float] = []
        for start in range(0, len(self.rows), self.batch_size):
            pairs = [(row["prompt"], row["completion"]) for row in self.rows[start : start + self.batch_size]]
            lengths = [len(tokenizer(a + b)["input_ids"]) - len(tokenizer(a)["input_ids"]) for a, b in pairs]
            found = log_likelihoods(model, tokenizer, pairs).tolist()
            values += [-each / max(length, 1) for each, length in zip(found, lengths, strict=True)]
        return Scores(values)
