"""Where the thoughts of a reasoning model end and its answer begins."""

import math
import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase


# how thoughts begin → how they end, of the model families that write them, as inference servers know them
MARKS = {
    "<think>": "</think>",  # DeepSeek-R1, Qwen 3, GLM, SmolLM3 and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",  # EXAONE Deep
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThinker
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|channel>": "<channel|>",  # Gemma 4
    "<unused94>": "<unused95>",  # MedGemma
    "<|channel|>analysis": "<|channel|>final<|message|>",  # Harmony, of gpt-oss
    "Here is my thought process:": "Here is my response:",  # Granite
    "Here are my reasoning steps:": "[BEGIN FINAL RESPONSE]",  # Apriel
}
# special tokens without which the marks cannot be seen
TOKENS = {*MARKS, *MARKS.values(), "<|channel|>", "<|message|>"}
UNENDED = "thoughts never ended"  # why an answer has no score
# Harmony whose special tokens somebody has left out: the names of its channels run into the text
_BARE_HARMONY = re.compile(r"\s*analysis(?=[A-Z]).*?(?:assistantfinal|$)", re.DOTALL)
_BEGIN = re.compile("|".join(map(re.escape, MARKS)))
_END = re.compile("|".join(map(re.escape, MARKS.values())))


def after_thoughts(said: str) -> str | None:
    """Returns what follows the last end of thoughts, all of an answer without any, and `None` for thoughts that never end."""
    bare = _BARE_HARMONY.match(said)
    if bare is not None:
        return said[bare.end() :] if bare[0].endswith("assistantfinal") else None
    ends = [found.end() for found in _END.finditer(said)]
    spoken = said[ends[-1] :] if ends else said
    return None if _BEGIN.match(spoken.lstrip()) else spoken


def open_thoughts(written: str) -> str:
    """Returns the mark of thoughts that are begun in a text and not ended, as a template writes before the answer; `""` for none."""
    begun = list(_BEGIN.finditer(written))
    if not begun or MARKS[begun[-1][0]] in written[begun[-1].end() :]:
        return ""
    return begun[-1][0]


def decoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Returns answers as text without special tokens, but with those that mark thoughts."""
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not TOKENS & set(special.values()):
        return list(tokenizer.batch_decode(rows, skip_special_tokens=True))
    hidden = {i for i, token in special.items() if token not in TOKENS}
    return list(tokenizer.batch_decode([[i for i in map(int, row) if i not in hidden] for row in rows]))


def scored_after_thoughts(
    score: Callable[[Sequence[str], Sequence[str]], Sequence[float]], requests: Sequence[str], answers: Sequence[str]
) -> list[float]:
    """Returns what a judge gives to each answer after its thoughts; NaN, without asking, for thoughts that never end."""
    spoken = {i: text for i, answer in enumerate(answers) if (text := after_thoughts(answer)) is not None}
    found = score([requests[i] for i in spoken], list(spoken.values())) if spoken else []
    values = [math.nan] * len(answers)
    for i, value in zip(spoken, found, strict=True):
        values[i] = value
    return values
