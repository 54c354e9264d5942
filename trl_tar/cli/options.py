"""The options of each command; nothing heavy is imported.

An option has no default: where it is not given, the function of its command decides. Its help tells what that is, and
`tests/cli/test_options.py` holds that it is so."""

import argparse
from pathlib import Path

from .argument_types import at_least, folder, number_of_bytes, positive, share


def add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--output", type=folder, help="folder of models, reports and figures (default: demo)")
    demo.add_argument("--seed", type=at_least(0), help="seed of both training phases (default: 0)")
    demo.add_argument("--world-seed", type=at_least(0), help="another number is another world of facts (default: 0)")
    demo.add_argument("--workers", type=at_least(1), help="attacks that run at the same time (default: 2)")


def add_harden(harden: argparse.ArgumentParser) -> None:
    harden.add_argument(
        "recipe", choices=["knowledge", "refusal"], help="what is to be hidden: knowledge, or compliance"
    )
    harden.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="--config FILE ...",
        help="YAML file, or the name of one that comes with the package, such as testbed_knowledge; and --KEY VALUE for "
        "any of its scalars",
    )


def add_red_team(red_team: argparse.ArgumentParser) -> None:
    red_team.add_argument("model", help="folder or Hub id")
    red_team.add_argument(
        "--suite",
        required=True,
        help="knowledge, refusal, peft, benign, preference, weight-edit, composed, jailbreak-tuning, input, or a YAML file",
    )
    red_team.add_argument(
        "--datasets", type=Path, required=True, help="YAML file: data sets and metrics, each name with its file"
    )
    red_team.add_argument(
        "--output", type=folder, required=True, help="folder of attacks, report and card; resumes there"
    )
    red_team.add_argument("--seeds", type=at_least(1), help="seeds of each attack (default: 3)")
    red_team.add_argument("--search", type=Path, help="folder of a search on this model, whose winner joins the suite")
    red_team.add_argument("--base", help="the model before any safeguard")
    red_team.add_argument("--twin", help="the safeguarded model before hardening")
    red_team.add_argument("--floor", help="a model that never knew the hazard")
    red_team.add_argument("--steps", type=at_least(1), help="steps of each attack of a named suite")
    red_team.add_argument("--learning-rate-scale", type=float, help="multiplies the learning rates of a named suite")
    red_team.add_argument("--batch-size", type=at_least(1), help="rows of a batch of a named suite")
    red_team.add_argument("--budget", type=at_least(1), help="attacks of each model at most, the most telling first")
    red_team.add_argument(
        "--workers", dest="num_workers", type=at_least(1), help="attacks that run at the same time (default: 1)"
    )
    red_team.add_argument("--max-length", type=at_least(2), help="tokens of a row; longer ones are cut (default: 256)")
    red_team.add_argument("--bf16", action="store_true", help="autocast, as a fast attacker would")
    red_team.add_argument(
        "--strict",
        action="store_true",
        help="exit with 0 for resistant alone: 1 where a gate failed, 3 where none did and some were not measured",
    )


def add_search(search: argparse.ArgumentParser) -> None:
    search.add_argument("model", help="folder or Hub id")
    search.add_argument("--twin", required=True, help="the model before hardening, searched with as many trials")
    search.add_argument(
        "--datasets", type=Path, required=True, help="YAML file, as of red-team; with a metric validation_harm"
    )
    search.add_argument(
        "--output", type=folder, required=True, help="folder of the trials and the winner; resumes there"
    )
    search.add_argument("--base", help="the model before any safeguard")
    search.add_argument(
        "--trials", type=at_least(1), help="against each of the two; more go on with a search (default: 30)"
    )
    search.add_argument("--space", type=Path, help="YAML file: fields of an adversary with their values or ranges")
    search.add_argument(
        "--learning-rate-scale", type=float, help="multiplies the learning rates of the space (default: 1.0)"
    )
    search.add_argument(
        "--workers", dest="num_workers", type=at_least(1), help="trials that run at the same time (default: 1)"
    )
    search.add_argument("--max-length", type=at_least(2), help="tokens of a row; longer ones are cut (default: 256)")
    search.add_argument("--bf16", action="store_true", help="autocast, as a fast attacker would")
    search.add_argument("--seed", type=at_least(0), help="seed of the search and of every attack (default: 0)")


def add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of a report.json, or that file")


def add_write_text(write: argparse.ArgumentParser) -> None:
    write.add_argument("model", help="folder or Hub id")
    write.add_argument("--output", type=Path, required=True, help="file of JSON lines: prompt, completion and entity")
    write.add_argument("--rows", dest="num_rows", type=at_least(1), help="texts (default: 320)")
    write.add_argument("--max-new-tokens", type=at_least(1), help="tokens of a text at most (default: 60)")
    write.add_argument("--temperature", type=positive, help="of sampling (default: 1.0)")
    write.add_argument(
        "--top-p", type=share, help="share of the probability that tokens are drawn from (default: 0.95)"
    )
    write.add_argument("--seed", type=at_least(0), help="seed of all draws (default: 0)")
    write.add_argument("--beginnings", type=Path, help="file with the beginning of a text in each line")
    write.add_argument("--excluded", type=Path, help="file with a word of the hazard in each line: no text holds one")


def add_push(push: argparse.ArgumentParser) -> None:
    push.add_argument("folder", type=folder, metavar="DIR", help="folder of the model, and of its report.json")
    push.add_argument("repository", metavar="REPO", help="Hub id, such as me/my-model")
    push.add_argument("--report", type=Path, help="report.json of another folder, or that folder")
    push.add_argument("--title", help="heading of the card")
    push.add_argument("--license", help="of the weights, as the Hub names it, such as apache-2.0")
    push.add_argument("--private", action="store_true", help="for a repository that is made here")
    push.add_argument("--revision", help="branch; made if there is none")
    push.add_argument("--message", dest="commit_message", help="of the commit")
    push.add_argument("--overwrite-card", action="store_true", help="also a README.md that is no card of ours")


def add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("model", metavar="MODEL_OR_REPO", help="folder or Hub id")
    verify.add_argument(
        "--attacks",
        type=at_least(0),
        help="attacks to make anew: the strongest and others at random; 0 for none (default: 3)",
    )
    verify.add_argument("--all", action="store_true", help="make every attack anew")
    verify.add_argument("--datasets", type=Path, help="YAML file of data sets and metrics, as for red-team")
    verify.add_argument("--base", help="the model before any safeguard, whose tokenizer the attacks are made with")
    verify.add_argument(
        "--trust",
        action="append",
        metavar="MODULE",
        help="module of attacks from outside the package that may be run, as it is on this machine; may be given several times",
    )
    verify.add_argument("--revision", help="branch or commit")
    verify.add_argument("--output", type=folder, help="folder that keeps finished attacks")
    verify.add_argument(
        "--workers", dest="num_workers", type=at_least(1), help="attacks that run at the same time (default: 1)"
    )
    verify.add_argument("--json", dest="as_json", action="store_true", help="print JSON")


def add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("sources", nargs="*", default=[], metavar="SOURCE", help="folder, report file or Hub id")
    compare.add_argument(
        "--list", dest="listed", type=Path, metavar="FILE", help="text file of further sources, one a line"
    )
    compare.add_argument("--output", type=folder, help="folder of leaderboard.html, .md, .json and .png")
    compare.add_argument(
        "--skip-unreadable", action="store_true", help="go on without reports that cannot be read, and name them"
    )


def add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("model", help="folder, config.json or Hub id; no weights are loaded")
    plan.add_argument(
        "--device-memory", type=number_of_bytes, help="of each device, such as 80GB or 24GiB (default: 80GB)"
    )
    plan.add_argument("--devices", type=at_least(1), help="devices there are (default: 1)")
    plan.add_argument(
        "--host-memory", type=number_of_bytes, help="of each machine, such as 512GB; not looked at by default"
    )
    plan.add_argument("--devices-per-node", type=at_least(1), help="devices of a machine at most (default: 8)")
    plan.add_argument("--seq-len", dest="length", type=at_least(2), help="tokens of each row (default: 256)")
    plan.add_argument("--batch-size", type=at_least(1), help="rows of each batch, over all devices (default: 8)")
    plan.add_argument("--attack-steps", dest="num_steps", type=at_least(1), help="steps of each attack (default: 64)")
    plan.add_argument("--interval", type=at_least(1), help="attack steps from one judgement to the next (default: 4)")
    plan.add_argument("--adversaries", type=at_least(1), help="attacks in each outer step (default: 1)")
    plan.add_argument("--output-anchor", action="store_true", help="the retain term has a kl_weight above 0")
    plan.add_argument(
        "--attackers", type=at_least(0), help="continued attackers that are kept; 0 for whole attacks (default: 0)"
    )
    plan.add_argument(
        "--lora-r", type=at_least(0), help="rank of the LoRA attack that is looked at too; 0 for none (default: 16)"
    )
    plan.add_argument("--no-bf16", dest="bf16", action="store_false", help="without bfloat16 autocast")
    plan.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default: float32)")
    plan.add_argument("--steps", type=at_least(1), help="outer steps (default: 750)")
    plan.add_argument("--mfu", type=share, help="share of the device's FLOP/s that is reached (default: 0.4)")
    plan.add_argument(
        "--device-flops", type=positive, help="FLOP/s of a device; of an H100 in bfloat16 (default: 989e12)"
    )
    plan.add_argument("--fit", action="store_true", help="look for the largest batch that fits too")
    plan.add_argument("--json", dest="as_json", action="store_true", help="print JSON")


def add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument(
        "model",
        nargs="?",
        help="world (0.2 M parameters), smollm2, a folder or a Hub id; a config.json has random weights (default: world)",
    )
    bench.add_argument("--steps", type=at_least(1), help="pairs of steps that are counted (default: 20)")
    bench.add_argument("--batch-size", type=at_least(1), help="rows of each batch (default: 4)")
    bench.add_argument("--length", type=at_least(2), help="tokens of each row (default: 64)")
    bench.add_argument("--attack-steps", dest="num_steps", type=at_least(1), help="steps of each attack (default: 8)")
    bench.add_argument("--interval", type=at_least(1), help="attack steps from one judgement to the next (default: 4)")
    bench.add_argument("--adversaries", type=at_least(1), help="attacks in each outer step (default: 1)")
    bench.add_argument("--lora-r", type=at_least(1), help="rank of a LoRA adversary; all parameters by default")
    bench.add_argument("--output-anchor", action="store_true", help="the retain term has a kl_weight above 0")
    bench.add_argument("--optimizer", choices=["adamw", "adamw_8bit"], help="of the attack (default: adamw)")
    bench.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default: float32)")
    for name, what in {
        "bf16": "bfloat16 autocast",
        "offload": "keep on the host what an attack does not read",
        "optimizer-in-backward": "step the attack during its backward passes",
        "activation-checkpointing": "compute activations anew in the backward pass",
    }.items():
        bench.add_argument(f"--{name}", action="store_true", help=what)
    bench.add_argument(
        "--device-flops",
        type=positive,
        help="FLOP/s of the device, for its utilisation; known of an A100, H100 and H200",
    )
    bench.add_argument(
        "--growth",
        action="store_true",
        help="how time grows with K, interval, adversaries, length and parameters instead",
    )
    bench.add_argument("--output", type=Path, help="file for the numbers, as JSON")
    bench.add_argument(
        "--trace",
        type=Path,
        help="file for a Chrome trace of an outer step (.json, .json.gz) or a picture of it (.png, .svg, .pdf)",
    )
