"""The software and the device of a measurement."""

import platform
from importlib.metadata import version

import torch


# the packages whose versions can change a result
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "schedulefree")


def environment() -> dict[str, str]:
    """Returns the versions of the packages, of Python and of `trl-tar`, and the device: name → text."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in PACKAGES}
    return {"trl-tar": _own_version(), **versions, "python": platform.python_version(), "device": device}


def _own_version() -> str:
    from .version import __version__

    return __version__
