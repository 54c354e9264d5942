"""Makes an optimizer visit one parameter at a time, so that something can be done before and after each."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

import torch
from torch import nn


Around = Callable[[torch.optim.Optimizer, nn.Parameter], AbstractContextManager[nn.Parameter]]


def one_by_one(optimizer: torch.optim.Optimizer, method: str, around: Around) -> None:
    """Makes a method of an optimizer run for each parameter alone, inside the context that `around` returns for it.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            An optimizer whose state is found by parameter, and that treats each parameter by itself.
        method (`str`):
            `"step"`, or `"eval"` and `"train"` of a Schedule-Free one.
        around (`Callable`):
            Optimizer and parameter → context manager, which yields the parameter to visit.
    """
    run, weakly = getattr(optimizer, method).__func__, weakref.ref(optimizer)

    def run_for_each(_: Any, closure: None = None) -> None:
        optimizer = weakly()
        groups = optimizer.param_groups
        try:
            for group in groups:
                after = group
                for p in group["params"]:
                    with around(optimizer, p) as visited:
                        after = {**group, "params": [visited]}  # each with the counters from before the method
                        optimizer.param_groups = [after]
                        run(optimizer)
                group.update({name: value for name, value in after.items() if name != "params"})
        finally:
            optimizer.param_groups = groups

    # a method, as schedulers want one; held by itself, the optimizer would outlive its attack with all its state
    setattr(optimizer, method, MethodType(run_for_each, weakref.proxy(optimizer)))
