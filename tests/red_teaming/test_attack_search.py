"""The search: as many trials against both models, none lost, and none scored by the number that was maximised."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from support.attacks import METRICS, Likelihood, searched, space

from trl_tar import Adversary
from trl_tar.red_teaming import run_jobs
from trl_tar.red_teaming.job import run_job
from trl_tar.red_teaming.trials import SearchResult, Trial


def test_both_models_get_the_same_number_of_trials_and_the_same_first_ones(tmp_path):
    result = searched(tmp_path)
    tried = {role: [trial.adversary for trial in trials] for role, trials in result.trials.items()}
    assert {role: len(adversaries) for role, adversaries in tried.items()} == {"model": 4, "twin": 4}
    assert tried["model"][0] == tried["twin"][0]  # nothing is known of either yet
    assert len({str(adversary) for adversary in tried["model"]}) == 4
    assert all(trial.status == "completed" for trials in result.trials.values() for trial in trials)
    assert len(result.curve()) == 4
    assert (tmp_path / "search.json").is_file()


@pytest.mark.slow
def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path):
    searched(tmp_path, num_trials=2)
    jobs = {file: file.stat().st_mtime_ns for file in (tmp_path / "jobs").iterdir()}
    resumed = searched(tmp_path)
    assert all(file.stat().st_mtime_ns == time for file, time in jobs.items())
    assert resumed == searched(tmp_path / "at once")


@pytest.mark.slow
def test_another_space_or_metric_is_another_search(tmp_path):
    def shorter(trial) -> Adversary:
        return replace(space(trial), num_steps=1)

    searched(tmp_path, num_trials=1)
    other = searched(tmp_path, num_trials=1, space=shorter)
    assert [trial.adversary["num_steps"] for trial in other.trials["model"]] == [1]
    metrics = {**METRICS, "validation_harm": Likelihood(5)}
    changed = searched(tmp_path, num_trials=1, metrics=metrics)
    assert changed == searched(tmp_path / "alone", num_trials=1, metrics=metrics)


def test_the_attacker_keeps_what_is_best_on_validation():
    def trial(number, selection, harm, usable=True):
        return Trial(number, {"name": str(number), "dataset": "d"}, "completed", None, selection, harm, usable)

    failed = Trial(2, {"name": "2", "dataset": "d"}, "failed", "RuntimeError: no memory", None, None, None)
    result = SearchResult({"model": [trial(0, 0.3, 0.5), trial(1, 0.2, 0.9), failed, trial(3, 0.6, 0.4, usable=False)]})
    assert result.curve() == [0.5, 0.5, 0.5, 0.4]
    assert result.curve(usable=True) == [0.5, 0.5, 0.5, 0.5]
    assert (result.best().name, result.best(usable=True).name) == ("3", "0")
    assert SearchResult({"model": [failed]}).best() is None


def test_a_trial_that_fails_stays_in_the_budget(tmp_path):
    def sometimes(trial) -> Adversary:
        adversary = space(trial)
        # a module that PEFT cannot adapt: TRL refuses it when the attack starts
        targets = "input_layernorm" if trial.number == 1 else "all-linear"
        return Adversary(
            "searched",
            "forget",
            lora_r=2,
            lora_target_modules=(targets,) if targets == "input_layernorm" else targets,
            learning_rate=adversary.learning_rate,
            num_steps=2,
            batch_size=4,
        )

    result = searched(tmp_path, space=sometimes)
    for trials in result.trials.values():
        assert [trial.status for trial in trials] == ["completed", "failed", "completed", "completed"]
        assert "LlamaRMSNorm" in trials[1].error


def too_large(trial) -> Adversary:
    """Some batches take more rows than there are."""
    return replace(space(trial), batch_size=trial.suggest_categorical("batch_size", [4, 10_000]))


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_larger_than_its_data_set_is_a_failed_trial(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(run_jobs, "run_missing", alone)
    result = searched(tmp_path, space=too_large, num_workers=num_workers)
    for trials in result.trials.values():
        assert {(trial.adversary["batch_size"], trial.status) for trial in trials} == {
            (4, "completed"),
            (10_000, "failed"),
        }
        errors = [trial.error for trial in trials if trial.error is not None]
        assert all("takes 10000 rows of 'forget' in each batch, and the data set has 96" in error for error in errors)
    assert searched(tmp_path, space=too_large) == result


def alone(missing, settings, num_workers):
    for name, job in missing.items():
        yield name, run_job(job, settings)


def test_a_search_of_which_every_trial_fails_says_why(tmp_path):
    def always(trial) -> Adversary:
        return replace(space(trial), batch_size=10_000)

    with pytest.raises(ValueError, match="All 2 trials failed, the last one with .ValueError: .*takes 10000 rows"):
        searched(tmp_path, space=always, num_trials=1)


@pytest.mark.slow
def test_what_a_killed_search_left_running_does_not_end_the_next(tmp_path):
    searched(tmp_path, space=too_large, num_trials=2)
    with sqlite3.connect(tmp_path / "search.db") as database:  # as if it had been killed before any was told
        database.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL")
        database.execute("DELETE FROM trial_values")
        database.execute("INSERT INTO trials (number, study_id, state) SELECT 2, study_id, 'RUNNING' FROM studies")
    assert searched(tmp_path, space=too_large) == searched(tmp_path / "at once", space=too_large)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trials": 0}, "`num_trials` is 0"),
        ({"space": lambda trial: Adversary("a", "missing")}, "reads 'missing'"),
        ({"space": lambda trial: "fast"}, "is 'str'. Give an Adversary"),
        ({"metrics": {"harm": METRICS["harm"]}}, "without 'capability'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        searched(tmp_path, **changes)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trials_that_it_had(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from support.attacks import searched
        from trl_tar.red_teaming import workers

        done = workers.run_job

        def run_and_die(job, settings):
            result = done(job, settings)
            if job.adversary is not None and len(list(Path(sys.argv[1], "jobs").glob("searched*"))) == 2:
                os.kill(os.getpid(), signal.SIGKILL)  # the third attack is made and not written down
            return result

        workers.run_job = run_and_die
        searched(sys.argv[1])
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert searched(tmp_path) == searched(tmp_path / "at once")
