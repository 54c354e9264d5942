"""`trl-tar`: the Python functions with their arguments parsed."""

import argparse
import os
import sys

from ..version import __version__
from .options import (
    add_bench,
    add_compare,
    add_demo,
    add_evidence,
    add_evidence_refusal,
    add_evidence_suites,
    add_plan,
    add_push,
    add_red_team,
    add_report,
    add_verify,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Exit 0 on success, 1 where the answer is no, 2 for unusable arguments."""
    parser = argparse.ArgumentParser(prog="trl-tar", description="Tamper-resistant safeguards for open-weight models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_demo(commands)
    add_red_team(commands)
    add_report(commands)
    add_push(commands)
    add_verify(commands)
    add_compare(commands)
    add_plan(commands)
    add_bench(commands)
    add_evidence(commands)
    add_evidence_suites(commands)
    add_evidence_refusal(commands)
    args = vars(parser.parse_args(arguments))
    # before torch is imported: several threads are slower on the embedded world's models
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of libraries about each other, in every worker
    command = args.pop("command")
    try:
        if command == "demo":
            from .demo import demo

            demo(**args)
        elif command == "red-team":
            from .red_team import red_team_command

            strict = args.pop("strict")
            report = red_team_command(**args)
            return 1 if strict and not report.verdict.resistant else 0
        elif command == "report":
            from .report import report

            report(**args)
        elif command == "push":
            from ..hub.evidence_folder import load_with_answers
            from ..hub.publishing import publish

            given = args.pop("report")
            print(publish(**args, report=None if given is None else load_with_answers(given)))
        elif command == "verify":
            from .verify import verify_command

            return verify_command(**args)
        elif command == "compare":
            from .compare import compare_command

            compare_command(**args)
        elif command == "plan":
            from ..costs.cost import Cost
            from .plan import plan_command

            sizes = ("batch_size", "length", "num_steps", "interval", "adversaries")
            plan_command(cost=Cost(**{name: args.pop(name) for name in sizes}), **args)
        elif command == "bench":
            from ..costs.cost import Cost
            from .bench import bench

            sizes = ("batch_size", "length", "num_steps", "interval", "adversaries", "lora_r", "optimizer")
            bench(cost=Cost(**{name: args.pop(name) for name in sizes}), **args)
        elif command == "evidence-suites":
            from .evidence_suites import evidence_suites

            evidence_suites(**args)
        elif command == "evidence-refusal":
            from .evidence_refusal import refusal_evidence

            refusal_evidence(**args)
        else:
            from .evidence import evidence

            evidence(**args)
    except (ValueError, OSError) as error:
        print(f"trl-tar {command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
