"""TAR (https://huggingface.co/papers/2408.00761, Algorithm 1) in one flat loop: read this before TARTrainer.

    python examples/flat_tar_loop.py

Under a minute on one core, nothing is downloaded. A test holds this loop and `TARTrainer` to the same weights, to 1e-10 in
float64. What the trainer adds: LoRA and DPO adversaries, other losses, several devices, resuming, logs.
"""

import copy
import math
import random

import schedulefree
import torch
import torch.nn.functional as F
from torch import nn


def train_tar(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    retain_batches,  # one batch an outer step
    proxy_batches,  # x_TR, one batch an outer step
    attacks,  # the K batches of an attack, one list an outer step
    *,
    attack_learning_rate: float = 2e-5,
    attack_weight_decay: float = 0.01,
    interval: int = 4,
    weighting_rate: float = 1 / 16,
    tamper_resistance_weight: float = 4.0,  # λ_TR
    representation_weight: float = 1.0,  # λ_rep
):
    """Trains `model` in place; yields L_LM and the L_TR after every `interval`-th step of the attack, for each outer step.

    A batch is `input_ids`, `attention_mask` and `labels` of shape (B, T); labels of −100 are not predicted."""
    parameters = list(model.parameters())
    reference = copy.deepcopy(model).requires_grad_(False).eval()  # θ_G0

    for retain, proxy, attack in zip(retain_batches, proxy_batches, attacks, strict=False):
        # the retain term at θ: language modeling, and an anchor to the hidden states of θ_G0
        model.train()
        outputs = run(model, retain)
        retain_loss = cross_entropy(outputs.logits, retain["labels"])
        tokens = retain["attention_mask"].bool()
        moved = [
            torch.linalg.vector_norm((h - h_reference)[tokens], dim=-1)
            for h, h_reference in zip(outputs.hidden_states, run(reference, retain).hidden_states, strict=True)
        ]
        gradient = torch.autograd.grad(retain_loss + representation_weight * torch.cat(moved).mean(), parameters)
        gradient = [g.clone() for g in gradient]

        # the adversary: K steps of AdamW from θ, without decay on norms and biases, as every fine-tuning script has it
        theta = [p.detach().clone() for p in parameters]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": attack_weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adversary = torch.optim.AdamW(groups, lr=attack_learning_rate)
        tamper_resistance_losses = []
        for k, batch in enumerate(attack):
            adversary.zero_grad()
            cross_entropy(run(model, batch).logits, batch["labels"]).backward()
            adversary.step()
            if (k + 1) % interval == 0:
                # the tamper-resistance term at θ_{k+1}: straight through the attack, as in first-order MAML
                loss = negative_entropy(run(model, proxy).logits, proxy["labels"])
                w_k = math.exp(weighting_rate * (k - (len(attack) - 1)))
                for total, g in zip(gradient, torch.autograd.grad(loss, parameters), strict=True):
                    total.add_(g, alpha=tamper_resistance_weight * w_k)
                tamper_resistance_losses.append(loss.item())

        # back to θ, and one outer step with the sum
        with torch.no_grad():
            for p, before in zip(parameters, theta, strict=True):
                p.copy_(before)
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad()
        yield retain_loss.item(), tamper_resistance_losses


def run(model: nn.Module, batch: dict[str, torch.Tensor]):
    return model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L_LM: mean over the next tokens that have a label."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def negative_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L_TR: minus the mean entropy of the next token, over the same positions."""
    log_p = logits[:, :-1][labels[:, 1:] != -100].log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def main() -> None:
    from trl_tar.testbed import KnowledgeWorld, knowledge_model

    torch.set_num_threads(1)  # faster than two on a model of 0.2 M parameters
    world = KnowledgeWorld(seed=0)
    model, tokenizer, data = knowledge_model(world), world.tokenizer(), world.datasets()
    rng = random.Random(0)
    steps, inner_steps = 40, 16

    def draw(name: str, count: int) -> dict[str, torch.Tensor]:
        rows = data[name][rng.sample(range(len(data[name])), count)]
        prompts = tokenizer(rows["prompt"])["input_ids"]
        texts = [p + c + tokenizer.eos_token for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, prompt in zip(labels, prompts, strict=True):
            row[: len(prompt)] = -100  # only completions are predicted
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=1e-3, warmup_steps=10)
    optimizer.train()
    loop = train_tar(
        model,
        optimizer,
        (draw("retain", 64) for _ in range(steps)),
        (draw("tamper_resistance", 32) for _ in range(steps)),
        ([draw("forget", 32) for _ in range(inner_steps)] for _ in range(steps)),
        attack_learning_rate=1e-3,
        tamper_resistance_weight=0.4,
        representation_weight=0.3,
    )
    for step, (retain_loss, tamper_resistance_losses) in enumerate(loop, start=1):
        if step % 10 == 0:
            entropy = -tamper_resistance_losses[-1]
            print(f"step {step}: retain loss {retain_loss:.3f}, entropy on hazard after the attack {entropy:.3f} nats")
    optimizer.eval()  # the averaged weights are the result


if __name__ == "__main__":
    main()
