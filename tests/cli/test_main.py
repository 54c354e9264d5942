"""The command line: exit codes, one-line errors, and a start that does not wait for torch."""

import re
import subprocess
import sys

import pytest

from trl_tar.adversaries.from_yaml import SUITES
from trl_tar.cli import options
from trl_tar.cli.main import main


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "trl_tar", *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_does_not_import_torch():
    code = "import sys; from trl_tar.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    named = set(re.findall(r"^    ([a-z-]+)", result.stdout, re.MULTILINE))
    added = {name.removeprefix("add_").replace("_", "-") for name in vars(options) if name.startswith("add_")}
    assert named == added and len(named) > 5
    assert result.stdout.strip().endswith("False")


def test_help_names_every_suite(capsys):
    with pytest.raises(SystemExit):
        main(["red-team", "--help"])
    text = "".join(capsys.readouterr().out.split())
    assert all(name in text for name in SUITES)


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
