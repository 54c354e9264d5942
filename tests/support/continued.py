"""Continued attacks from their description in `TARConfig`: one dictionary an attacker, plain loops, no batches, no trainer.

The functions of a row and of an optimizer's step are those of `reference`; what goes from visit to visit is written again here.
"""

import math
import random
from dataclasses import dataclass, replace

import torch
from support import reference
from support.reference import Weights

from trl_tar.adversaries.adversary import Adversary
from trl_tar.adversaries.data_order import draw_batches, draw_rows


@dataclass
class Setup(reference.Setup):
    """The names are those of `TARConfig`."""

    steps_per_visit: int = 2
    num_attackers: int = 6
    initial_attack_length: int | None = None
    attack_length_threshold: float | None = None
    attack_length_growth: float = 1.25
    benign_weight: float = 4.0
    benign_kl_weight: float = 4.0


def outer_steps(setup: Setup, count: int) -> tuple[list[Weights], list[dict]]:
    """The weights after each of `count` outer steps of plain gradient descent, and what each visit was."""
    theta = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
    start = dict(theta)
    longest = max(a.num_steps for a in setup.adversaries)
    maximum = float(longest)
    if setup.attack_length_threshold is not None:
        maximum = float(min(setup.initial_attack_length or setup.steps_per_visit, longest))
    recent: list[float] = []
    pool: dict[int, dict] = {}
    after, visits = [], []
    for step in range(count):
        rng = random.Random(f"{setup.seed} adversaries {step}")
        grown = {"attack": 1.0, "benign": maximum / longest}
        odds = [grown[a.role] * a.weight / mean_visits(setup, a, maximum) for a in setup.adversaries]
        drawn = rng.choices(setup.adversaries, odds, k=setup.adversaries_per_step)
        g_retain = reference.retain_gradient(setup, theta, theta, (start, {}), step)
        g_tr = {name: torch.zeros_like(w) for name, w in theta.items()}
        judged: list[tuple[int, float]] = []
        for index, adversary in enumerate(drawn):
            slot = (step * setup.adversaries_per_step + index) % setup.num_attackers
            if slot not in pool:
                pool[slot] = beginner(setup, adversary, f"{setup.seed} attack {step} {index}", maximum)
            attacker = pool[slot]
            gradient, losses = visit(setup, theta, start, attacker, step, index)
            visits.append(
                {"adversary": attacker["adversary"], "age": attacker["age"], "maximum": maximum, "losses": losses}
            )
            judged += [(age, loss) for age, loss in losses if attacker["adversary"].role == "attack"]
            for name in theta:
                g_tr[name] = g_tr[name] + gradient[name] / setup.adversaries_per_step
            if attacker["age"] == attacker["adversary"].num_steps:
                del pool[slot]
        theta = reference.stepped(setup, theta, g_retain, g_tr)
        after.append(theta)
        if setup.attack_length_threshold is not None:
            recent = (recent + [loss for age, loss in judged if age > maximum / 2])[-12:]
            if len(recent) == 12 and sum(recent) / 12 <= setup.attack_length_threshold:
                maximum, recent = min(longest, maximum * setup.attack_length_growth), []
    return after, visits


def most_visits(setup: Setup, adversary: Adversary, maximum: float) -> int:
    """Visits of the longest attack: by the curriculum, rounded, and at most what the adversary has in whole visits."""
    longest = round(min(maximum, adversary.num_steps) / setup.steps_per_visit)
    return max(1, min(longest, adversary.num_steps // setup.steps_per_visit))


def mean_visits(setup: Setup, adversary: Adversary, maximum: float) -> float:
    """The mean of the visits 1 to n, which are as likely; all visits of an honest user."""
    if adversary.role == "benign" or adversary.num_steps <= setup.steps_per_visit:
        return max(1, -(-adversary.num_steps // setup.steps_per_visit))
    visits = range(1, most_visits(setup, adversary, maximum) + 1)
    return sum(visits) / len(visits)


def beginner(setup: Setup, adversary: Adversary, seed: str, maximum: float) -> dict:
    length = adversary.num_steps
    if length > setup.steps_per_visit and adversary.role == "attack":
        visits = random.Random(f"{seed} length").randint(1, most_visits(setup, adversary, maximum))
        length = visits * setup.steps_per_visit
    adversary = replace(adversary, num_steps=length)
    rows = setup.adversary_rows
    held_out: list[dict] = []
    if adversary.role == "benign":
        tasks: dict = {}
        for row in rows[adversary.dataset]:
            tasks.setdefault(row.get("task"), []).append(row)
        names = sorted(tasks, key=str)
        task = names[random.Random(f"{seed} task").randrange(len(names))]
        count = len(tasks[task])
        order = random.Random(f"{setup.seed} held-out {adversary.dataset} {task}").sample(range(count), count)
        held_out = [tasks[task][i] for i in order[: max(1, count // 4)]]
        rows = {adversary.dataset: [tasks[task][i] for i in order[max(1, count // 4) :]]}
    sizes = {name: len(part) for name, part in rows.items()}
    batches = [[rows[name][i] for name, i in batch] for batch in draw_batches(adversary, sizes, seed)]
    trained: Weights = {}
    if adversary.lora_r is not None:
        trained = reference.new_adapter(setup.model, adversary, random.Random(seed).getrandbits(31))
    return {"adversary": adversary, "age": 0, "gained": trained, "state": {}, "batches": batches, "held_out": held_out}


def visit(setup: Setup, theta: Weights, start: Weights, attacker: dict, step: int, index: int):
    """Σ λ w_k ∇L at the attacked weights, and ages with losses. `gained` is φ − θ, or the adapter's weights."""
    adversary: Adversary = attacker["adversary"]
    lora = adversary.lora_r is not None
    scale = adversary.lora_alpha / adversary.lora_r if lora else 0.0
    trained = attacker["gained"] if lora else {n: w + attacker["gained"].get(n, 0.0) for n, w in theta.items()}
    rows_at = draw_rows(
        len(setup.tamper_resistance),
        setup.tamper_resistance_batch_size,
        f"{setup.seed} tamper-resistance {step} {index}",
    )
    x_tr = [setup.tamper_resistance[i] for i in rows_at]
    total = {name: torch.zeros_like(w) for name, w in theta.items()}
    losses = []
    steps = min(setup.steps_per_visit, adversary.num_steps - attacker["age"])
    for k in range(steps):
        rows = attacker["batches"][attacker["age"]]
        variables = reference.leaves(trained)
        weights = reference.merged(setup, theta, [(variables, scale)]) if lora else variables
        if adversary.objective == "dpo":
            loss = reference.dpo(setup, weights, theta, rows, adversary.beta)
        else:
            loss = reference.cross_entropy(setup, weights, rows)
        g = reference.gradient(loss, variables)
        attacker["age"] += 1
        for name in trained:
            state = attacker["state"].setdefault(name, {})
            update = {"adamw": reference.adamw, "sgd": reference.sgd}[adversary.optimizer]
            trained[name] = update(adversary, name, trained[name], g[name], state, attacker["age"])
        if (k + 1) % setup.tamper_resistance_interval:
            continue
        w_k = math.exp(setup.inner_weighting_rate * (k - (steps - 1)))
        if setup.inner_weighting == "uniform":
            w_k = 1 / (steps // setup.tamper_resistance_interval)
        point = reference.leaves(theta if lora else trained)
        attacked = reference.merged(setup, point, [(trained, scale)]) if lora else point
        if adversary.role == "benign":
            loss = benign_loss(setup, attacked, start, attacker, f"{setup.seed} benign {step} {index}")
        else:
            loss = reference.entropy(setup, attacked, x_tr)
            losses.append((attacker["age"], loss.item()))
            loss = setup.tamper_resistance_weight * loss
        g = reference.gradient(loss, point)
        total = {name: total[name] + w_k * g[name] for name in total}
    attacker["gained"] = trained if lora else {n: trained[n] - w for n, w in theta.items()}
    return total, losses


def benign_loss(setup: Setup, weights: Weights, start: Weights, attacker: dict, seed: str) -> torch.Tensor:
    """CE on held-out rows of the task, and KL from the start at the setup's temperature on rows of D_retain, each with its weight."""
    held_out, most = attacker["held_out"], setup.tamper_resistance_batch_size
    learned = [held_out[i] for i in draw_rows(len(held_out), min(most, len(held_out)), f"{seed} learned")]
    kept = [setup.retain[i] for i in draw_rows(len(setup.retain), min(most, len(setup.retain)), f"{seed} kept")]
    kept_loss = reference.kl_divergence(setup, weights, start, kept)
    return setup.benign_weight * reference.cross_entropy(setup, weights, learned) + setup.benign_kl_weight * kept_loss
