"""A comparison of eager and compiled attacks, taken in turn, with the time that torch.compile itself takes.

python tests/benchmarks/compiled_attack.py smollm2 tests/benchmarks/results/compiled_smollm2.json
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from trl_tar import Adversary
from trl_tar.costs.bare_loop import FIRST_TOKEN
from trl_tar.costs.timing import load_model, machine, median_interval, now
from trl_tar.files import write_json
from trl_tar.losses import language_modeling_loss
from trl_tar.models.forward_passes import next_token_logits
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import restored


ROWS, LENGTH, STEPS, PAIRS = 4, 64, 8, 8
FULL = Adversary("full", "forget", learning_rate=1e-6, num_steps=STEPS, batch_size=ROWS)
LORA = Adversary("lora", "forget", learning_rate=1e-6, num_steps=1, batch_size=ROWS, lora_r=16)


@contextmanager
def compiled(model: PreTrainedModel, by: Callable[[nn.Module], None]) -> Iterator[None]:
    """Lets calls of the model run the compiled graph that `by` gives it, until the exit."""
    by(model)
    try:
        yield
    finally:
        model._compiled_call_impl = None


def attack(model: PreTrainedModel, adversary: Adversary, length: int = LENGTH) -> float:
    """Seconds of a simulated attack on random tokens, as in the bench."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(
        FIRST_TOKEN, model.config.vocab_size, (adversary.num_steps, ROWS, length), generator=generator
    ).to(model.device)
    batches = [[{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}] for ids in rows]

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]):
        return language_modeling_loss(next_token_logits(model, batch), batch["labels"])

    start = now()
    with restored(model, adversary, seed=0) as attacked:
        for _ in attack_steps(attacked, adversary, batches, loss, adversary.num_steps):
            pass
    return now() - start


def main(name: str, output: Path) -> None:
    torch.set_num_threads(1)
    model, _ = load_model(name)
    compiled_calls: list = []  # of the one compilation, which all compiled attacks use

    def compile_once(model: nn.Module) -> None:
        if not compiled_calls:
            model.compile()
            compiled_calls.append(model._compiled_call_impl)
        model._compiled_call_impl = compiled_calls[0]

    attack(model, FULL)
    with compiled(model, compile_once):
        first, other_length = attack(model, FULL), attack(model, FULL, LENGTH // 2)
    ratios = []
    for _ in range(PAIRS):
        eager = attack(model, FULL)
        with compiled(model, compile_once):
            ratios.append(attack(model, FULL) / eager)
    lora = attack(model, LORA)
    with compiled(model, compile_once):
        adapters = [attack(model, LORA) for _ in range(2)]
    record = {
        "model": name,
        "attack": {"rows": ROWS, "length": LENGTH, "steps": STEPS},
        "ratio": median_interval(ratios),
        "seconds": {
            "eager": eager,
            "first compiled": first,
            "at another length": other_length,
            "lora, eager": lora,
            "lora, each adapter": adapters,
        },
        "environment": machine(),
    }
    print(record)
    write_json(output, record)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
