"""Verification of a published model: it is compared with its report, and some of the attacks are run again."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from ..evaluation.scores import Metric, Reward
from ..fingerprints import digest_of
from ..hub.download import download
from ..hub.errors import hub_errors
from ..hub.model_files import about_the_file_list, about_the_files, files_in
from ..report.report import FILE_NAME, MAX_BYTES, Report, read_content
from .consistency import differences_of_attacks, differences_of_card, differences_of_environment
from .repeat_attacks import reading_the_base, repeat_attacks, sentences_of, untrusted


EDITED = "The report does not have the digest that it names: something in it was changed after it was saved."
LARGEST = 2**40  # bytes of a file of weights, a choice: far above the shards of a few GB that libraries save


@dataclass(frozen=True)
class Verification:
    """Holds the findings of [`verify`].

    Args:
        problems (`list[str]`):
            One sentence for each problem; none for a verified model.
        warnings (`list[str]`):
            One sentence for each thing that a reader should know, and that is no reason to refuse the model.
        attacks (`list[dict]`):
            Attacks that were run again: `adversary`, `seed`, and the metrics after it, `reported` and `found`.
        checked (`list[str]`):
            What was checked, in words.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    attacks: list[dict[str, Any]] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def verify(
    model: str | Path,
    attacks: int | None = 3,
    datasets: Mapping[str, Dataset] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    rewards: Mapping[str, Reward] | None = None,
    *,
    base: str | Path | None = None,
    trust: Collection[str] = (),
    revision: str | None = None,
    token: str | None = None,
    num_workers: int = 1,
    output_dir: str | Path | None = None,
) -> Verification:
    """Checks a model against its report, and runs some of the attacks again.

    Reads safetensors and JSON (and the chat template, as text); code of the repository is never run.

    Args:
        model (`str` or `Path`):
            Folder (or the `report.json` in it), or Hub id.
        attacks (`int`, *optional*, defaults to `3`):
            Number of attacks to run again, each with its seed: the strongest by the report, and others at random; 0 for none,
            `None` for all. Attacks that read the public base are left out.
        datasets, metrics, rewards (`dict`, *optional*):
            As in [`red_team`]. By default those of the task that the report names, which comes with this package.
        base (`str` or `Path`, *optional*):
            Folder or Hub id of the model before any safeguard, whose tokenizer, chat template and ends of an answer the attacks
            are made with; by default that of the task. What the model brings along otherwise is named in `warnings`.
        trust (`Collection[str]`, *optional*):
            Modules whose attacks are run, such as `["my_package.attacks"]`, as they are on this machine: attacks from outside the
            package that a report names are left out otherwise. Their file must be the reported one.
        revision (`str`, *optional*):
            Branch or commit of the repository on the Hub.
        token (`str`, *optional*):
            Token of the Hub; by default that of the login.
        num_workers (`int`, *optional*, defaults to `1`):
            As in [`red_team`].
        output_dir (`str` or `Path`, *optional*):
            Folder for finished attacks, which a later call does not repeat.

    Returns:
        [`Verification`]: the problems, and what was checked.

    Raises:
        `ValueError`: if nothing can be verified: no model, no report, or one that this version cannot read.
    """
    _check_arguments(model, attacks, revision, trust)
    model = Path(model).parent if Path(model).name == FILE_NAME and Path(model).is_file() else model
    with tempfile.TemporaryDirectory() as place:
        on_hub = not Path(model).is_dir()
        if on_hub:
            folder, (revision, there) = Path(place), _commit(str(model), revision, token)  # nothing changes meanwhile
            _fetch(str(model), [FILE_NAME, *({"README.md"} & set(there))], folder, revision, token)
        else:
            folder, there = Path(model), files_in(Path(model))
        content = read_content(folder / FILE_NAME)
        problems = [] if content.get("digest") == digest_of(content) else [EDITED]
        if unsafe := list(about_the_file_list(content)):
            return Verification([*problems, *unsafe])
        report = Report.load(folder)
        if on_hub:
            _fetch(str(model), sorted(set(report.files) & set(there)), folder, revision, token)
        problems += [*differences_of_attacks(report), *about_the_files(folder, report, there)]
        of_card, warnings = differences_of_card(folder / "README.md", report, sound=not problems)
        problems += of_card
        warnings += differences_of_environment(report)
        checked = [f"{len(report.files)} files", f"{len(report.attacks)} attacks of the report"]
        if on_hub:
            checked.append(f"commit {revision}")
        if not any(attack.finished for attack in report.attacks):
            problems.append("The report has no completed attack, so it shows nothing.")
        if problems or attacks == 0:
            warnings += sentences_of(report.differences)
            return Verification(problems, warnings, [], checked)
        if reading := reading_the_base(report):
            warnings.append(f"Attacks that read the public base are not made anew: {', '.join(sorted(reading))}.")
        if unknown := untrusted(report, trust):
            warnings.append(
                f"Attacks by code from outside this package are not made anew: {', '.join(sorted(unknown))}. To run them, trust "
                f"{', '.join(sorted(set(unknown.values())))}."
            )
        settings = {
            "trust": trust,
            "num_workers": num_workers,
            "output_dir": output_dir,
            "merged": Path(place) / "merged",
        }
        problems, noted, repeated = repeat_attacks(
            folder, report, attacks, datasets, metrics, rewards, base, **settings
        )
        count = sum(attack["adversary"] is not None for attack in repeated)
        return Verification(problems, warnings + noted, repeated, [*checked, f"{count} attacks made anew"])


def _check_arguments(model: Any, attacks: Any, revision: Any, trust: Any) -> None:
    if not isinstance(model, str | Path) or not str(model):
        raise ValueError(f"`model` is {model!r}. Give the folder of a model, or its Hub id.")
    if Path(model).is_file() and Path(model).name != FILE_NAME:
        raise ValueError(f"`model` is {str(model)!r}, a file. Give the folder of the model, or its Hub id.")
    if attacks is not None and (type(attacks) is not int or attacks < 0):
        raise ValueError(f"`attacks` is {attacks!r}. Give a whole number from 0, or None for all.")
    if isinstance(trust, str) or not isinstance(trust, Collection):
        raise ValueError(f"`trust` is {trust!r}. Give a list of modules, such as ['my_package.attacks'].")
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"`revision` is {revision!r}. Give a branch or commit, or leave it out.")


def _commit(repository: str, revision: str | None, token: str | None) -> tuple[str, list[str]]:
    """Returns the hash of the commit that the revision points to, and the paths of its files."""
    with hub_errors(f"{repository!r}", token):
        found = HfApi(token=token).model_info(repository, revision=revision)
    assert found.sha is not None and found.siblings is not None  # asked of one commit
    return found.sha, [file.rfilename for file in found.siblings]


def _fetch(repository: str, names: Sequence[str], folder: Path, revision: str | None, token: str | None) -> None:
    for name in names:
        most = LARGEST if name.endswith(".safetensors") else MAX_BYTES
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(download(repository, name, revision, token, most))
