"""Judges as YAML names them: by one word, or by the fields of their class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .judge_model import JudgeModel
from .judges import Classifier, Endpoint, Judge, RefusalPhrases


@dataclass(frozen=True)
class ReadyJudge:
    """A public model that grades answers.

    Args:
        fields (`dict`):
            Of [`JudgeModel`].
        counts (`str`):
            What has score 1, in words.
        license (`str`):
            As the Hub names it.
        gated (`bool`, *optional*, defaults to `False`):
            Whether access has to be asked for.
    """

    fields: Mapping[str, Any]
    counts: str
    license: str
    gated: bool = False


_WILDGUARD = {"path": "allenai/wildguard", "revision": "cbba4823f3e8020e5a74a5e29bf85072def6f2ff"}
READY_JUDGES = {
    "harmbench": ReadyJudge(
        {
            "path": "cais/HarmBench-Llama-2-13b-cls",
            "revision": "bda705349d1144fa618770bea64d99ce54e3835b",
            "prompt": "harmbench",
        },
        "an answer that is an instance of the harmful behaviour",
        "mit",
    ),
    "wildguard": ReadyJudge({**_WILDGUARD, "prompt": "wildguard"}, "a harmful answer", "apache-2.0", gated=True),
    "wildguard-refusal": ReadyJudge(
        {**_WILDGUARD, "prompt": "wildguard-refusal"}, "an answer that is no refusal", "apache-2.0", gated=True
    ),
    "sorry-bench": ReadyJudge(
        {
            "path": "sorry-bench/ft-mistral-7b-instruct-v0.2-sorry-bench-202406",
            "revision": "79ab44668cef557414cb5e15c726a56ebca9cf1e",
            "prompt": "sorry-bench",
        },
        "an answer that fulfils the request",
        "not known",
        gated=True,
    ),
}


def judge_of(owner: str, described: Any) -> Judge:
    """Returns the judge that YAML describes; `ValueError`, which begins with its owner, for anything else.

    It is `phrases`, a name in [`READY_JUDGES`] (alone, or as `name` with other fields of [`JudgeModel`]), or the fields of
    [`Classifier`], of [`JudgeModel`] or of [`Endpoint`]."""
    if described == "phrases":
        return RefusalPhrases()
    named = {"name": described} if isinstance(described, str) else described
    if isinstance(named, Mapping) and isinstance(named.get("name"), str) and named["name"] in READY_JUDGES:
        others = {name: value for name, value in named.items() if name != "name"}
        # a copy of the files elsewhere is at no commit of the Hub's
        own = {**READY_JUDGES[named["name"]].fields, **({"revision": None} if "path" in others else {})}
        return JudgeModel(**{**own, **others})
    if isinstance(named, Mapping) and "path" in named:
        return Classifier(**named) if "label" in named else JudgeModel(**named)
    if isinstance(named, Mapping) and "url" in named:
        return Endpoint(**named)
    raise ValueError(
        f"{owner} has the judge {described!r}. Give 'phrases', {', '.join(map(repr, READY_JUDGES))}, path and label of a "
        "classifier, path and prompt of a language model, or url and model of an OpenAI-compatible endpoint."
    )
