"""FSDP2 on two and on four processes gives the weights of one process, and a run goes on with another number of them."""

import pytest
import sharded_worker
import tiny
import torch
from launched import launch, made_once
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


WORKER = "sharded_worker.py"
RESUMED = ("full", "schedule-free")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the weights of all cases, by one process, by two and by four."""
    return made_once(tmp_path_factory, "sharded", train_all)


def train_all(output):
    for case in sharded_worker.CASES:
        sharded_worker.train(case, output, 1, "train")
    for processes in (2, 4):
        done = launch(processes, WORKER, str(output), "train", *sharded_worker.CASES)
        assert done.returncode == 0, done.stderr[-4000:]
    for case in RESUMED:
        assert launch(2, WORKER, str(output), "kill", case).returncode != 0
        assert not (output / f"{case}-2-kill.safetensors").exists()
        done = launch(4, WORKER, str(output), "resume", case)
        assert done.returncode == 0, done.stderr[-4000:]


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
