"""FSDP2 on two and on four processes gives the weights of one process, and a run goes on with another number of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_worker
import tiny
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


TESTS = Path(__file__).parent
RESUMED = ("full", "schedule-free")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the weights of all cases, by one process, by two and by four."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return train_all(tmp_path_factory.mktemp("sharded"))
    shared = tmp_path_factory.getbasetemp().parent  # of all workers
    with FileLock(shared / "sharded.lock"):
        output = shared / "sharded"
        return output if (output / "done").exists() else train_all(output)


def train_all(output: Path) -> Path:
    output.mkdir(exist_ok=True)
    for case in sharded_worker.CASES:
        sharded_worker.train(case, output, 1, "train")
    for processes in (2, 4):
        done = launch(processes, output, "train", *sharded_worker.CASES)
        assert done.returncode == 0, done.stderr[-4000:]
    for case in RESUMED:
        assert launch(2, output, "kill", case).returncode != 0
        assert not (output / f"{case}-2-kill.safetensors").exists()
        done = launch(4, output, "resume", case)
        assert done.returncode == 0, done.stderr[-4000:]
    (output / "done").touch()
    return output


def launch(processes: int, output: Path, job: str, *cases: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*command, str(TESTS / "sharded_worker.py"), str(output), job, *cases],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start() -> dict[str, torch.Tensor]:
    return tiny.weights(tiny.gpt2())


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", sharded_worker.CASES)
def test_sharded_training_equals_that_of_one_process(trained, case, processes):
    one, sharded = (load_file(trained / f"{case}-{n}-train.safetensors") for n in (1, processes))
    # as under DDP: an outer Adam divides the rounding of key biases, whose gradient is 0, by its ε of 1e-8
    assert tiny.displacement_error(sharded, one, start()) < (1e-8 if case == "schedule-free" else 1e-12)
    logs = [load_file(trained / f"{case}-{n}-train-log.safetensors") for n in (1, processes)]
    assert logs[0].keys() == logs[1].keys()
    for name, value in logs[0].items():
        assert logs[1][name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_killed_on_two_processes_goes_on_with_four(trained, case):
    one, resumed = (
        load_file(trained / f"{case}-1-train.safetensors"),
        load_file(trained / f"{case}-4-resume.safetensors"),
    )
    assert tiny.displacement_error(resumed, one, start()) < (1e-8 if case == "schedule-free" else 1e-12)


@pytest.mark.parametrize("case", ["full", "lora", "schedule-free"])
def test_the_saved_model_is_whole_and_as_from_one_process(trained, case):
    one, two = (
        tiny.weights(AutoModelForCausalLM.from_pretrained(trained / f"{case}-{n}-train", dtype=torch.float64))
        for n in (1, 2)
    )
    assert tiny.displacement_error(two, one, start()) < (1e-8 if case == "schedule-free" else 1e-12)
