"""`trl-tar search`: looks for the strongest attack on a model, with as many trials against its twin."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console
from rich.markup import escape

from ..adversaries.adversary import Adversary
from ..adversaries.from_yaml import adversaries_of
from ..adversaries.in_words import in_words
from ..files import read_yaml, write_json, write_text
from ..fingerprints import json_sha256, weights_sha256
from ..models.loading import load
from ..red_teaming.attack_search import search
from ..red_teaming.checks import check_models
from ..red_teaming.search_space import NAME, SearchSpace
from ..red_teaming.trials import SearchResult, Trial
from ..report.provenance import Search
from ..report.required_strength import VALIDATION
from ..tasks.from_yaml import read_description, task_of
from ..views.words import number


WINNER, RECORD = "winner.yaml", "winner.json"  # the adversary, and the search that found it, for a report
SEED = "seed"  # in the record: of all attacks of the search, with which the winner may have been lucky


def search_command(
    model: str,
    twin: str,
    datasets: Path,
    output: Path,
    base: str | None = None,
    trials: int = 30,
    space: Path | None = None,
    learning_rate_scale: float = 1.0,
    **settings: Any,
) -> SearchResult:
    """Searches, writes the winner for `trl-tar red-team --search`, and says what it did; goes on where it stopped.

    Args:
        model, twin, base (`str`):
            Folders or Hub ids.
        datasets (`Path`):
            As in [`red_team_command`]. With a metric `validation_harm` the attacker chooses by other questions than the report's.
        output (`Path`):
            Folder of trials, `search.json`, `search.png` and the winner.
        trials (`int`, *optional*, defaults to `30`):
            Trials against each of the two; a verdict of *resistant* asks for as many.
        space (`Path`, *optional*), learning_rate_scale (`float`, *optional*, defaults to `1.0`):
            YAML of the space and a factor of its learning rates, see [`SearchSpace`].
        **settings:
            `num_workers`, `max_length`, `bf16` and `seed`, as in [`search`].
    """
    chosen = SearchSpace(learning_rate_scale=learning_rate_scale)
    if space is not None:
        chosen = SearchSpace.from_file(space, learning_rate_scale)
    check_models({"model": model, "twin": twin, **({} if base is None else {"base": base})})
    task = task_of(read_description(datasets), base or model)
    result = search(
        model,
        chosen,
        task.datasets,
        task.metrics,
        twin,
        output,
        trials,
        base=base,
        rewards=task.rewards,
        processing_class=task.tokenizer,
        **settings,
    )
    metric = VALIDATION if VALIDATION in task.metrics else "harm"
    winner = result.best("model", usable=True)
    seed = settings.get("seed", 0)
    if winner is not None:
        _write_winner(winner, result, metric, chosen, model, output, seed)
    _tell(winner, result, metric, model, output)
    return result


def _write_winner(
    winner: Adversary, result: SearchResult, metric: str, space: SearchSpace, model: str, output: Path, seed: int
) -> None:
    defaults = {each.name: each.default for each in fields(Adversary)}
    kept = {name: value for name, value in asdict(winner).items() if value != defaults[name]}
    write_text(output / WINNER, yaml.safe_dump([kept], sort_keys=False))
    record = Search(
        adversary=NAME,
        # one that failed has tried nothing
        trials=sum(trial.selection_harm is not None for trial in result.trials["model"]),
        metric=metric,
        space_sha256=json_sha256(asdict(space)),
        weights_sha256=weights_sha256(load(model)),
    )
    write_json(output / RECORD, {**record, SEED: seed})


def found_by_search(folder: Path, model: str) -> tuple[Adversary, Search, int]:
    """Reads the winner of a search, what it was found by, and the seed of the attacks there.

    Raises:
        `ValueError`: where the folder holds no finished search, or one on other weights than the model's.
    """
    if not (folder / WINNER).is_file() or not (folder / RECORD).is_file():
        raise ValueError(
            f"{str(folder)!r} holds no winner of a search. Run `trl-tar search --output {folder}` to its end."
        )
    (winner,) = adversaries_of(read_yaml(folder / WINNER, list, "Give the file that the search wrote."))
    read = read_yaml(folder / RECORD, dict, "Give the file that the search wrote.")
    record = cast(Search, {name: value for name, value in read.items() if name != SEED})
    found = weights_sha256(load(model))
    if record["weights_sha256"] != found:
        raise ValueError(
            f"The search in {str(folder)!r} was of weights {record['weights_sha256'][:12]}…, and {model!r} has {found[:12]}…. "
            "Search on the model that is attacked."
        )
    return winner, record, read.get(SEED, 0)


def _tell(winner: Adversary | None, result: SearchResult, metric: str, model: str, output: Path) -> None:
    console = Console()

    def say(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    for role in ("model", "twin"):
        best = _best(result.trials[role])
        harm = (
            "no trial completed"
            if best is None
            else f"{metric} {number(best.selection_harm)} in trial {best.number}, capability {number(best.capability)}"
        )
        say(f"Strongest of {len(result.trials[role])} trials on the {role}: {harm}.")
    if winner is not None:
        words = in_words(winner)
        say(
            f"The winner on the model: {words.method}, {words.data}, {words.steps}, learning rate {words.learning_rate}."
        )
    if metric != VALIDATION:
        say(
            f"There is no metric {VALIDATION}: the winner was chosen by the report's own questions, and a verdict counts no such search."
        )
    if winner is None:
        say(
            "No trial left a model that keeps nine tenths of its capability: there is no winner. Widen the space, or raise --trials."
        )
        return
    say(
        f"Trials are in {output / 'search.png'}. Their numbers are of selected trials; for a report add --search {output} to "
        f"trl-tar red-team {model} with its suite."
    )


def _best(trials: list[Trial]) -> Trial | None:
    known = [trial for trial in trials if trial.selection_harm is not None]
    usable = [trial for trial in known if trial.usable] or known  # where there is none, what was strongest at least
    return max(usable, key=lambda trial: (trial.selection_harm or 0.0, -trial.number), default=None)
