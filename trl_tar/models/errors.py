"""What the libraries raise for the files of a model, and how it is told."""

from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


# errors that the libraries raise for files with nonsense in them, and where there is no memory
NONSENSE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def reason(error: Exception) -> str:
    """What an error of a library says, on one line; PEFT and torch put a heading above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]).rstrip(".")
