"""A red team under a launcher: each process makes its share of the attacks, and all return the same report."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.attacks import attacked, raw_data

from trl_tar.distributed import processes as ranks
from trl_tar.red_teaming.attack_search import search


SCRIPT = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from support.attacks import raw_data
from support.attacks import attacked
if __name__ == "__main__":
    rank = os.environ["RANK"]
    folder = Path(sys.argv[1]) / f"machine{rank}"  # no disk is shared
    report = attacked(raw_data(), folder, references={})
    (folder / "returned.json").write_text(json.dumps(asdict(report)))
"""


@pytest.mark.slow
def test_launched_processes_share_the_attacks_and_return_the_whole_report(tmp_path):
    script = tmp_path / "attacks.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run([*launch, script, tmp_path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    folders = [tmp_path / f"machine{rank}" for rank in (0, 1)]
    made = [{file.name for file in (folder / "jobs").glob("[!.]*.json")} for folder in folders]
    assert [len(names) for names in made] == [3, 2] and not made[0] & made[1]
    alone = json.loads(json.dumps(asdict(attacked(raw_data(), tmp_path / "alone", references={}))))
    assert [json.loads((folder / "returned.json").read_text()) for folder in folders] == [alone, alone]


def test_a_search_is_not_launched_several_times(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    metrics = {"harm": len, "capability": len}
    with pytest.raises(ValueError, match="launched as 2 processes. Start it once"):
        search("model", len, {"forget": raw_data()["forget"]}, metrics, "twin", Path(tmp_path))


def test_a_worker_forgets_the_launch_but_not_the_rest_of_its_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "ACCELERATE_USE_FSDP"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ranks.forget_launch()
    assert "HF_HUB_OFFLINE" in os.environ and ranks.num_ranks() == 1
    assert not [name for name in os.environ if name.startswith(ranks.LAUNCH_PREFIXES) or name in ranks.LAUNCH_NAMES]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["0", "1", "2", "0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "4,6,7"}, ["4", "6", "7", "4", "6"]),
        ({"WORLD_SIZE": "3", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,6,7"}, ["6"] * 5),
    ],
)
def test_workers_take_the_gpus_in_turn_or_that_of_their_process(monkeypatch, environment, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.worker_devices(5) == expected
