"""What the red team's evaluations cost beside the attack's own training."""

import random
import statistics
import time

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_tar import Adversary
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.red_teaming.attack import default_evaluation_steps, run_attack
from trl_tar.red_teaming.attack_rows import tokenised_datasets
from trl_tar.testbed import KnowledgeWorld, knowledge_metrics
from trl_tar.testbed.knowledge.models import knowledge_model
from trl_tar.testbed.smollm2.weights import smollm2_path


WORLD = KnowledgeWorld(0)
TOKENIZER = WORLD.tokenizer()
DATA = WORLD.datasets()
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


def _words(tokenizer) -> list[str]:
    pieces = (tokenizer.decode([i]).strip() for i in range(2000, 20_000))
    return [piece for piece in pieces if piece.isalpha() and len(piece) > 3]


@pytest.mark.slow
def test_evaluation_costs_at_most_a_tenth_of_the_training_of_a_real_model():
    """SmolLM2 under 500 steps of 8 rows of 128 tokens, and 512 four-way questions at each of the default 16 evaluations.

    Steps and evaluations are timed in the same run, a few of each: a whole attack takes more than an hour on one core."""
    path = smollm2_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    rng, words = random.Random(0), _words(tokenizer)
    text = Dataset.from_dict({"text": [" ".join(rng.choices(words, k=200)) for _ in range(32)]})
    metrics = {
        name: MultipleChoice(
            [
                {
                    "prompt": f"The capital city of {rng.choice(words).title()} is called",
                    "choices": [f" {word.title()}" for word in rng.sample(words, 4)],
                    "answer": 0,
                }
                for _ in range(256)
            ]
        )
        for name in ("harm", "capability")
    }
    attack = Adversary("text", "text", learning_rate=1e-5, num_steps=4, batch_size=8)

    def load():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    rows = tokenised_datasets(load(), tokenizer, attack, {"text": text}, 128)
    assert {len(ids) for ids in rows["text"]["input_ids"]} == {128}

    def evaluate(model):
        return {name: float(metric(model, tokenizer).mean()) for name, metric in metrics.items()}

    def seconds(steps) -> float:
        model, start = load(), time.process_time()
        run_attack(model, tokenizer, attack, rows, 0, evaluate, max_length=128, evaluation_steps=steps)
        return time.process_time() - start

    torch.set_num_threads(1)
    ratios = []
    for _ in range(3):
        last, every = seconds((4,)), seconds((0, 1, 2, 3, 4))
        evaluation = (every - last) / 4
        step = (last - evaluation) / 4
        ratios.append(len(default_evaluation_steps(500)) * evaluation / (500 * step))
    print(f"overhead {statistics.median(ratios):.1%} (from {min(ratios):.1%} to {max(ratios):.1%})")
    assert statistics.median(ratios) <= 0.1
