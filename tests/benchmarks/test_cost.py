"""What an outer step costs: passes are counted exactly, time and memory compared with the bare loop's.

trl-tar bench smollm2 --steps 8 --output tests/benchmarks/results/smollm2.json
trl-tar bench world --output tests/benchmarks/results/world.json
"""

import json
import re
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from trl_tar.bench import Cost, load_model, measure, median_interval, trainer_for
from trl_tar.growth import AXES


RESULTS = Path(__file__).parent / "results"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAX_RATIO = {"world": 1.25, "smollm2": 1.05}
MAX_PEAK = {"smollm2": 1.75}


class Passes:
    """Counts forward passes, those of them with a gradient, and backward passes of a model."""

    def __init__(self, model):
        self.forward = self.with_gradient = self.backward = 0
        model.get_input_embeddings().register_forward_hook(self._count)
        model.get_output_embeddings().register_full_backward_hook(self._count_backward)

    def _count(self, *_):
        self.forward += 1
        self.with_gradient += torch.is_grad_enabled()

    def _count_backward(self, *_):
        self.backward += 1


@pytest.mark.parametrize(
    "cost",
    [
        Cost(2, 8),
        Cost(2, 8, num_steps=6, interval=4),
        Cost(2, 8, num_steps=3, interval=1, adversaries=2),
        Cost(2, 8, lora_r=2),
    ],
    ids=lambda cost: f"K={cost.num_steps}-S={cost.adversaries}-r={cost.lora_r}",
)
def test_an_outer_step_makes_the_passes_of_its_arithmetic_and_no_other(tmp_path, cost):
    model, tokenizer = load_model("world")
    passes = Passes(model)
    trainer_for(model, tokenizer, cost, 2, tmp_path).train()
    assert passes.with_gradient == passes.backward == 2 * cost.passes
    assert passes.forward == 2 * (cost.passes + 1)  # the reference of the anchor has no backward pass
    assert Cost(num_steps=64, interval=4).passes == 64 + 16 + 1


def test_the_interval_of_a_median_is_that_of_order_statistics():
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 8.0, 7.0, 6.0, 9.0]
    found = median_interval(values)
    # of nine values the 2nd and the 8th enclose the median with 1 − 2 · P(B ≤ 1) = 96 %
    assert 1 - 2 * binom.cdf(1, 9, 0.5) > 0.95 > 1 - 2 * binom.cdf(2, 9, 0.5)
    assert found == {"median": 5.0, "low": 2.0, "high": 8.0, "n": 9}
    assert median_interval([1.0, 2.0])["low"] is None


@pytest.mark.parametrize("model", MAX_RATIO)
def test_the_record_is_what_is_told(model):
    record = json.loads((RESULTS / f"{model}.json").read_text())
    assert f"| {record['peak_memory']['ratio']:.2f} |" in README
    assert f"{record['ratio']['median']:.2f} [{record['ratio']['low']:.2f}, {record['ratio']['high']:.2f}]" in README


def test_the_growth_that_is_told_was_recorded_and_is_that_of_the_passes():
    points = json.loads((RESULTS / "growth.json").read_text())["points"]
    by_axis = {axis: [each for each in points if each["axis"] == axis] for axis in AXES}
    assert {axis: tuple(each["value"] for each in of) for axis, of in by_axis.items()} == AXES
    for axis in ("num_steps", "adversaries"):
        told = [f"{each['trainer']:.3f}" for each in by_axis[axis]]
        assert f"{', '.join(told[:-1])} and {told[-1]} s" in README
    wider = [each["trainer"] / each["bare_loop"] for each in by_axis["hidden_size"][1:]]
    assert f"{min(wider):.2f} to {max(wider):.2f} times the bare loop once" in README
    short, long = by_axis["num_steps"][0], by_axis["num_steps"][-1]
    assert long["trainer"] / short["trainer"] < 1.05 * long["passes"] / short["passes"]


def test_what_compiling_would_save_is_what_is_told():
    for model in MAX_RATIO:
        ratio = json.loads((RESULTS / f"compiled_{model}.json").read_text())["ratio"]
        assert f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" in README


FULL_COLUMN = re.findall(r"^\| .*? \| (\d+) \| \d+ \| \d+ \|$", README, re.MULTILINE)  # of the table of memory modes


def test_state_by_kind_is_what_is_told():
    assert len(FULL_COLUMN) == 3
    for model in MAX_RATIO:
        state = json.loads((RESULTS / f"{model}.json").read_text())["state"]
        device = [sum(kind["device"] for kind in kinds.values()) for kinds in state.values()]
        assert [f"{bytes:.0f}" for bytes in device] == FULL_COLUMN
        assert {kind for kind, bytes in state["offload"].items() if bytes["host"]} == {
            *("snapshot", "retain gradient", "outer optimizer", "reference")
        }


@pytest.mark.slow
@pytest.mark.parametrize("model", MAX_RATIO)
def test_time_and_memory_are_within_the_bars(model):
    found = measure(model, Cost(), steps=20 if model == "world" else 8)
    assert found["ratio"]["low"] <= MAX_RATIO[model]
    assert found["peak_memory"]["ratio"] <= MAX_PEAK.get(model, 2.0)
