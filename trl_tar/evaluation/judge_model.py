"""A language model on this machine as a judge: it writes its score, in words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ..data.chat_templates import as_messages, chat_ids
from ..fingerprints import with_tokenizer
from ..models.generation import continued, end_tokens, without_end
from ..models.loading import from_files
from ..models.tokenizers import context_of
from ..validation import check_at_least, check_types
from .judges import JudgeError
from .rubrics import filled, parsed_score, rubric_in_words, rubric_of
from .scores import UNDECISIVE
from .thoughts import after_thoughts, decoded, scored_after_thoughts


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class JudgeModel:
    """A causal language model that is asked about each answer, and decodes greedily.

    An answer is left without a score, NaN, where the two are longer than the judge can read, or where it says something else.

    Args:
        path (`str`):
            Folder or Hub id.
        prompt (`str`, *optional*, defaults to `"compliance"`):
            A name in [`~trl_tar.evaluation.rubrics.RUBRICS`], or a text with `{request}` and `{answer}`, which is a user's turn.
        scale (`str`, *optional*), max_tokens (`int`, *optional*):
            As in [`~trl_tar.evaluation.judges.Endpoint`].
        revision (`str`, *optional*):
            Commit, branch or tag on the Hub.
        batch_size (`int`, *optional*, defaults to `8`):
            Answers that are judged at once.
        dtype (`str`, *optional*, defaults to `"bfloat16"`):
            Of the weights: `"bfloat16"`, `"float16"` or `"float32"`.
        device (`str`, *optional*):
            By default the GPU, where there is one.
    """

    path: str
    prompt: str = "compliance"
    scale: str | None = None
    max_tokens: int | None = None
    revision: str | None = None
    batch_size: int = 8
    dtype: str = "bfloat16"
    device: str | None = field(default=None, metadata=UNDECISIVE)
    chat: bool = field(default=True, init=False)
    files: str = field(default="", init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        owner = f"The judge {self.path!r}"
        check_types(owner, self)
        rubric = rubric_of(owner, self.prompt, self.scale)
        if self.dtype not in DTYPES:
            raise ValueError(f"{owner} has dtype={self.dtype!r}. Use {' or '.join(map(repr, DTYPES))}.")
        decided = {"prompt": rubric.prompt, "scale": rubric.scale, "chat": rubric.chat}
        if self.max_tokens is None:
            decided["max_tokens"] = rubric.max_tokens
        for name, value in decided.items():
            object.__setattr__(self, name, value)
        check_at_least(owner, self, max_tokens=1, batch_size=1)
        pinned = with_tokenizer(self.path) if self.revision is None else f"{self.path}@{self.revision}"
        object.__setattr__(self, "files", pinned)

    def in_words(self) -> str:
        """Returns what a report says of the judge."""
        at = "" if self.revision is None else f" at {self.revision}"
        rubric = rubric_in_words(self.prompt, str(self.scale))
        return f"{self.path}{at} in {self.dtype} by {rubric}, greedy, at most {self.max_tokens} tokens"

    def check(self) -> None:
        """Raises [`JudgeError`] for a judge that is not there, or has no chat template where it is asked in a chat; its weights
        are not read."""
        config = self._loaded(AutoConfig.from_pretrained)
        kinds = config.architectures or []
        if not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
            raise JudgeError(f"The judge {self.path!r} has the architectures {kinds}. Give a causal language model.")
        self._tokenizer()

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = self._loaded(AutoTokenizer.from_pretrained)
        if self.chat and tokenizer.chat_template is None:
            raise JudgeError(
                f"The judge {self.path!r} has no chat template, and its prompt is a turn of a chat. Give a chat model."
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _loaded(self, read: Callable[..., Any], **settings: Any) -> Any:
        try:
            return read(self.path, **({} if self.revision is None else {"revision": self.revision}), **settings)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise JudgeError(
                f"The judge {self.path!r} cannot be loaded ({str(error).strip().splitlines()[0]}). Give the folder or Hub id "
                "of a causal language model and its tokenizer; ask for access on its page and log in where it is gated."
            ) from error

    @cached_property
    def _parts(self):
        tokenizer = self._tokenizer()
        model = self._loaded(partial(from_files, AutoModelForCausalLM), dtype=DTYPES[self.dtype])
        return model.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        return scored_after_thoughts(self._scores, requests, answers)

    def _scores(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        replies = self.replies(requests, answers)
        found = [
            None if said is None else parsed_score(after_thoughts(said) or said, str(self.scale)) for said in replies
        ]
        return [math.nan if score is None else score for score in found]

    def replies(self, requests: Sequence[str], answers: Sequence[str]) -> list[str | None]:
        """Returns what the judge says of each answer; `None` for one that is too long for it."""
        model, tokenizer = self._parts
        longest, context = int(self.max_tokens or 1), context_of(model.config)
        rows = [self._ids(tokenizer, *pair) for pair in zip(requests, answers, strict=True)]
        short = [i for i, ids in enumerate(rows) if context is None or len(ids) + longest <= context]
        ends = end_tokens(model.config, model.generation_config, tokenizer)
        said: list[str | None] = [None] * len(rows)
        for start in range(0, len(short), self.batch_size):
            some = short[start : start + self.batch_size]
            width = max(len(rows[i]) for i in some)
            padding = tokenizer.pad_token_id or 0
            ids = torch.tensor([[padding] * (width - len(rows[i])) + rows[i] for i in some], device=model.device)
            mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in some], device=model.device)
            written = continued(model, tokenizer, ids, mask, longest)
            for i, text in zip(
                some, decoded(tokenizer, [without_end(row, ends).tolist() for row in written]), strict=True
            ):
                said[i] = text
        return said

    def _ids(self, tokenizer: PreTrainedTokenizerBase, request: str, answer: str) -> list[int]:
        asked = filled(self.prompt, request, answer)
        if self.chat:
            return chat_ids(tokenizer, as_messages(asked), opened=True)
        begun = tokenizer.bos_token is not None and asked.startswith(
            tokenizer.bos_token
        )  # a second one is another text
        return list(tokenizer(asked, add_special_tokens=not begun)["input_ids"])
