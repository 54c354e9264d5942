"""What a model adds at random while it is trained, such as dropout, and how it is turned off."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PretrainedConfig


# names of the numbers that transformers' models read in training mode alone: attention_dropout, resid_pdrop, layerdrop,
# drop_path_rate, router_jitter_noise
NOISE = re.compile("drop|jitter")


def configured_noise(config: PretrainedConfig) -> dict[str, float]:
    """Every share of dropout and the like in a configuration that is above 0, by its name; names within a part have a dot."""
    noise: dict[str, float] = {}
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            noise |= {f"{name}.{inner}": share for inner, share in configured_noise(value).items()}
        elif _is_noise(name, value):
            noise[name] = value
    return noise


def _is_noise(name: str, value: Any) -> bool:
    return type(value) in (int, float) and value > 0 and NOISE.search(name) is not None


def disable_training_noise(model: nn.Module) -> None:
    """Turns off dropout of every kind, layers that are left out, and noise of routers, in modules and configuration.

    As [`trl.trainer.utils.disable_dropout_in_model`], which knows [`torch.nn.Dropout`] alone: most models hold the share of
    attention as a number, and some read it from their configuration in each pass."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _is_noise(name, value):
                setattr(module, name, 0.0)
            elif isinstance(value, PretrainedConfig):
                _set_noise(value, dict.fromkeys(configured_noise(value), 0.0))


def _set_noise(config: PretrainedConfig, noise: dict[str, float]) -> None:
    for path, share in noise.items():
        *parts, name = path.split(".")
        part = config
        for inner in parts:
            part = getattr(part, inner)
        setattr(part, name, share)


@contextlib.contextmanager
def configured_with(config: PretrainedConfig, noise: dict[str, float]) -> Iterator[None]:
    """Puts shares of dropout into a configuration inside the block, so that it is saved as it was given."""
    present = dict.fromkeys(noise, 0.0) | configured_noise(config)
    _set_noise(config, noise)
    try:
        yield
    finally:
        _set_noise(config, present)


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Leaves out every dropout layer inside the block, such as that of an attacker's adapter, in whatever mode the model is."""
    active = [module for module in model.modules() if isinstance(module, _DropoutNd) and module.training]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True
