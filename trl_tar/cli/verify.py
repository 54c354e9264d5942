"""`trl-tar verify`: what was found, in words or as JSON, and an exit code. Nothing heavy is imported at the top."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from .missing import check_model_is_there


if TYPE_CHECKING:
    from ..verification.verifier import Verification


def verify_command(
    model: str,
    all: bool = False,
    datasets: Path | None = None,
    output: Path | None = None,
    as_json: bool = False,
    **settings: Any,
) -> int:
    """Prints what [`verify`] finds; 0 for a model that is verified, 1 for one that is not.

    Args:
        model (`str`):
            Folder or Hub id.
        all (`bool`, *optional*, defaults to `False`):
            Make every attack again.
        datasets (`Path`, *optional*):
            YAML file of data sets and metrics, where they do not come with this package.
        as_json (`bool`, *optional*, defaults to `False`):
            Print JSON, also of an error: `verified` is `null` then, and `error` says why.
        **settings:
            `attacks`, `base`, `trust`, `revision` and `num_workers`, as in [`verify`].
    """
    try:
        check_model_is_there(model)
        found = _found(model, all, datasets, output_dir=output, **settings)
    except (ValueError, OSError) as error:
        if as_json:
            print(json.dumps({"verified": None, "error": str(error)}, indent=1))
        raise
    if as_json:
        print(json.dumps({"verified": found.verified, **asdict(found)}, indent=1))
    else:
        _tell(found, model)
    return 0 if found.verified else 1


def _found(model: str, all: bool, datasets: Path | None, **settings: Any) -> "Verification":
    from ..pipeline.console import quiet
    from ..tasks.from_yaml import data_and_metrics
    from ..verification.verifier import verify

    quiet()
    if all:
        settings["attacks"] = None
    if datasets is not None:
        settings["datasets"], settings["metrics"], settings["rewards"] = data_and_metrics(datasets)
    return verify(model, **settings)


def _tell(found: "Verification", model: str) -> None:
    from ..verification.repeat_attacks import TOLERANCE
    from ..views.templating import plain
    from ..views.words import number

    console = Console()
    for attack in found.attacks:
        what = "before any attack" if attack["adversary"] is None else f"{attack['adversary']}, seed {attack['seed']}"
        reported, again = attack["reported"], attack["found"]
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
            f"[green]verified[/] {escape(plain(model))}: {plain(looked_at)}, within {TOLERANCE}.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(f"[red]not verified[/] {escape(plain(model))}", highlight=False, soft_wrap=True)
