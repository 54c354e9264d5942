"""A judge that fails ends recipes and red teams with one sentence; nothing finished is lost, and no attack fails for it."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from support.judge_server import running_judge
from support.started import files_of_ones_own, start

from trl_tar import Report
from trl_tar.cli.main import main


@pytest.fixture
def server():
    with running_judge() as server:
        yield server


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, and a run of the recipe that was trained and not attacked."""
    folder = tmp_path_factory.mktemp("trained")
    described = files_of_ones_own(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, {**described, "attack_seeds": 0}, folder)
    return folder, described


def run(monkeypatch, described: dict, folder: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(described))
    start("refusal", monkeypatch, "--config", folder / "config.yaml")


def judged(described: dict, server, **settings) -> dict:
    """The configuration with an endpoint as the judge of harm."""
    endpoint = {"url": server.url, "model": "judge", "attempts": 2, "pause": 0.01, **settings}
    harm = {**described["metrics"]["harm"], "judge": endpoint}
    return {**described, "metrics": {**described["metrics"], "harm": harm}}


def failing(kind: str, after: int):
    """A server that says yes to so many questions, and then fails."""

    def say(asked, n):
        if n <= after:
            return 200, "yes"
        if kind == "timeout":
            time.sleep(4)
        return {"timeout": (200, "yes"), "nonsense": (200, "no idea..."), "HTTP 500": (500, b"broken")}[kind]

    return say


def modified(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()}


REASONS = {
    "timeout": "timed out after 2 s",
    "nonsense": "it said 'no idea...', neither yes nor no",
    "HTTP 500": "HTTP 500",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_recipe_whose_judge_fails_keeps_what_it_has_and_goes_on(trained, server, tmp_path, monkeypatch, capsys, kind):
    described = {**trained[1], "output_dir": str(tmp_path / "run")}
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    weights = modified(tmp_path / "run")
    # one question of each check, four of each of two models before any attack, and two answers of the first attack
    server.say = failing(kind, 1 + 1 + 4 + 4 + 2)
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, judged(described, server, timeout=2 if kind == "timeout" else 30), tmp_path)
    said = capsys.readouterr().err
    assert error.value.code == 2
    assert said.splitlines()[-1] == (
        f"refusal.py: The judge 'judge' at '{server.url}' gave no score ({REASONS[kind]}). Check the server, then start "
        "again: finished jobs are kept."
    )
    assert "Traceback" not in said
    jobs = modified(tmp_path / "run" / "attacks")
    assert [file.name.split("-")[0] for file in jobs] == ["before"] * 2  # and no attack that failed
    server.say = failing(kind, 10**9)
    run(monkeypatch, judged(described, server, timeout=30), tmp_path)  # another patience is no other judge
    report = Report.load(tmp_path / "run" / "tar")
    assert [a.status for a in report.attacks] == ["completed"] and report.before["harm"] == 1.0
    after = modified(tmp_path / "run")
    assert all(
        after[file] == written for file, written in {**weights, **jobs}.items() if file.name != "contamination.json"
    )


def test_a_recipe_whose_judge_is_not_there_trains_nothing(server, tmp_path, monkeypatch, capsys):
    server.say = failing("HTTP 500", 0)
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, judged(files_of_ones_own(tmp_path), server), tmp_path)
    assert error.value.code == 2 and "gave no score (HTTP 500). Check the server" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_judge_that_fails_in_a_worker_ends_the_command(trained, server, tmp_path, capsys):
    described = judged(trained[1], server)
    data = {"datasets": {"harmful": described["data"]["harmful"]}, "metrics": described["metrics"], "chance": 0.0}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(data))

    def attacked(workers: int, *names: str) -> int:
        suite = [{"name": name, "dataset": "harmful", "num_steps": 1} for name in names]
        (tmp_path / "suite.yaml").write_text(json.dumps(suite))
        files = {
            "--suite": tmp_path / "suite.yaml",
            "--datasets": tmp_path / "datasets.yaml",
            "--output": tmp_path / "out",
        }
        arguments = [str(part) for pair in files.items() for part in pair]
        more = ["--seeds", "1", "--workers", str(workers)]
        return main(["red-team", described["model_name_or_path"], *arguments, *more])

    assert attacked(1, "first") == 0
    jobs = modified(tmp_path / "out" / "jobs")
    server.say = failing("HTTP 500", len(server.seen) + 1)  # after the check
    assert attacked(2, "first", "second", "third") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("trl-tar red-team: The judge 'judge' at ") and "Traceback" not in said
    assert modified(tmp_path / "out" / "jobs") == jobs
