"""Two processes, and four in two groups, on the same global batch of unequal rows give the weights of one process."""

import distributed_worker
import pytest
import tiny
import torch
from launched import launch, made_once
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the weights of all cases, by one process and by two."""
    return made_once(tmp_path_factory, "distributed", train_all)


def train_all(output):
    for case in distributed_worker.CASES:
        distributed_worker.train(case, output, 1)
    for processes, cases in ((2, [*distributed_worker.CASES, *distributed_worker.ROUNDED]), (4, ["groups"])):
        done = launch(processes, "distributed_worker.py", str(output), *cases)
        assert done.returncode == 0, done.stderr[-4000:]


AUTOCAST = "float32-autocast"
SEVERAL = [*((case, 2) for case in distributed_worker.CASES), ("groups", 4)]


@pytest.mark.parametrize(("case", "processes"), SEVERAL)
def test_several_processes_equal_one(trained, case, processes):
    one, several = (load_file(trained / f"{case}-{n}.safetensors") for n in (1, processes))
    if case == "peft":
        start = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in one.items()}
    else:
        start = tiny.weights(tiny.gpt2(dtype=next(iter(one.values())).dtype))
    # an outer Adam divides the rounding of key biases, whose gradient is 0 (about 1e-18), by its ε of 1e-8
    limits = {"schedule-free": 1e-8, "float32": 1e-6, "float32-lora": 1e-6, AUTOCAST: 0.1}  # the last: eight bits
    assert tiny.displacement_error(several, one, start) < limits.get(case, 1e-10)


@pytest.mark.parametrize(("case", "processes"), SEVERAL)
def test_several_processes_log_what_one_logs(trained, case, processes):
    one, several = (load_file(trained / f"{case}-{n}-log.safetensors") for n in (1, processes))
    assert one.keys() == several.keys()
    tolerance = {"rel": 0.05, "abs": 0.05} if case == AUTOCAST else {"rel": 1e-5, "abs": 1e-9}
    for name, value in one.items():
        assert several[name].item() == pytest.approx(value.item(), **tolerance), name
