"""The command line: exit codes, one-line errors, and a start that does not wait for torch."""

import re
import subprocess
import sys

import pytest

from trl_tar import interrupted
from trl_tar.adversaries.suites import SUITES
from trl_tar.cli.main import COMMANDS, Command, main, start
from trl_tar.cli.missing import check_model_is_there


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "trl_tar", *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_does_not_import_torch():
    code = "import sys; from trl_tar.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    named = set(re.findall(r"^    ([a-z-]+)", result.stdout, re.MULTILINE))
    assert named == set(COMMANDS)
    assert result.stdout.strip().endswith("False")


def test_help_names_every_suite(capsys):
    with pytest.raises(SystemExit):
        main(["red-team", "--help"])
    text = "".join(capsys.readouterr().out.split())
    assert all(name in text for name in SUITES)


NOWHERE = "'{0}' is neither a folder nor a repository of the Hub. Check its spelling."
WITHOUT_TORCH = """
import sys
from trl_tar.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules and "datasets" not in sys.modules and "huggingface_hub" not in sys.modules
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("report nowhere", "'nowhere' holds no report: there is no such file. Give the report.json of a red team"),
        ("report .", "'report.json' holds no report: there is no such file. 'run' has one: give that."),
        ("push nowhere me/model", "There is no folder 'nowhere'. Give that of a model."),
        ("push . me/model --report nowhere", "'nowhere' holds no report"),
        ("verify ./nowhere", NOWHERE.format("./nowhere")),
        ("verify /no/such/folder --json", NOWHERE.format("/no/such/folder")),
        ("compare me/model runs/of/mine", NOWHERE.format("runs/of/mine")),
        ("red-team nowhere/ --suite peft --datasets d.yaml --output out", NOWHERE.format("nowhere/")),
        ("red-team me/model --twin ../twin --suite peft --datasets d.yaml --output out", NOWHERE.format("../twin")),
    ],
)
def test_a_folder_that_is_not_there_is_told_without_waiting_for_torch(tmp_path, arguments, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").touch()
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments.split()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1
    assert ("--json" in arguments) == ('"verified": null' in result.stdout)


def test_an_id_of_the_hub_is_not_taken_for_a_path():
    for name in ("gpt2", "me/my-model", "me/my.model", None):
        check_model_is_there(name)


def test_an_option_that_is_not_given_is_left_to_the_function(monkeypatch):
    given = []
    monkeypatch.setattr("trl_tar.cli.demo.demo", lambda **options: given.append(options))
    assert main(["demo"]) == main(["demo", "--seed", "3"]) == 0
    assert given == [{}, {"seed": 3}]


def test_the_evidence_has_commands_of_its_own():
    command = [sys.executable, "-m", "trl_tar.evidence"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=120).stdout
    assert {"knowledge", "suites", "refusal"} <= set(help_text.split())
    result = subprocess.run([*command, "refusal", "nowhere"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("python -m trl_tar.evidence refusal: 'nowhere' has no run ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["demo", "--workers", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--output", __file__], "is a file: give a folder"),
        (["report", "no-such-folder"], "trl-tar report: "),
        (["demi"], "invalid choice: 'demi'"),
        ([], "required: COMMAND"),
    ],
)
def test_unusable_arguments_exit_with_2_and_say_why(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_value_error_becomes_one_line(capsys, monkeypatch):
    def refuse(**kwargs):
        raise ValueError("`seed` is 7. Use another.")

    monkeypatch.setattr("trl_tar.cli.demo.demo", refuse)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "trl-tar demo: `seed` is 7. Use another.\n"


def stopped(**options) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_is_one_sentence_and_the_exit_code_of_shells(capsys):
    assert start("trl-tar", "", {"demo": Command("", lambda parser: None, stopped)}, ["demo"]) == 130
    assert capsys.readouterr().err == f"trl-tar demo: {interrupted.SENTENCE}\n"


def test_a_worker_that_ctrl_c_ends_says_nothing():
    code = "import os, signal; from trl_tar import interrupted; interrupted.end_without_a_word(); os.kill(os.getpid(), signal.SIGINT)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
