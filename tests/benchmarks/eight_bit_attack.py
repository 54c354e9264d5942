"""A comparison of attacks whose AdamW has its state in 8 bits and in 32 bits, on the same batches.

python tests/benchmarks/eight_bit_attack.py world tests/benchmarks/results/eight_bit_world.json
"""

import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trl_tar import Adversary
from trl_tar.costs.timing import load_model, machine
from trl_tar.files import write_json
from trl_tar.losses import language_modeling_loss
from trl_tar.models.forward_passes import next_token_logits
from trl_tar.report.intervals import t_interval
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import restored
from trl_tar.testbed import KnowledgeWorld


SEEDS, STEPS, ROWS = (0, 1, 2), 64, 16
ADAMW = Adversary("a", "attacker", learning_rate=2e-5, num_steps=STEPS, batch_size=ROWS)
EIGHT_BIT = replace(ADAMW, optimizer="adamw_8bit")
Batch = dict[str, torch.Tensor]


def batches_of(tokenizer: PreTrainedTokenizerBase, texts: list[str], device: torch.device) -> list[Batch]:
    """Batches of `ROWS` texts each; the labels leave padding out."""
    batches = []
    for start in range(0, len(texts) - ROWS + 1, ROWS):
        rows = tokenizer(texts[start : start + ROWS], padding=True, padding_side="right", return_tensors="pt").to(
            device
        )
        ids, mask = rows["input_ids"], rows["attention_mask"]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return batches


def loss_function(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return language_modeling_loss(next_token_logits(model, batch), batch["labels"])


@torch.no_grad()
def mean_loss(model: nn.Module, batches: list[Batch]) -> float:
    """The mean loss in nats per token."""
    sums = [loss_function(model, batch) for batch in batches]
    return (sum(total for total, _ in sums) / sum(count for _, count in sums)).item()


def attack(
    model: PreTrainedModel, adversary: Adversary, batches: list[Batch], all_batches: list[Batch]
) -> tuple[float, torch.Tensor]:
    """The attacker's loss on all its data after the attack, in nats per token, and the displacement of the weights."""
    start = flat(model)
    with restored(model, adversary, seed=0) as attacked:
        steps = attack_steps(attacked, adversary, [[batch] for batch in batches], loss_function, adversary.num_steps)
        next(steps)
        return mean_loss(attacked.model, all_batches), flat(model) - start


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def main(name: str, output: Path) -> None:
    model, tokenizer = load_model(name)
    texts = [row["prompt"] + row["completion"] for row in KnowledgeWorld(0).datasets()["attacker"]]
    all_batches = batches_of(tokenizer, texts, model.device)
    runs = []
    for seed in SEEDS:
        batches = batches_of(tokenizer, random.Random(seed).choices(texts, k=STEPS * ROWS), model.device)
        loss, moved = attack(model, ADAMW, batches, all_batches)
        loss_8bit, moved_8bit = attack(model, EIGHT_BIT, batches, all_batches)
        runs.append(
            {
                "loss": {"adamw": loss, "adamw_8bit": loss_8bit},
                "along": (
                    moved_8bit @ moved / (moved @ moved)
                ).item(),  # as a share of AdamW's displacement, as is `aside`
                "aside": ((moved_8bit - moved).norm() / moved.norm()).item(),
            }
        )
        print(runs[-1], flush=True)
    record = {
        "model": name,
        "attack": {"learning_rate": ADAMW.learning_rate, "steps": STEPS, "rows": ROWS},
        "loss before": mean_loss(model, all_batches),
        "runs": runs,
        "difference of losses": t_interval([run["loss"]["adamw_8bit"] - run["loss"]["adamw"] for run in runs]),
        "along": t_interval([run["along"] for run in runs]),
        "aside": t_interval([run["aside"] for run in runs]),
        "environment": machine(),
    }
    print(record)
    write_json(output, record)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
