"""The optimizer that an adversary asks for: one case for each row of `OPTIMIZERS` in `adversaries/choices.py`."""

import schedulefree
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer

from ..adversaries.adversary import Adversary
from ..adversaries.choices import RESTARTS
from .muon import MuonWithAdamW


def scheduler_arguments(adversary: Adversary) -> dict[str, int]:
    """Returns what transformers' schedule takes in addition to warm-up and steps."""
    return {"num_cycles": RESTARTS} if adversary.lr_scheduler == "cosine_with_restarts" else {}


def optimizer_class_and_arguments(
    adversary: Adversary, model: PreTrainedModel | PeftModel | None = None
) -> tuple[type[torch.optim.Optimizer], dict]:
    """Returns the optimizer of an attack and its arguments, in the form of `Trainer`'s `optimizer_cls_and_kwargs`. The model says
    which matrices are embeddings, for `"muon"`.

    β = (0.9, 0.999) and ε = 1e-8 are the defaults of torch and of Hugging Face's trainers."""
    lr = {"lr": adversary.learning_rate}
    match adversary.optimizer:
        case "adamw":
            return torch.optim.AdamW, {**lr, "betas": (0.9, 0.999), "eps": 1e-8, "fused": True}
        case "adamw_8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit, {**lr, "betas": (0.9, 0.999), "eps": 1e-8}
        case "schedule_free_adamw":
            return schedulefree.AdamWScheduleFree, {**lr, "betas": (0.9, 0.999), "warmup_steps": adversary.warmup_steps}
        case "sgd":
            return torch.optim.SGD, {**lr, "momentum": adversary.momentum, "nesterov": adversary.nesterov}
        case "adadelta":
            return torch.optim.Adadelta, lr
        case "adagrad":
            return torch.optim.Adagrad, lr
        case "muon":
            return MuonWithAdamW, {**lr, "embeddings": [] if model is None else _embeddings(model)}
    raise AssertionError(adversary.optimizer)  # a row of OPTIMIZERS without a case here


def _embeddings(model: PreTrainedModel | PeftModel) -> list[nn.Parameter]:
    """The matrices of a model whose rows are tokens."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return [module.weight for module in modules if module is not None]


def create_optimizer(model: nn.Module, parameters: list[nn.Parameter], adversary: Adversary) -> torch.optim.Optimizer:
    """Makes the optimizer of an attack, with the parameter groups of a Hugging Face trainer: no decay on norms and biases."""
    wanted = {id(p) for p in parameters}
    # the method does not use `self`; calling it keeps the rule in one place, transformers
    decay_names = set(Trainer.get_decay_parameter_names(None, model))
    named = [(name, p) for name, p in model.named_parameters() if id(p) in wanted]
    groups = [
        {"params": [p for name, p in named if name in decay_names], "weight_decay": adversary.weight_decay},
        {"params": [p for name, p in named if name not in decay_names], "weight_decay": 0.0},
    ]
    optimizer_class, arguments = optimizer_class_and_arguments(adversary)
    return optimizer_class([group for group in groups if group["params"]], **arguments)
