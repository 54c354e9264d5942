"""What one value of a field may be: a rule gives the remedy for a value that is refused."""

import re
from collections.abc import Callable
from typing import Any


LONGEST_PATTERN = 4096  # characters, a choice: each is matched against the name of every module
LONGEST_NAME = 256  # characters of module and function, a choice: pages and messages show it
Rule = Callable[[Any], str | None]  # value → remedy, `None` where the value is allowed


def rule(holds: Callable[[Any], bool], remedy: str) -> Rule:
    """A rule of one condition and one remedy."""
    return lambda value: None if holds(value) else remedy


def at_least(low: int) -> Rule:
    """The rule of a whole number with a least value."""
    return rule(lambda value: value >= low, f"Use at least {low}.")


ABOVE_0 = rule(lambda value: 0 < value < float("inf"), "Use a finite number above 0.")
NOT_NEGATIVE = rule(lambda value: 0 <= value < float("inf"), "Use a finite number of at least 0.")
BELOW_1 = rule(lambda value: value < 1, "Use a share below 1.")
SHARE_ABOVE_0 = rule(lambda value: 0 < value <= 1, "Use a share in (0, 1].")
DIRECTIONS = rule(lambda value: value >= 1 and value.is_integer(), "Use a whole number of directions.")


def function(name: str) -> str | None:
    """The rule of a function's name, with its module."""
    allowed = len(name) <= LONGEST_NAME and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name)
    return None if allowed else "Give module:function."


def pattern(targets: str | tuple[str, ...]) -> str | None:
    """The rule of names of modules: text is a regular expression that compiles."""
    if isinstance(targets, str) and len(targets) > LONGEST_PATTERN:
        return f"Use at most {LONGEST_PATTERN} characters."
    try:
        re.compile(targets if isinstance(targets, str) else "")
    except re.error as error:
        return f"It is no regular expression ({error}): mend it."
    return None
