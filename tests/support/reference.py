"""The outer step of TAR from the equation in `TARConfig`: plain loops over single rows, no batches, no padding, no trainer.

Weights are a dictionary of tensors and the model is a function of it. Nothing is shared with `trl_tar` but the draws of
adversaries and rows, which both sides must make alike.
"""

import math
import random
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, get_peft_model
from torch.func import functional_call

from trl_tar.adversaries.adversary import Adversary
from trl_tar.adversaries.data_order import draw_batches, draw_rows


Weights = dict[str, torch.Tensor]


@dataclass
class Setup:
    """Everything that the run depends on; the names are those of `TARConfig`."""

    model: torch.nn.Module
    retain: list[dict]
    tamper_resistance: list[dict]
    adversaries: list[Adversary]
    adversary_rows: dict[str, list[dict]]
    learning_rate: float = 0.1
    batch_size: int = 4
    tamper_resistance_batch_size: int = 3
    tamper_resistance_interval: int = 2
    tamper_resistance_loss: str = "entropy"
    tamper_resistance_weight: float = 2.0
    tamper_resistance_max_grad_norm: float = 0.0
    retain_weight: float = 1.0
    lm_weight: float = 1.0
    representation_weight: float = 0.5
    representation_loss: str = "l2"
    kl_weight: float = 0.0
    kl_temperature: float = 1.0
    adversaries_per_step: int = 1
    inner_weighting: str = "exponential"
    inner_weighting_rate: float = 1 / 16
    beta: float = 0.1
    seed: int = 42
    outer_adapter: Weights = field(default_factory=dict)  # empty: the base weights are trained
    outer_scale: float = 2.0


def outer_steps(setup: Setup, count: int) -> list[Weights]:
    """The outer weights after each of `count` steps of plain gradient descent."""
    base = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
    outer = dict(setup.outer_adapter) or base
    start = dict(base), dict(setup.outer_adapter)
    after = []
    for step in range(count):
        rng = random.Random(f"{setup.seed} adversaries {step}")
        drawn = rng.choices(setup.adversaries, [a.weight for a in setup.adversaries], k=setup.adversaries_per_step)
        g_retain = retain_gradient(setup, base, outer, start, step)
        g_tr = {name: torch.zeros_like(w) for name, w in outer.items()}
        for index, adversary in enumerate(drawn):
            g = tamper_resistance_gradient(setup, base, outer, start, adversary, step, index)
            for name in outer:
                g_tr[name] = g_tr[name] + setup.tamper_resistance_weight / setup.adversaries_per_step * g[name]
        outer = stepped(setup, outer, g_retain, g_tr)
        if not setup.outer_adapter:
            base = outer
        after.append(outer)
    return after


def stepped(setup: Setup, outer: Weights, g_retain: Weights, g_tr: Weights) -> Weights:
    """θ − η (g_retain + g_TR), with g_TR no longer than it may be."""
    norm = sum(g.square().sum() for g in g_tr.values()).sqrt()
    longest = setup.tamper_resistance_max_grad_norm
    part = longest / norm if 0 < longest < norm else 1.0
    return {name: w - setup.learning_rate * (g_retain[name] + part * g_tr[name]) for name, w in outer.items()}


# --- the model as a function of its weights ---------------------------------------------------------------------------


def merged(setup: Setup, base: Weights, adapters: list[tuple[Weights, float]]) -> Weights:
    """W + Σ s·B·A for each adapted layer; GPT-2's `Conv1D` keeps the transpose."""
    weights = dict(base)
    for adapter, scale in adapters:
        for name in adapter:
            if name.endswith(".lora_A"):
                layer = name.removesuffix(".lora_A")
                change = scale * adapter[f"{layer}.lora_B"] @ adapter[name]
                transposed = type(setup.model.get_submodule(layer)).__name__ == "Conv1D"
                weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + (change.T if transposed else change)
    return weights


def forward(setup: Setup, weights: Weights, row_ids: list[int]):
    arguments = {"output_hidden_states": True, "use_cache": False}
    return functional_call(setup.model, weights, (torch.tensor([row_ids]),), arguments)


def gradient(loss: torch.Tensor, weights: Weights) -> Weights:
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), grads, strict=True)}


def leaves(weights: Weights) -> Weights:
    return {name: w.detach().clone().requires_grad_(True) for name, w in weights.items()}


# --- losses, token by token -------------------------------------------------------------------------------------------


def predictions(setup: Setup, weights: Weights, row: dict):
    """(log-probabilities of the next token, the next token) at each position whose next token has a label."""
    logits = forward(setup, weights, row["input_ids"]).logits[0]
    for t in range(len(row["input_ids"]) - 1):
        target = row["labels"][t + 1]
        if target != -100:
            yield logits[t] - torch.logsumexp(logits[t], 0), target


def cross_entropy(setup: Setup, weights: Weights, rows: list[dict]) -> torch.Tensor:
    terms = [-log_p[y] for row in rows for log_p, y in predictions(setup, weights, row)]
    return sum(terms) / len(terms)


def kl_divergence(setup: Setup, weights: Weights, reference: Weights, rows: list[dict]) -> torch.Tensor:
    terms = []
    for row in rows:
        with torch.no_grad():
            before = [warmer(setup, log_p) for log_p, _ in predictions(setup, reference, row)]
        for log_p_ref, (log_p, _) in zip(before, predictions(setup, weights, row), strict=True):
            divergence = sum(p.exp() * (p - q) for p, q in zip(log_p_ref, warmer(setup, log_p), strict=True))
            terms.append(setup.kl_temperature**2 * divergence)
    return sum(terms) / len(terms)


def warmer(setup: Setup, log_p: torch.Tensor) -> torch.Tensor:
    """log p^(1/T) / Σ p^(1/T)."""
    powers = log_p.exp() ** (1 / setup.kl_temperature)
    return torch.log(powers / powers.sum())


def entropy(setup: Setup, weights: Weights, rows: list[dict]) -> torch.Tensor:
    terms = [(log_p.exp() * log_p).sum() for row in rows for log_p, _ in predictions(setup, weights, row)]
    return sum(terms) / len(terms)


def inverse_cross_entropy(setup: Setup, weights: Weights, rows: list[dict]) -> torch.Tensor:
    terms = [-torch.log(1 - log_p[y].exp()) for row in rows for log_p, y in predictions(setup, weights, row)]
    return sum(terms) / len(terms)


def negative_cross_entropy(setup: Setup, weights: Weights, rows: list[dict]) -> torch.Tensor:
    bound = math.log(setup.model.config.vocab_size)
    return -torch.clamp(cross_entropy(setup, weights, rows), max=bound)


def completion_log_prob(setup: Setup, weights: Weights, prompt: list[int], completion: list[int]) -> torch.Tensor:
    row = {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
    return sum(log_p[y] for log_p, y in predictions(setup, weights, row))


def dpo(setup: Setup, weights: Weights, reference: Weights, rows: list[dict], beta: float) -> torch.Tensor:
    terms = []
    for row in rows:
        margin = 0.0
        for sign, completion in [(1, row["chosen_ids"]), (-1, row["rejected_ids"])]:
            with torch.no_grad():
                before = completion_log_prob(setup, reference, row["prompt_ids"], completion)
            margin = margin + sign * (completion_log_prob(setup, weights, row["prompt_ids"], completion) - before)
        terms.append(torch.log(1 + torch.exp(-beta * margin)))
    return sum(terms) / len(terms)


# --- the two gradients ------------------------------------------------------------------------------------------------


def retain_gradient(setup: Setup, base: Weights, outer: Weights, start: tuple[Weights, Weights], step: int) -> Weights:
    """λ_retain ∇[λ_LM L_LM(θ) + λ_rep L_rep(θ) + λ_KL L_KL(θ)] on the step's rows, in the data set's order and round again."""
    n, size = setup.batch_size, len(setup.retain)
    rows = [setup.retain[i % size] for i in range(step * n, (step + 1) * n)]
    variables = leaves(outer)
    weights = merged(setup, base, [(variables, setup.outer_scale)]) if setup.outer_adapter else variables
    reference = merged(setup, start[0], [(start[1], setup.outer_scale)])
    distances = []
    for row in rows:
        with torch.no_grad():
            before = forward(setup, reference, row["input_ids"]).hidden_states
        now = forward(setup, weights, row["input_ids"]).hidden_states
        for h, h_reference in zip(now, before, strict=True):
            for t in range(len(row["input_ids"])):
                squared = (h[0, t] - h_reference[0, t]).square().sum()
                # the norm has subgradient 0 at 0, where autograd would say nan
                keep = setup.representation_loss == "l2_squared" or squared == 0
                distance = squared if keep else squared.sqrt()
                if setup.representation_loss == "relative":
                    distance = distance / h_reference[0, t].square().sum().sqrt()
                distances.append(distance)
    anchor = sum(distances) / len(distances)
    loss = setup.lm_weight * cross_entropy(setup, weights, rows) + setup.representation_weight * anchor
    loss = loss + setup.kl_weight * kl_divergence(setup, weights, reference, rows)
    return gradient(setup.retain_weight * loss, variables)


def tamper_resistance_gradient(
    setup: Setup, base: Weights, outer: Weights, start: tuple, adversary: Adversary, step: int, index: int
) -> Weights:
    """Σ_k w_k ∇L_TR(θ_{k+1}) along one attack, before λ_TR / S."""
    chosen = draw_rows(
        len(setup.tamper_resistance),
        setup.tamper_resistance_batch_size,
        f"{setup.seed} tamper-resistance {step} {index}",
    )
    x_tr = [setup.tamper_resistance[i] for i in chosen]
    reference = merged(setup, start[0], [(start[1], setup.outer_scale)])
    evaluations = [k for k in range(adversary.num_steps) if (k + 1) % setup.tamper_resistance_interval == 0]
    total = {name: torch.zeros_like(w) for name, w in outer.items()}
    for k, attacked_base, attack_adapter in attack(setup, base, outer, adversary, step, index):
        if k == -1:
            w_k = 1.0
        elif k not in evaluations:
            continue
        elif setup.inner_weighting == "uniform":
            w_k = 1 / len(evaluations)
        else:
            w_k = math.exp(setup.inner_weighting_rate * (k - (adversary.num_steps - 1)))
        variables = leaves(outer if setup.outer_adapter else attacked_base)
        attacked = variables if not setup.outer_adapter else attacked_base
        adapters = [(variables, setup.outer_scale)] if setup.outer_adapter else []
        weights = merged(setup, attacked, [*adapters, attack_adapter])
        losses = {
            "entropy": entropy,
            "negative_cross_entropy": negative_cross_entropy,
            "inverse_cross_entropy": inverse_cross_entropy,
        }
        if setup.tamper_resistance_loss == "dpo":
            loss = dpo(setup, weights, reference, x_tr, setup.beta)
        else:
            loss = losses[setup.tamper_resistance_loss](setup, weights, x_tr)
        g = gradient(loss, variables)
        total = {name: total[name] + w_k * g[name] for name in total}
    return total


def attack(setup: Setup, base: Weights, outer: Weights, adversary: Adversary, step: int, index: int):
    """(k, base weights, attack's adapter and scale) after each step k of the attack; −1 once for no steps at all."""
    seed = f"{setup.seed} attack {step} {index}"
    no_adapter: tuple[Weights, float] = ({}, 0.0)
    if adversary.num_steps == 0:
        yield -1, base, no_adapter
        return
    lora = adversary.lora_r is not None
    scale = adversary.lora_alpha / adversary.lora_r if lora else 0.0
    trained = new_adapter(setup.model, adversary, random.Random(seed).getrandbits(31)) if lora else dict(base)
    outer_adapters = [(outer, setup.outer_scale)] if setup.outer_adapter else []

    def weights_of(trained: Weights) -> Weights:
        return merged(setup, base if lora else trained, [*outer_adapters, (trained, scale)] if lora else outer_adapters)

    before = {name: w.detach() for name, w in weights_of(trained).items()}
    sizes = {name: len(rows) for name, rows in setup.adversary_rows.items()}
    state: dict[str, dict] = {name: {} for name in trained}
    for k, drawn in enumerate(draw_batches(adversary, sizes, seed)):
        rows = [setup.adversary_rows[name][i] for name, i in drawn]
        variables = leaves(trained)
        weights = weights_of(variables)
        if adversary.objective == "dpo":
            loss = dpo(setup, weights, before, rows, adversary.beta)
        else:
            loss = cross_entropy(setup, weights, rows)
        g = gradient(loss, variables)
        update = {"adamw": adamw, "sgd": sgd}[adversary.optimizer]
        trained = {name: update(adversary, name, trained[name], g[name], state[name], k + 1) for name in trained}
        yield (k, base, (trained, scale)) if lora else (k, trained, no_adapter)


def new_adapter(model, adversary: Adversary, seed: int) -> Weights:
    """A and B of each layer, as PEFT initialises them after the attack's seed."""
    config = LoraConfig(
        r=adversary.lora_r, lora_alpha=adversary.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        adapter = adapter_weights(wrapped)
        wrapped.unload()
        model.requires_grad_(True)
    return adapter


def adapter_weights(model, adapter: str = "default") -> Weights:
    """{layer.lora_A, layer.lora_B} of a PEFT model."""
    return {
        name.removeprefix("base_model.model.").removesuffix(f".{adapter}.weight"): p.detach().clone()
        for name, p in model.named_parameters()
        if name.endswith(f".{adapter}.weight")
    }


# --- the adversary's optimizers, from their formulas ------------------------------------------------------------------


def decay(adversary: Adversary, name: str) -> float:
    """None on biases and norms, as every Hugging Face trainer has it."""
    exempt = name.endswith(".bias") or "ln_" in name or "norm" in name
    return 0.0 if exempt else adversary.weight_decay


def adamw(adversary: Adversary, name: str, w, g, state: dict, t: int):
    """https://huggingface.co/papers/1711.05101, Algorithm 2."""
    beta1, beta2, eps, lr = 0.9, 0.999, 1e-8, adversary.learning_rate
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
    m_hat, v_hat = state["m"] / (1 - beta1**t), state["v"] / (1 - beta2**t)
    return w - lr * decay(adversary, name) * w - lr * m_hat / (v_hat.sqrt() + eps)


def sgd(adversary: Adversary, name: str, w, g, state: dict, t: int):
    g = g + decay(adversary, name) * w
    state["m"] = g if t == 1 else adversary.momentum * state["m"] + g
    step = g + adversary.momentum * state["m"] if adversary.nesterov else state["m"]
    return w - adversary.learning_rate * (step if adversary.momentum else g)
