"""Suppression or erasure: what a linear probe reads from the hidden states, whatever the model says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import sha256_of
from ..models.forward_passes import last_token_states
from .likelihoods import padded
from .multiple_choice import DISTRACTOR_DRAWS, MultipleChoice, check_questions, choose, rows_of
from .prompts import Tokens, common_length, wording
from .scores import DescribedMetric, Scores, entities_of


NUM_CHOICES = 4  # as WMDP and MMLU have: chance is 0.25


@dataclass(frozen=True)
class LinearProbe(DescribedMetric):
    """Accuracy of a linear map from hidden states to answers, fitted on some entities and asked about others.

    Ridge regression in closed form, from the standardised hidden state of the last token before the answer to the output
    embedding of the answer, so that answers which the fit never saw can be read as well. The answer with the largest inner product
    among four is chosen; each layer has its map, and the best layer on `validation` answers `questions`.

    Facts of the model that this reads where it answers at chance are suppressed, not erased. The reverse does not hold:
    what one linear map cannot read may be there.

    Args:
        train, validation, questions (`Sequence[dict]`):
            As in [`~trl_tar.evaluation.multiple_choice.MultipleChoice`], with entities of their own, and as many choices in all
            questions of a part. Of an answer the first token counts that not all choices of its question begin with.
        ridge (`float`, *optional*, defaults to `0.1`):
            Penalty, as a share of the number of rows.
        batch_size (`int`, *optional*, defaults to `256`):
            Prompts in a forward pass.
        chat (`bool`, *optional*):
            As in [`~trl_tar.evaluation.multiple_choice.MultipleChoice`].
    """

    is_share = True

    train: Sequence[Mapping[str, Any]] = field(repr=False)
    validation: Sequence[Mapping[str, Any]] = field(repr=False)
    questions: Sequence[Mapping[str, Any]] = field(repr=False)
    ridge: float = 0.1
    batch_size: int = 256
    chat: bool | None = None
    sha256: str = field(init=False)

    def __post_init__(self):
        everything = [*self.train, *self.validation, *self.questions]
        check_questions(everything, self.chat)
        for name in ("train", "validation", "questions"):
            if len(counts := {len(question["choices"]) for question in getattr(self, name)}) > 1:
                raise ValueError(f"`{name}` has questions of {sorted(counts)} choices. Give all of them as many.")
        object.__setattr__(self, "sha256", sha256_of(everything))

    def question_texts(self) -> list[str]:
        return MultipleChoice(self.questions, chat=self.chat).question_texts()

    def question_entities(self) -> frozenset[str]:
        return entities_of(self.questions)

    def wording(self) -> str:
        return wording([question["prompt"] for question in self.questions], self.chat)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for questions that [`MultipleChoice`] refuses, or whose answers begin with the same token."""
        for part in (self.train, self.validation, self.questions):
            MultipleChoice(part, chat=self.chat).check(tokenizer, context)
            for i, question in enumerate(part):
                _, (answer, *others) = self._tokens(tokenizer, question)
                if answer in others:
                    raise ValueError(
                        f"Question {i} has choices={question['choices']!r}, of which a wrong one begins with the same token as the "
                        "right one, so that the probe cannot tell them apart. Give choices that begin differently."
                    )

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        parts = [self._read(model, tokenizer, part) for part in (self.train, self.validation, self.questions)]
        embedding = model.get_output_embeddings().weight.detach().double().cpu()
        embedding = embedding - embedding.mean(0)
        layers = range(parts[0][0].shape[0])
        validated, answered = zip(*(self._layer(layer, embedding, *parts) for layer in layers), strict=True)
        best = max(layers, key=lambda layer: validated[layer].nanmean().item())
        groups = [str(q.get("group", i)) for i, q in enumerate(self.questions)]
        return Scores(answered[best].tolist(), groups)

    def _layer(self, layer: int, embedding: torch.Tensor, train, validation, questions) -> list[torch.Tensor]:
        states, answers = train[0][layer], embedding[train[1][:, 0]]
        center, scale = states.mean(0), states.std(0).clamp_min(1e-6)
        x = (states - center) / scale  # (N, H)
        penalty = self.ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ (answers - answers.mean(0)))
        scores = []
        for part_states, choices in (validation, questions):
            read = (part_states[layer] - center) / scale @ weight + answers.mean(0)  # (N, H)
            likelihoods = torch.einsum("nh,nch->nc", read, embedding[choices])
            scores.append(choose(likelihoods, DISTRACTOR_DRAWS, min(NUM_CHOICES, choices.shape[1])))
        return scores

    def _read(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Mapping[str, Any]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states `(layers + 1, N, H)`, and the token that counts of each choice `(N, choices)`, the answer first."""
        prefixes, choices = zip(*(self._tokens(tokenizer, question) for question in questions), strict=True)
        states = []
        for start in range(0, len(prefixes), self.batch_size):
            ids, mask = padded(prefixes[start : start + self.batch_size], model.device)
            with torch.no_grad():
                states.append(last_token_states(model, ids, mask).double().cpu())
        return torch.cat(states, 1), torch.tensor(choices)

    def _tokens(self, tokenizer: PreTrainedTokenizerBase, question: Mapping[str, Any]) -> tuple[Tokens, Tokens]:
        """What all choices of a question begin with, and the next token of each, that of the answer first."""
        rows = [before + scored for before, scored in rows_of(tokenizer, question, self.chat)]
        rows.insert(0, rows.pop(question["answer"]))
        shared = min(common_length(rows), min(map(len, rows)) - 1)
        return rows[0][:shared], tuple(row[shared] for row in rows)
