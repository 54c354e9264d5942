"""Types of the fields of a report, and how they are read from JSON and written to it.

A report's dataclasses are its schema: pydantic checks a file against their annotations, made of the types below. JSON
and the digest tell 0 from 0.0, so a number is written as it was read.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import Field as DataclassField
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter, ValidationError, WrapValidator


Described = TypeVar("Described")
Item = TypeVar("Item")

STRICT = ConfigDict(strict=True, extra="forbid")
OPEN = ConfigDict(strict=True, extra="allow")  # what recipes and later versions add to is read, and not looked at


LARGEST = 1e100  # a choice: no loss, share or count comes near, and sums of squares of numbers below are finite


def _as_it_was(value: Any, check: Callable[[Any], float]) -> Any:
    if abs(check(value)) > LARGEST:
        raise ValueError(f"{value:g} is beyond the {LARGEST:g} of any number here")
    return value


def _one_by_one(content: Any, check: Callable[[Any], Any]) -> Any:
    """Checks a dictionary entry by entry, and stops at the first wrong one."""
    if not isinstance(content, dict):
        return check(content)
    return {name: checked for entry in content.items() for name, checked in check(dict([entry])).items()}


# checked as a float, which refuses NaN, infinity, truth values and whole numbers beyond every float
Number = Annotated[float, Field(allow_inf_nan=False), WrapValidator(_as_it_was)]
Values = dict[str, Number | None]  # metric → value; None where it is not a finite number
Count = Annotated[int, Field(ge=0, le=2**53)]  # up to 2^53 every whole number is exact in other readers of JSON too
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes as a seed
Text = Annotated[str, Field(max_length=2**16)]  # a choice, far above any name, error or description
Several = Annotated[list[Item], FailFast()]  # nothing is looked at after the first wrong one, of perhaps millions
# a dictionary whose entries hold several values each, read up to the first wrong entry; FailFast takes lists alone before
# pydantic 2.14
OneByOne = Annotated[Item, WrapValidator(_one_by_one)]


def _in_recorded_order(value: Any, check: Callable[[Any], Mapping[str, Any]]) -> Any:
    checked = check(value)
    return {name: checked[name] for name in value}


# on a dictionary type, whose own fields pydantic puts first: pages and files show what was recorded in its order
AS_RECORDED = WrapValidator(_in_recorded_order)

# metadata of a dataclass's field, whose default is None: while it is None the file leaves it out. A field that is added
# to the records is declared so, as older reports lack it, and keep their digest
OPTIONAL = {"optional": True}

# of kinds of error that pydantic words for a caller of Python
MESSAGES = {
    "unexpected_keyword_argument": "Extra inputs are not permitted",
    "dict_type": "Input should be a valid dictionary",
}


def _is_optional(field: "DataclassField[Any]") -> bool:
    return field.metadata == OPTIONAL


def whole(kind: type) -> BeforeValidator:
    """Refuses JSON that lacks a field of the dataclass, whether the field has a default or not, unless it is optional."""

    def check(content: Any) -> Any:
        held = content if isinstance(content, Mapping) else [field.name for field in fields(kind)]
        missing = [field.name for field in fields(kind) if field.name not in held and not _is_optional(field)]
        if missing:
            raise ValidationError.from_exception_data(
                kind.__name__, [{"type": "missing", "loc": (name,), "input": content} for name in missing]
            )
        return content

    return BeforeValidator(check)


def check_once(values: Iterable[Hashable]) -> None:
    """Raises `ValueError` for a value that is there more than once."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")


def read(schema: TypeAdapter[Described], content: Mapping[str, Any]) -> Described:
    """The dataclass that JSON fields describe.

    Args:
        schema (`TypeAdapter`):
            Of the dataclass.
        content (`dict`):
            The fields, without anything that JSON does not define.

    Raises:
        `ValueError`: for the first field that is not as it must be, such as `"attacks.0.seed: Field required"`.
    """
    try:
        return schema.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message = MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise ValueError(": ".join([".".join(map(str, first["loc"])), message]).removeprefix(": ")) from None


def written(value: Any) -> Any:
    """Returns what JSON holds of a value: dataclasses become dictionaries, without optional fields that are `None`."""
    if is_dataclass(value):
        held = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: written(part) for field, part in held if part is not None or not _is_optional(field)}
    if isinstance(value, Mapping):
        return {name: written(part) for name, part in value.items()}
    return [written(part) for part in value] if isinstance(value, list | tuple) else value
