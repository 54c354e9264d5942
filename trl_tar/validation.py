"""Checks of settings, their types, ranges and choices. Each error says what the user can do."""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from inspect import formatannotation
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints


if TYPE_CHECKING:  # adversaries are checked here, and describing one takes no torch
    from trl import SFTConfig


def coerce_numbers(args: "SFTConfig", names: Iterable[str], to: type) -> None:
    """Converts the fields, which YAML may give as strings, to numbers; raises `ValueError` for a field that is no number."""
    for name in names:
        optional = args.__dataclass_fields__[name].default is None
        setattr(args, name, coerced(type(args).__name__, name, getattr(args, name), to, optional))


def check_sizes(args: "SFTConfig", names: Iterable[str]) -> None:
    """Raises `ValueError` for a field that is no whole number of at least 1; `None` is allowed if it is the default."""
    coerce_numbers(args, names, int)
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{type(args).__name__} has {name}={value}. Use at least 1.")


def check_not_negative(args: "SFTConfig", names: Iterable[str]) -> None:
    """Raises `ValueError` for a field that is no finite number of at least 0."""
    coerce_numbers(args, names, float)
    for name in names:
        if not 0 <= getattr(args, name) < float("inf"):
            raise ValueError(
                f"{type(args).__name__} has {name}={getattr(args, name)}. Use a finite number of at least 0."
            )


def check_above_0(args: "SFTConfig", names: Iterable[str]) -> None:
    """Raises `ValueError` for a field that is no finite number above 0."""
    check_not_negative(args, names)
    for name in names:
        if getattr(args, name) == 0:
            raise ValueError(f"{type(args).__name__} has {name}=0.0. Use a finite number above 0.")


def check_choices(args: "SFTConfig", names: Iterable[str]) -> None:
    """Raises `ValueError` for a field that is none of the choices in its metadata."""
    for name in names:
        value, allowed = getattr(args, name), args.__dataclass_fields__[name].metadata["choices"]
        if value not in allowed:
            raise ValueError(f"{type(args).__name__} has {name}={value!r}. Use one of {', '.join(map(repr, allowed))}.")


def check_types(owner: str, described: Any) -> None:
    """Raises `ValueError` for a field of a dataclass whose value is not of the type that it is annotated with."""
    kinds = get_type_hints(type(described))
    for field in fields(described):
        value = getattr(described, field.name)
        if not _is_a(value, kinds[field.name]):
            kind = field.type if isinstance(field.type, str) else formatannotation(field.type)
            raise ValueError(f"{owner} has {field.name}={value!r}. Give {field.name} as {kind}.")


def check_at_least(owner: str, described: Any, **least: int) -> None:
    """Raises `ValueError` for a whole number below its minimum; [`check_types`] finds what is no whole number."""
    for name, low in least.items():
        value = getattr(described, name)
        if type(value) is int and value < low:
            raise ValueError(f"{owner} has {name}={value}. Use at least {low}.")


def _is_a(value: Any, kind: Any) -> bool:
    """Returns whether the value is of the annotated type. A whole number is also a `float`, and `True` is no number."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is_a(k, parts[0]) and _is_a(v, parts[1]) for k, v in value.items())
    if origin is tuple and isinstance(value, tuple):
        wanted = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(wanted) and all(map(_is_a, value, wanted))
    return isinstance(value, origin or kind)


def coerced(owner: str, name: str, value: Any, to: type, optional: bool = False) -> Any:
    """Converts `value`, which may be a string from YAML, to a whole number (`int`) or a number (`float`); `None` stays if `optional`.

    Raises `ValueError`, which names the owner and its field, for anything else."""
    if value is None and optional:
        return None
    try:
        number = to(value)
        allowed = not isinstance(value, bool) and (to is float or float(value) == number)
    except (TypeError, ValueError, OverflowError):  # the last for more digits than any float has
        allowed = False
    if not allowed:
        kind = "a whole number" if to is int else "a number"
        raise ValueError(f"{owner} has {name}={shortened(value)}. Give {name} as {kind}.")
    return number


def shortened(value: Any) -> str:
    """Returns a value as messages show it: on one line, with at most 80 characters of each text."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 80
    return shown.repr(value)
