"""What the red team's evaluations cost beside the attack's own training."""

import statistics
import time

import pytest
import torch
from test_planted_models import DATA, TOKENIZER, WORLD

from trl_tar import Adversary
from trl_tar.red_teaming.attack import run_attack
from trl_tar.red_teaming.rows import tokenised_datasets
from trl_tar.testbed import knowledge_metrics
from trl_tar.testbed.models import knowledge_model


MIX = Adversary("mix", mixture={"attacker": 0.5, "retain": 0.5}, learning_rate=1e-4, num_steps=500, batch_size=32)


@pytest.mark.slow
def test_evaluation_costs_at_most_half_of_the_training():
    metrics = knowledge_metrics(WORLD.seed)
    rows = tokenised_datasets(knowledge_model(WORLD), TOKENIZER, MIX, DATA, 32)

    def evaluate(model):
        return {name: float(metric(model, TOKENIZER).mean()) for name, metric in metrics.items()}

    def seconds(**steps) -> float:
        model, start = knowledge_model(WORLD), time.process_time()
        run_attack(model, TOKENIZER, MIX, rows, 0, evaluate, max_length=32, **steps)
        return time.process_time() - start

    torch.set_num_threads(1)
    seconds()  # caches
    ratios = [seconds() / seconds(evaluation_steps=()) - 1 for _ in range(3)]  # in turn: the machine is shared
    print(f"overhead {statistics.median(ratios):.0%} (from {min(ratios):.0%} to {max(ratios):.0%})")
    assert statistics.median(ratios) <= 0.5
