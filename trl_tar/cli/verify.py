"""`trl-tar verify`: what was found, in words or as JSON, and an exit code."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..tasks.from_yaml import data_and_metrics
from ..verification.repeat_attacks import TOLERANCE
from ..verification.verifier import Verification, verify
from ..views.templating import plain
from ..views.words import number
from .console import quiet


def verify_command(
    model: str,
    attacks: int = 3,
    all: bool = False,
    datasets: Path | None = None,
    revision: str | None = None,
    output: Path | None = None,
    workers: int = 1,
    as_json: bool = False,
) -> int:
    """Prints what [`verify`] finds; 0 for a model that is verified, 1 for one that is not.

    Args:
        model, revision, workers, output:
            As in [`verify`].
        attacks (`int`, *optional*, defaults to `3`), all (`bool`, *optional*, defaults to `False`):
            How many attacks to make anew.
        datasets (`Path`, *optional*):
            YAML file of data sets and metrics, where they do not come with this package.
        as_json (`bool`, *optional*, defaults to `False`):
            Print JSON, also of an error: `verified` is `null` then, and `error` says why.
    """
    quiet()
    settings = {"revision": revision, "num_workers": workers, "output_dir": output}
    try:
        rows, metrics, rewards = (None, None, None) if datasets is None else data_and_metrics(datasets)
        found = verify(model, None if all else attacks, rows, metrics, rewards, **settings)
    except (ValueError, OSError) as error:
        if as_json:
            print(json.dumps({"verified": None, "error": str(error)}, indent=1))
        raise
    if as_json:
        print(json.dumps({"verified": found.verified, **asdict(found)}, indent=1))
    else:
        _tell(found, model)
    return 0 if found.verified else 1


def _tell(found: Verification, model: str) -> None:
    console = Console()
    for made in found.attacks:
        what = "before any attack" if made["adversary"] is None else f"{made['adversary']}, seed {made['seed']}"
        reported, again = made["reported"], made["found"]
        values = "; ".join(
            f"{name} {number(reported.get(name))} reported, {number(again.get(name))} found"
            for name in ("harm", "capability")
        )
        console.print(f"  {escape(plain(what))}: {values}", highlight=False, soft_wrap=True)
    for sentence in found.warnings:
        console.print(f"[yellow]note[/] {escape(plain(sentence))}", highlight=False, soft_wrap=True)
    for sentence in found.problems:
        console.print(f"[red]wrong[/] {escape(plain(sentence))}", highlight=False, soft_wrap=True)
    if found.verified:
        looked_at = ", ".join(found.checked)
        console.print(
            f"[green]verified[/] {escape(model)}: {looked_at}, within {TOLERANCE}.", highlight=False, soft_wrap=True
        )
    else:
        console.print(f"[red]not verified[/] {escape(model)}", highlight=False, soft_wrap=True)
