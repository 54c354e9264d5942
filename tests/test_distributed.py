"""Two processes on the same global batch of unequal rows give the weights of one process."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import tiny
import torch
from filelock import FileLock
from safetensors.torch import load_file


TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the weights of all cases, by one process and by two."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return train_all(tmp_path_factory.mktemp("distributed"))
    shared = tmp_path_factory.getbasetemp().parent  # of all workers
    with FileLock(shared / "distributed.lock"):
        output = shared / "distributed"
        return output if (output / "done").exists() else train_all(output)


def train_all(output: Path) -> Path:
    output.mkdir(exist_ok=True)
    for case in distributed_worker.CASES:
        distributed_worker.train(case, output, 1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    worker = [str(TESTS / "distributed_worker.py"), str(output), *distributed_worker.CASES]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *worker], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (output / "done").touch()
    return output


@pytest.mark.parametrize("case", distributed_worker.CASES)
def test_two_processes_equal_one(trained, case):
    one, two = (load_file(trained / f"{case}-{n}.safetensors") for n in (1, 2))
    if case == "peft":
        start = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in one.items()}
    else:
        start = tiny.weights(tiny.gpt2(dtype=next(iter(one.values())).dtype))
    # an outer Adam divides the rounding of key biases, whose gradient is 0 (about 1e-18), by its ε of 1e-8
    limit = 1e-6 if case.startswith("float32") else 1e-8 if case == "schedule-free" else 1e-10
    assert tiny.displacement_error(two, one, start) < limit


@pytest.mark.parametrize("case", distributed_worker.CASES)
def test_two_processes_log_what_one_logs(trained, case):
    one, two = (load_file(trained / f"{case}-{n}-log.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), name
