"""Two processes, and four in two groups, on the same global batch of unequal rows give the weights of one process."""

import pytest
import torch
from safetensors.torch import load_file
from support import distributed_worker, tiny
from support.launched import launch, made_once


AUTOCAST = "float32-autocast"
QUICK = ("full", "lora", "no-rows", "several", "dpo", "accumulated", "anchors", "peft", "groups", AUTOCAST)
MORE = tuple(case for case in distributed_worker.CASES if case not in QUICK)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the weights of the cases, by one process and by two."""
    return made_once(
        tmp_path_factory,
        "distributed",
        lambda output: train_all(output, QUICK, {2: (*QUICK, *distributed_worker.ROUNDED)}),
    )


@pytest.fixture(scope="module")
def trained_more(tmp_path_factory):
    """The same for further cases, and four processes."""
    launched = {2: MORE, 4: ("groups",)}
    return made_once(
        tmp_path_factory, "distributed-more", lambda output: train_all(output, (*MORE, "groups"), launched)
    )


def train_all(output, alone, launched):
    for case in alone:
        distributed_worker.train(case, output, 1)
    for processes, cases in launched.items():
        done = launch(processes, "distributed_worker.py", str(output), *cases)
        assert done.returncode == 0, done.stderr[-4000:]


def check_equal(trained, case, processes):
    one, several = (load_file(trained / f"{case}-{n}.safetensors") for n in (1, processes))
    if case == "peft":
        start = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in one.items()}
    else:
        start = tiny.weights(tiny.gpt2(dtype=next(iter(one.values())).dtype))
    # an outer Adam divides the rounding of key biases, whose gradient is 0 (about 1e-18), by its ε of 1e-8
    limits = {"schedule-free": 1e-8, "float32": 1e-6, "float32-lora": 1e-6, AUTOCAST: 0.1}  # the last: eight bits
    assert tiny.displacement_error(several, one, start) < limits.get(case, 1e-10)
    check_logged(trained, case, processes)


def check_logged(trained, case, processes):
    one, several = (load_file(trained / f"{case}-{n}-log.safetensors") for n in (1, processes))
    assert one.keys() == several.keys()
    tolerance = {"rel": 0.05, "abs": 0.05} if case == AUTOCAST else {"rel": 1e-5, "abs": 1e-9}
    for name, value in one.items():
        assert several[name].item() == pytest.approx(value.item(), **tolerance), name


@pytest.mark.parametrize("case", QUICK)
def test_two_processes_equal_one(trained, case):
    check_equal(trained, case, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "processes"), [*((case, 2) for case in MORE), ("groups", 4)])
def test_further_trainings_by_several_processes_equal_those_by_one(trained_more, case, processes):
    check_equal(trained_more, case, processes)
