"""`trl-tar`: the Python functions with their arguments parsed."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import interrupted
from ..version import __version__
from ..views.templating import plain
from .missing import REPORT, check_folder_is_there, check_model_is_there, check_report_is_there
from .options import (
    add_bench,
    add_compare,
    add_demo,
    add_harden,
    add_plan,
    add_push,
    add_red_team,
    add_report,
    add_search,
    add_verify,
    add_write_text,
)


NOT_TESTED_ENOUGH = 3  # exit code of a strict red team: no gate failed, and not all was measured and tried


@dataclass(frozen=True)
class Command:
    """One command of a program.

    Args:
        help (`str`):
            What it does, for `--help`.
        add_options (`Callable`):
            Adds its options to a parser.
        run (`Callable`):
            Runs it with the options that were given, each by its name; returns an exit code, or `None` for 0. It imports
            what it needs itself: torch takes seconds.
        example (`str`, *optional*, defaults to `""`):
            Its arguments in the example under `--help`.
    """

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[..., int | None]
    example: str = ""


def _demo(**options: Any) -> None:
    from .demo import demo

    demo(**options)


def _harden(recipe: str, arguments: list[str]) -> None:
    from ..pipeline.recipes import run_recipe

    run_recipe(recipe, arguments, f"trl-tar harden {recipe}")


def _red_team(strict: bool = False, **options: Any) -> int:
    for role in ("model", "base", "twin", "floor"):
        check_model_is_there(options.get(role))
    from .red_team import red_team_command

    verdict = red_team_command(**options).verdict
    if verdict.resistant or not strict:
        return 0
    return 1 if verdict.failed else NOT_TESTED_ENOUGH


def _search(**options: Any) -> None:
    for role in ("model", "twin", "base"):
        check_model_is_there(options.get(role))
    from .search import search_command

    search_command(**options)


def _report(folder: Path) -> None:
    check_report_is_there(folder)
    from .report import report

    report(folder)


def _push(folder: Path, **options: Any) -> None:
    check_folder_is_there(folder)
    if "report" in options:
        check_report_is_there(options["report"])
    from ..hub.evidence_folder import load_with_answers
    from ..hub.publishing import publish

    if "report" in options:
        options["report"] = load_with_answers(options["report"])
    elif not (folder / REPORT).is_file():
        print(
            f"{str(folder)!r} has no {REPORT}: the card will say that the model was not attacked. Give that of a red team with "
            "--report.",
            file=sys.stderr,
        )
    print(publish(folder, **options))


def _verify(**options: Any) -> int:
    from .verify import verify_command

    return verify_command(**options)


def _compare(sources: list[str], skip_unreadable: bool = False, **options: Any) -> None:
    if not skip_unreadable:
        for source in sources:
            check_model_is_there(source)
    from .compare import compare_command

    compare_command(sources, skip_unreadable=skip_unreadable, **options)


def _plan(**options: Any) -> None:
    from .plan import plan_command

    plan_command(**options)


def _bench(**options: Any) -> None:
    from .bench import bench

    bench(**options)


def _write_text(model: str, **options: Any) -> None:
    check_model_is_there(model)
    from .write_text import write_text

    write_text(model, **options)


COMMANDS = {
    "demo": Command(
        "safeguard, harden and attack a small model, and report what came back", add_demo, _demo, "--output demo"
    ),
    "harden": Command(
        "train a model to resist, attack it, and write its card: a recipe",
        add_harden,
        _harden,
        "knowledge --config testbed_knowledge",
    ),
    "red-team": Command(
        "attack a model of your own, and report what came back",
        add_red_team,
        _red_team,
        "my-model --base my-base --twin my-twin --suite knowledge --datasets datasets.yaml --output report",
    ),
    "search": Command(
        "look for the strongest attack on a model, and on its twin",
        add_search,
        _search,
        "my-model --twin my-twin --datasets datasets.yaml --output search",
    ),
    "report": Command("write report.html and SUMMARY.md of a report.json anew", add_report, _report, "report"),
    "push": Command(
        "publish a model with its report, card, figures and hashes on the Hub",
        add_push,
        _push,
        "my-model me/my-model --report report --license apache-2.0",
    ),
    "verify": Command(
        "check a model against its report, and make some attacks anew",
        add_verify,
        _verify,
        "my-model --datasets datasets.yaml",
    ),
    "compare": Command(
        "reports side by side: a table, and with --output a leaderboard page",
        add_compare,
        _compare,
        "my-report their-report --output leaderboard",
    ),
    "plan": Command(
        "whether TAR fits a device, with which options, and the hours it takes",
        add_plan,
        _plan,
        "config.json --device-memory 24GB --fit",
    ),
    "write-text": Command(
        "text that a model writes itself, to be kept next to D_retain",
        add_write_text,
        _write_text,
        "my-base --output general.jsonl --excluded hazard_words.txt",
    ),
    "bench": Command("time and memory of an outer step, beside the bare loop's", add_bench, _bench, "world --steps 5"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Exit 0 on success, 1 where the answer is no, 2 for unusable arguments, 3 where a strict red team did not
    try all that the answer takes, 130 for Ctrl-C."""
    return start("trl-tar", "Tamper-resistant safeguards for open-weight models.", COMMANDS, arguments)


def start(program: str, description: str, commands: Mapping[str, Command], arguments: list[str] | None) -> int:
    """Runs the command that the arguments name, with those of its options that were given, and returns its exit code."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        example = f"Example: {program} {name} {command.example}" if command.example else None
        # no defaults: where an option is not given, that of the function holds
        command.add_options(
            parsers.add_parser(name, help=command.help, epilog=example, argument_default=argparse.SUPPRESS)
        )
    options = vars(parser.parse_args(arguments))
    # before torch is imported: several threads are slower on the embedded world's models
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of libraries about each other, in every worker
    # of bitsandbytes, which looks for a kernel on the Hub as soon as peft imports it
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    chosen = options.pop("command")
    try:
        return commands[chosen].run(**options) or 0
    except (ValueError, OSError) as error:
        print(f"{program} {chosen}: {plain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program} {chosen}: {interrupted.SENTENCE}", file=sys.stderr)
        return interrupted.EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
