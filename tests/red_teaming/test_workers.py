"""A red team that is killed at any moment, or finds the disk full, goes on where it was."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from peft import PeftModel
from support.attacks import METRICS, SUITE, Likelihood, attacked, raw_data, tiny_model

from trl_tar.red_teaming.job import Job
from trl_tar.red_teaming.workers import _run_alone


SCRIPT = """
import sys
from support.attacks import raw_data
from support.attacks import attacked
if __name__ == "__main__":
    attacked(raw_data(), sys.argv[1], references={}, num_workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_red_team_goes_on_with_what_is_missing(tmp_path, num_workers):
    script = tmp_path / "attacks.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path, str(num_workers)], env=environment, start_new_session=True
    )
    jobs, deadline = tmp_path / "jobs", time.monotonic() + 60
    while not list(jobs.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {file: file.stat().st_mtime_ns for file in jobs.glob("[!.]*.json")}
    assert 1 <= len(finished) < 5

    report = attacked(raw_data(), tmp_path, references={})
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert asdict(report) == asdict(attacked(raw_data(), tmp_path / "whole", references={}))


@pytest.mark.slow
def test_workers_end_when_the_run_is_killed(tmp_path):
    script = tmp_path / "attacks.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, script, tmp_path, "2"], env=environment, start_new_session=True)
    jobs, deadline = tmp_path / "jobs", time.monotonic() + 60
    while not list(jobs.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()  # the parent alone, as the kernel or a user would
    process.wait()
    deadline = time.monotonic() + 20
    while alive := _in_group(process.pid):
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def _in_group(group: int) -> list[str]:
    found = subprocess.run(["ps", "-ww", "-o", "pid=,stat=,args=", "-g", str(group)], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if " Z" not in line and "spawn_main" in line]


def test_a_full_disk_is_one_sentence_and_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    whole = attacked(raw_data(), tmp_path / "whole", references={})
    jobs = sorted((tmp_path / "whole" / "jobs").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    folder = tmp_path / "full" / "jobs"

    def without_room(source, target):
        if Path(target).name == jobs[3].name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    replaced = os.replace
    with (
        monkeypatch.context() as full,
        pytest.raises(OSError, match=r"cannot be written \(No space left on device\). Make room and start again"),
    ):
        full.setattr(os, "replace", without_room)
        attacked(raw_data(), tmp_path / "full", references={})
    finished = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {file.name for file in finished} == {file.name for file in jobs[:3]}

    report = attacked(raw_data(), tmp_path / "full", references={})
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert asdict(report) == asdict(whole)


@dataclass(frozen=True)
class OnAdapters(Likelihood):
    """Ends its process, or raises, when it is asked about a model with an adapter."""

    does: str = "ends"

    def __call__(self, model, tokenizer):
        if isinstance(model, PeftModel):
            if self.does == "raises":
                raise KeyError("a bug in a metric")
            os._exit(9)  # as the kernel ends a process that takes too much memory
        return super().__call__(model, tokenizer)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_own_attack_and_no_other(tmp_path):
    metrics = {**METRICS, "bystander": OnAdapters(80)}
    report = attacked(raw_data(), tmp_path, references={}, metrics=metrics, num_workers=2)
    assert {(a.adversary, a.status) for a in report.attacks} == {("full", "completed"), ("lora", "failed")}
    assert "its worker died" in next(a.error for a in report.attacks if a.adversary == "lora")
    gate = next(gate for gate in report.verdict.gates if gate.name == "unfinished_attacks")
    assert (gate.value, gate.passed) == (2, False)


@dataclass(frozen=True)
class Noted(OnAdapters):
    """Leaves a file for each process that asks it."""

    folder: str = ""

    def __call__(self, model, tokenizer):
        Path(self.folder, str(os.getpid())).touch()
        return super().__call__(model, tokenizer)


@pytest.mark.slow
def test_only_jobs_that_ran_when_a_worker_died_run_alone(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    full = [replace(SUITE[0], name=name) for name in "abcde"]
    report = attacked(
        raw_data(),
        tmp_path,
        adversaries=[SUITE[1], *full],
        seeds=[0],
        references={},
        metrics={**METRICS, "bystander": Noted(80, folder=str(seen))},
        num_workers=2,
    )
    assert {a.adversary for a in report.attacks if a.status == "completed"} == set("abcde")
    # the two that ran when one died, the two that took their jobs up alone, and two for all of the rest
    assert len(list(seen.iterdir())) <= 6


def test_a_measurement_whose_worker_dies_is_one_sentence(monkeypatch):
    monkeypatch.setattr("trl_tar.red_teaming.workers._run_in_pool", lambda *arguments: iter([("", None)]))
    with pytest.raises(OSError, match="The worker that measured 'model' died.*Start again with the same output_dir"):
        _run_alone(Job("model", "0" * 64, "1" * 64), None)


@pytest.mark.slow
def test_an_error_of_a_metric_ends_the_run_and_keeps_what_was_running(tmp_path):
    metrics = {**METRICS, "bystander": OnAdapters(80, "raises")}
    with pytest.raises(KeyError, match="a bug in a metric"):
        attacked(raw_data(), tmp_path, model=tiny_model(), references={}, metrics=metrics, num_workers=2)
    assert len(list((tmp_path / "jobs").glob("before*"))) == 1
