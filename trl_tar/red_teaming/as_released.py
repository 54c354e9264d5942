"""What a model brings along of its own: named where it differs from the base's, and attacked with as well."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.scores import Checked
from ..models.companions import Companions, attacks_differ, differences, tokenizer_beside
from ..models.tokenizers import check_tokenizer, context_of, own_tokenizer, with_pad_token
from .job import Settings
from .targets import Model, Target, loadable


UNUSABLE = "tokenizer, which no attack can be made with"


@dataclass(frozen=True)
class Release:
    """How a model is attacked, and how its release would have it.

    Args:
        settings ([`Settings`]):
            With the tokens that end an answer by the reference.
        own (`Settings`, *optional*):
            With what the model brings along; `None` where no attack could end otherwise with it.
        differences (`list[dict]`):
            `what` differs from the `reference`, and how it is of the `model`, in words.
    """

    settings: Settings
    own: Settings | None
    differences: list[dict[str, str]]

    @classmethod
    def of(
        cls, model: Model, targets: Mapping[str, Target], settings_from: str | Path | None, settings: Settings
    ) -> "Release":
        """Compares the model with `settings_from`, or else with the base; without one only its tokenizer, with the settings'."""
        target = targets["model"]
        reference = targets.get("base", target).path if settings_from is None else str(settings_from)
        tokenizer = _own_tokenizer(model)
        if tokenizer is not None:
            with_pad_token(tokenizer, settings.tokenizer)
        own = Companions.of(target.path, tokenizer)
        other = Companions.of(reference, settings.tokenizer)
        found = differences(own, other)
        if (
            tokenizer is not None and tokenizer.chat_template is None
        ):  # whoever takes it along takes the base's template
            tokenizer.chat_template = settings.tokenizer.chat_template
        settings = replace(settings, end_tokens=other.end_tokens(settings.tokenizer))
        if not attacks_differ(own, other):
            return cls(settings, None, found)
        tokenizer = tokenizer or settings.tokenizer
        if (reason := _unusable(tokenizer, target, own, settings)) is not None:
            return cls(settings, None, [*found, {"what": UNUSABLE, "reference": "", "model": reason}])
        ends = own.end_tokens(tokenizer)
        return cls(settings, replace(settings, tokenizer=tokenizer, end_tokens=ends, training_noise=True), found)


def _own_tokenizer(model: Model) -> PreTrainedTokenizerBase | None:
    """The tokenizer in the model's folder; a model in memory has none."""
    return None if isinstance(model, PreTrainedModel) else tokenizer_beside(str(model))


def _unusable(tokenizer: PreTrainedTokenizerBase, target: Target, own: Companions, settings: Settings) -> str | None:
    try:
        check_tokenizer(tokenizer, target.path)
        for metric in [*settings.metrics.values(), *settings.zero_step_attacks.values()]:
            if isinstance(metric, Checked):
                metric.check(tokenizer, context_of(own.config))
    except ValueError as error:
        return str(error)
    return None


def attackers_tokenizer(model: Model, reference: Model | None) -> PreTrainedTokenizerBase:
    """The tokenizer that the attacks are made with: the reference's, with the model's pad token where it has none."""
    if reference is None:
        return own_tokenizer(loadable(model))
    tokenizer = own_tokenizer(loadable(reference))
    if tokenizer.pad_token is None and (own := _own_tokenizer(model)) is not None:
        with_pad_token(tokenizer, own)
    return tokenizer


def stronger(result: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The result of the stronger of two attacks by one adversary and seed, of which the second was made as released.

    An attack is as strong as the most harm along it. One that did not complete counts as unfinished, whatever the other did."""
    record, released = result["record"], own["record"]
    if record["status"] != "completed" or _reached(released) <= _reached(record):
        return result
    return {**own, "record": {**released, "as_released": True}}


def _reached(record: Mapping[str, Any]) -> float:
    harms = [point["harm"] for point in record["trajectory"] if point["harm"] is not None]
    return max(harms, default=-1.0) if record["status"] == "completed" else -1.0


def stronger_before(measured: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured before any attack, where there is more harm; of each attack without training the more harmful."""
    harm, released = measured["before"]["harm"], own["before"]["harm"]
    taken = own if released is not None and (harm is None or released > harm) else measured
    zero_step = {
        name: max((v for v in (value, own["zero_step"][name]) if v is not None), default=None)
        for name, value in measured["zero_step"].items()
    }
    return {**taken, "zero_step": zero_step}
