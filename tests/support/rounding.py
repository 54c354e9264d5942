"""How far an attack moves weights, in float32 and in bfloat16."""

from functools import cache

import torch

from trl_tar import Adversary
from trl_tar.costs.timing import load_model
from trl_tar.losses import language_modeling_loss
from trl_tar.models.forward_passes import next_token_logits
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import restored


ENOUGH = 0.98  # of the way that float32 goes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def displacement(dtype, in_backward=False, optimizer="adamw", device="cpu") -> torch.Tensor:
    """How far 64 steps at 2e-6 move the weights, from values that bfloat16 has, in float64 and one vector."""
    model, _ = load_model("world")
    model.to(torch.bfloat16).to(device, dtype)
    rows = torch.randint(0, model.config.vocab_size, (64, 4, 24), generator=generator(1)).to(device)
    adversary = Adversary("a", "forget", learning_rate=2e-6, num_steps=64, batch_size=4, optimizer=optimizer)

    def loss(model, batch):
        with torch.autocast(device, torch.bfloat16):
            logits = next_token_logits(model, batch)
        return language_modeling_loss(logits.float(), batch["labels"])

    batches = [[{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}] for ids in rows]
    start = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    with restored(model, adversary, seed=3) as attacked:
        for _ in attack_steps(attacked, adversary, batches, loss, interval=64, in_backward=in_backward):
            end = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    assert all(p.dtype == dtype for p in model.parameters())
    return end - start


def share(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far `found` goes along `expected`, as a share of its length."""
    return (found @ expected / (expected @ expected)).item()
