"""What `--help` says of defaults is what the functions do, and its examples are commands."""

import argparse
import inspect
import shlex

import pytest

from trl_tar.adversaries.suites import SUITES
from trl_tar.cli.bench import bench
from trl_tar.cli.demo import demo
from trl_tar.cli.main import COMMANDS
from trl_tar.cli.plan import SIZES, plan_command
from trl_tar.cli.red_team import red_team_command
from trl_tar.cli.search import search_command
from trl_tar.cli.write_text import write_text
from trl_tar.costs.bench import measure
from trl_tar.costs.cost import Cost
from trl_tar.red_teaming.attack_search import search
from trl_tar.red_teaming.runner import red_team
from trl_tar.verification.verifier import verify


# command → what decides where an option is not given, the first that knows it
DECIDING = {
    "demo": [demo],
    "red-team": [red_team_command, red_team],
    "search": [search_command, search],
    "write-text": [write_text],
    "verify": [verify],
    "plan": [plan_command, Cost],
    "bench": [bench, Cost, measure],
}


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    COMMANDS[name].add_options(parser)
    return parser


@pytest.mark.parametrize("name", DECIDING)
def test_help_tells_the_defaults_of_the_functions(name):
    defaults = dict(SIZES) if name == "plan" else {}
    for deciding in DECIDING[name]:
        for each in inspect.signature(deciding).parameters.values():
            defaults.setdefault(each.name, each.default)
    told = 0
    for action in parser_of(name)._actions:
        default = defaults.get(action.dest, inspect.Parameter.empty)
        _, _, said = (action.help or "").partition(" (default: ")
        if default in (None, (), inspect.Parameter.empty) or isinstance(default, bool):
            assert said == "", action.dest
            continue
        assert (action.type or str)(said.removesuffix(")")) == default, action.dest
        told += 1
    assert told > 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_is_a_command(name):
    assert parser_of(name).parse_args(shlex.split(COMMANDS[name].example))


def test_every_suite_that_trains_takes_a_size_of_its_batches():
    for name, suite in SUITES.items():
        trains = any(adversary.num_steps for adversary in suite())
        assert trains == ("batch_size" in inspect.signature(suite).parameters), name
        if trains:
            rows = 50 if name == "jailbreak-tuning" else 8  # 2 % of them are one row
            sizes = {part.batch_size for a in suite(batch_size=rows) for part in a.sequence if part.num_steps}
            assert rows in sizes and sizes <= {rows // 2, rows, 2 * rows}
