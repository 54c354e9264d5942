"""What a message that refuses something looks like."""

import pytest


def one_sentence(error: pytest.ExceptionInfo) -> str:
    """The message: what is wrong and what to do, on one line."""
    message = str(error.value)
    assert "\n" not in message
    assert message.count(". ") >= 1 or ": " in message, message
    assert message.endswith("."), message
    return message
