"""What was installed when something was measured."""

import platform
from importlib.metadata import version

import torch


PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "schedulefree")  # that decide a result


def environment() -> dict[str, str]:
    """Versions and device that the numbers come from."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in PACKAGES}
    return {"trl-tar": _own_version(), **versions, "python": platform.python_version(), "device": device}


def _own_version() -> str:
    from .version import __version__

    return __version__
