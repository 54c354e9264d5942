"""What one field of an adversary may hold, and where it has an effect: one `option` a field, which all checks read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from ..validation import coerced
from .rules import Rule


if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Concept(Enum):
    """What a field is about."""

    LABEL = auto()  # name and sampling weight, which change nothing in the attack
    DATASET = auto()  # the name of a data set
    SHARES = auto()  # how data sets are mixed, or follow each other
    OBJECTIVE = auto()
    OPTIMIZATION = auto()
    STEP = auto()  # details of an optimizer's step
    LORA = auto()
    ADAPTER = auto()  # a quantised base, a soft prompt
    EXECUTION = auto()  # memory and time alone
    EDIT = auto()
    PROMPT = auto()
    CUSTOM = auto()  # an attack from outside the package
    SEQUENCE = auto()


@dataclass(frozen=True)
class Package:
    """An optional package: the name that is imported, and what to install."""

    name: str
    install: str


@dataclass(frozen=True)
class Choice:
    """One value of a field that takes a few.

    Args:
        words (`str`, *optional*):
            How [`~trl_tar.adversaries.in_words.in_words`] puts it, with fields of the adversary in braces.
        package ([`Package`], *optional*):
            What has to be installed.
        in_training (`bool`, *optional*, defaults to `True`):
            `False` where only the red team makes such an attack.
    """

    words: str | None = None
    package: Package | None = None
    in_training: bool = True


@dataclass(frozen=True)
class Option:
    """What is known of a field besides its type and default.

    Args:
        concept ([`Concept`]):
            What the field is about.
        default (`Any`, *optional*):
            Value where none is given.
        rules (`tuple[Rule, ...]`, *optional*):
            What the value has to satisfy; `None` always does where the type allows it.
        choices (`dict[str, Choice]`, *optional*):
            The values that are allowed, where they can be listed.
        when (`Callable`, *optional*):
            Adversary → whether the field has an effect in its attack. Always, by default.
        elsewhere (`str`, *optional*):
            Refusal of a value other than the default where `when` does not hold, with fields of the adversary in braces.
            Without it such a value is ignored, and left out of [`Adversary.kind`].
        in_training (`bool`, *optional*, defaults to `True`):
            `False` where only the red team makes such an attack.
        in_kind (`bool`, *optional*, defaults to `True`):
            `False` where two attacks that differ in the field are of one kind.
        most (`int`, *optional*):
            Largest value with which [`~trl_tar.verify`] repeats an attack of a report that it does not trust.
        words (`str`, *optional*):
            How [`~trl_tar.adversaries.in_words.in_words`] puts a value other than the default.
        package ([`Package`], *optional*):
            What has to be installed for a value other than the default.
    """

    concept: Concept
    default: Any = None
    rules: tuple[Rule, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)
    when: Callable[[Any], bool] | None = None
    elsewhere: str | None = None
    in_training: bool = True
    in_kind: bool = True
    most: int | None = None
    words: str | None = None
    package: Package | None = None

    def counts(self, described: "DataclassInstance") -> bool:
        """Tells whether the field has an effect."""
        return self.when is None or self.when(described)

    def chosen(self, value: Any) -> Choice | None:
        """Returns the row of a value among the choices; `None` where the field has no choices."""
        return self.choices.get(value) if self.choices else None

    def ignored(self, described: "DataclassInstance") -> bool:
        """Tells whether any value is allowed and none has an effect."""
        return self.elsewhere is None and not self.counts(described)


def option(default: Any, concept: Concept, *rules: Rule, **details: Any) -> Any:
    """Makes a field of a dataclass with its default; `details` are further arguments of [`Option`]."""
    return field(default=default, metadata={"option": Option(concept, default, rules, **details)})


def options_of(described: "DataclassInstance | type[DataclassInstance]") -> dict[str, Option]:
    """Returns the option of each field, by the field's name."""
    return {part.name: part.metadata["option"] for part in fields(described)}


def numbers(owner: str, described: "DataclassInstance") -> dict[str, int | float | None]:
    """Reads the fields that hold one number as that number, also where YAML or JSON has a string.

    Args:
        owner (`str`):
            What the fields belong to, for the error.
        described (dataclass):
            Its annotations say which fields hold a number, and its defaults which may be `None`.

    Returns:
        `dict[str, int | float | None]`: field → number.

    Raises:
        `ValueError`: where a value is no number, or no whole number where one is wanted.
    """
    hints = get_type_hints(type(described))
    found = {}
    for name, spec in options_of(described).items():
        kinds = get_args(hints[name]) if get_origin(hints[name]) in (Union, UnionType) else (hints[name],)
        wanted = next((kind for kind in (int, float) if kind in kinds), None)
        if wanted is not None and str not in kinds:
            value = getattr(described, name)
            found[name] = coerced(owner, name, value, wanted, optional=spec.default is None)
    return found


def check_options(owner: str, described: "DataclassInstance") -> None:
    """Raises `ValueError` for the first field whose value is not allowed, or is set where it has no effect."""
    for faults in (_not_allowed, _without_effect):  # in this order: `when` may look a choice up
        fault = next(faults(described), None)
        if fault is not None:
            raise ValueError(f"{owner} has {fault}")


def _not_allowed(described: "DataclassInstance") -> Iterator[str]:
    for name, spec in options_of(described).items():
        value = getattr(described, name)
        if value is None:  # the type has been checked
            continue
        if spec.choices and value not in spec.choices:
            yield f"{name}={value!r}. Use {_one_of(list(spec.choices))}."
        for remedy in (check(value) for check in spec.rules):
            if remedy is not None:
                yield f"{name}={value!r}. {remedy}"


def _one_of(choices: list[str]) -> str:
    return f"{choices[0]!r} or None" if len(choices) == 1 else f"one of {', '.join(map(repr, choices))}"


def _without_effect(described: "DataclassInstance") -> Iterator[str]:
    for name, spec in options_of(described).items():
        is_set = getattr(described, name) != spec.default
        if is_set and spec.elsewhere is not None and not spec.counts(described):
            yield spec.elsewhere.format(**vars(described))


def in_phrases(described: "DataclassInstance", concept: Concept) -> list[str]:
    """Puts the fields of a concept in words: a choice that has words, or else a value that is not the default."""
    phrases = []
    for name, spec in options_of(described).items():
        if spec.concept is not concept:
            continue
        value = getattr(described, name)
        choice = spec.chosen(value)
        if choice is not None and choice.words is not None:
            phrases.append(choice.words)
        elif spec.words is not None and value != spec.default:
            phrases.append(spec.words)
    return [phrase.format(**vars(described)) for phrase in phrases]
