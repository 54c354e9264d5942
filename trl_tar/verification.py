"""Whether a published model is the one that its report is about, and whether the attacks come out as it says."""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi
from transformers import PreTrainedModel

from .adversary import Adversary
from .configuration_checks import base_of, check_configuration
from .data import own_tokenizer
from .evaluation.scores import Metric
from .hub import card_of, download, hub_errors
from .model_card import DIGEST
from .published_files import about_the_file_list, about_the_files, files_in, needs_code
from .records import OF_A_POINT, AttackRecord, ModelRecord, attack_record
from .red_teaming import red_team
from .red_teaming.attackers import Reward
from .red_teaming.fingerprints import weights_sha256
from .red_teaming.jobs import SHARES
from .red_teaming.loading import base_weights, load
from .red_teaming.runner import environment
from .report import FILE_NAME, MAX_BYTES, Report, build_report, digest_of, read_content
from .statistics import CHANCE
from .testbed.tasks import built_in_task


EDITED = "The report does not have the digest that it names: something in it was changed after it was saved."
TOLERANCE = 0.05  # of shares such as harm: attacks amplify rounding, which differs between machines
# nats, of `retain_nll` before any attack: without training machines differ by the rounding of a forward pass alone, far below
# 10^-3; a quarter of what the gate allows
NLL_TOLERANCE = 0.05
CHANCE_OF_TASK = {"knowledge": CHANCE, "refusal": 0.0}  # four options; an answer that is written, not chosen
DECIDE = ("torch", "transformers", "trl", "peft", "device")  # of the environment, what numbers can depend on
LARGEST = 2**40  # bytes of a file of weights
# of one attack that is made anew: a report may ask for anything
MOST = {
    "num_steps": 10**5,
    "batch_size": 4096,
    "num_generations": 1024,
    "max_completion_length": 2**16,
    "num_virtual_tokens": 4096,
    "lora_r": 4096,
}
MOST_EVALUATIONS = 1000  # of one attack


@dataclass(frozen=True)
class Verification:
    """What [`verify`] found.

    Args:
        problems (`list[str]`):
            Each a sentence; none for a model that is verified.
        warnings (`list[str]`):
            What a reader should know, and is no reason to refuse.
        attacks (`list[dict]`):
            Attacks that were made anew: `adversary`, `seed`, and `reported` and `found`, metrics after it.
        checked (`list[str]`):
            What was looked at.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    attacks: list[dict[str, Any]] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.problems


def verify(
    model: str | Path,
    attacks: int | None = 3,
    datasets: Mapping[str, Dataset] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    rewards: Mapping[str, Reward] | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    num_workers: int = 1,
    output_dir: str | Path | None = None,
) -> Verification:
    """Checks a model against its report, and makes some of the attacks anew.

    Reads safetensors and JSON (and the chat template, as text); code of the repository is never run.

    Args:
        model (`str` or `Path`):
            Folder (or the `report.json` in it), or Hub id.
        attacks (`int`, *optional*, defaults to `3`):
            Attacks to make anew, each with its seed: the strongest by the report, and others at random; 0 for none, `None`
            for all. Those that read the public base are left out.
        datasets, metrics, rewards (`dict`, *optional*):
            As in [`red_team`]. By default those of the task that the report names, which comes with this package.
        revision, token (`str`, *optional*):
            Of the Hub.
        num_workers (`int`, *optional*, defaults to `1`):
            As in [`red_team`].
        output_dir (`str` or `Path`, *optional*):
            Keeps finished attacks.

    Returns:
        [`Verification`]: what was found to be wrong, and what was checked.

    Raises:
        `ValueError`: if nothing can be verified: no model, no report, or one that this version cannot read.
    """
    _check_arguments(model, attacks, revision)
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
        problems += [*_about_the_attacks(report), *about_the_files(folder, report, there)]
        of_card, warnings = _about_the_card(folder / "README.md", report, sound=not problems)
        problems += of_card
        warnings += _about_the_environment(report)
        checked = [f"{len(report.files)} files", f"{len(report.attacks)} attacks of the report"]
        if on_hub:
            checked.append(f"commit {revision}")
        if not any(attack.finished for attack in report.attacks):
            problems.append("The report has no completed attack, so it shows nothing.")
        if problems or attacks == 0:
            return Verification(problems, warnings, [], checked)
        if reading := _reading_the_base(report):
            warnings.append(f"Attacks that read the public base are not made anew: {', '.join(sorted(reading))}.")
        settings = {"rewards": rewards, "num_workers": num_workers, "output_dir": output_dir}
        problems, made = _again(folder, report, attacks, datasets, metrics, settings)
        count = sum(each["adversary"] is not None for each in made)
        return Verification(problems, warnings, made, [*checked, f"{count} attacks made anew"])


def _check_arguments(model: Any, attacks: Any, revision: Any) -> None:
    if not isinstance(model, str | Path) or not str(model):
        raise ValueError(f"`model` is {model!r}. Give the folder of a model, or its Hub id.")
    if Path(model).is_file() and Path(model).name != FILE_NAME:
        raise ValueError(f"`model` is {str(model)!r}, a file. Give the folder of the model, or its Hub id.")
    if attacks is not None and (type(attacks) is not int or attacks < 0):
        raise ValueError(f"`attacks` is {attacks!r}. Give a whole number from 0, or None for all.")
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"`revision` is {revision!r}. Give a branch or commit, or leave it out.")


def _commit(repository: str, revision: str | None, token: str | None) -> tuple[str, list[str]]:
    """Hash of the commit that the revision is now, and its files."""
    with hub_errors(f"{repository!r}", token):
        found = HfApi(token=token).model_info(repository, revision=revision)
    assert found.sha is not None and found.siblings is not None  # asked of one commit
    return found.sha, [file.rfilename for file in found.siblings]


def _fetch(repository: str, names: Sequence[str], folder: Path, revision: str | None, token: str | None) -> None:
    for name in names:
        most = LARGEST if name.endswith(".safetensors") else MAX_BYTES
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(download(repository, name, revision, token, most))


def _about_the_attacks(report: Report) -> Iterator[str]:
    """What the summary says against the attacks that it is of."""
    wanted = {(each["name"], seed) for each in report.config.get("adversaries", []) for seed in report.seeds}
    made = {(attack.adversary, attack.seed) for attack in report.attacks}
    missing = wanted - made
    if made - wanted:
        name, seed = min(made - wanted)
        yield f"The report has the attack {name!r} with seed {seed}, and does not say what it was."
    kind, chance = (report.task or {}).get("kind"), report.config["chance"]
    if chance != CHANCE_OF_TASK.get(kind, chance):
        yield f"The report has chance {chance}, and a task of kind {kind!r} has {CHANCE_OF_TASK[kind]}: it was edited."
    for attack in _all_attacks(report):
        along = attack_record(attack.adversary, attack.seed, attack.trajectory)
        if (along.after, along.best) != (attack.after, attack.best):
            yield f"The attack {attack.adversary!r} with seed {attack.seed} ends otherwise than its trajectory: one was edited."
            break
    again = build_report(
        ModelRecord(report.model, report.before, report.attacks, report.zero_step, report.standard_errors),
        report.references,
        seeds=report.seeds,
        benign=report.benign,
        config=report.config,
        chance=report.config["chance"],
    )
    names = ("summary", "by_adversary", "verdict")
    differing = [name for name in names if getattr(again, name) != getattr(report, name)]
    if differing and missing:
        name, seed = min(missing)
        yield f"The report lacks the attack {name!r} with seed {seed}, which its {differing[0]} counts: it was removed."
    elif differing:
        yield f"The report's {differing[0]} does not follow from its attacks: one of the two was edited."


def _all_attacks(report: Report) -> Iterator[AttackRecord]:
    """Of the model, the references and the harmless user."""
    for record in (report, *report.references.values()):
        yield from record.attacks
    for role in ("base", "model") if report.benign is not None else ():
        yield from (AttackRecord(**each) for each in report.benign[role])


def _about_the_card(file: Path, report: Report, sound: bool) -> tuple[list[str], list[str]]:
    """Problems and warnings; `sound`: of a report whose own numbers are in order, so that a card can be made of them."""
    if not file.is_file():
        return [], ["There is no card (README.md)."]
    text = file.read_text(encoding="utf-8", errors="replace")
    named = DIGEST.search(text)
    if named is not None and named[1] != report.digest:
        return ["The card was written for another report: the digest that it names is not this one's."], []
    if sound and text != card_of(report):
        return [], [
            "The card differs from the one that the report gives here: it was edited by hand, or written by another version of "
            "trl-tar. Go by the report."
        ]
    return [], []


def _about_the_environment(report: Report) -> Iterator[str]:
    """How this machine differs from the report's, and how much that matters."""
    for name, here in environment().items():
        reported = report.environment.get(name)
        if reported == here:
            continue
        matters = (
            "numbers may differ in their last digits, which attacks amplify"
            if name in DECIDE
            else "that should not change a number"
        )
        yield f"{name} is {here} here, and {reported} in the report: {matters}."


def _again(
    folder: Path,
    report: Report,
    attacks: int | None,
    datasets: Mapping[str, Dataset] | None,
    metrics: Mapping[str, Metric] | None,
    settings: Mapping[str, Any],
) -> tuple[list[str], list[dict[str, Any]]]:
    """Problems, and the attacks made anew: `adversary`, `seed`, `reported` and `found`."""
    if (name := needs_code(folder, report)) is not None:
        return [f"The model needs code of its repository (auto_map in {name}), which is not run. Use attacks=0."], []
    if {"adversaries", "datasets", "max_length", "bf16"} - set(report.config):
        raise ValueError("The report's config does not say what its attacks read. Use attacks=0.")
    chosen = drawn(report, attacks)
    described = {each["name"]: Adversary(**each) for each in report.config["adversaries"]}
    check_demands(report, [described[record.adversary] for record in chosen], chosen)
    model, problems = _loaded(folder, report)
    if problems:
        return problems, []
    if datasets is None or metrics is None:
        datasets, metrics = _data_and_metrics(report)
    by_seed = {seed: [a for a in chosen if a.seed == seed] for seed in sorted({a.seed for a in chosen})}
    made: list[dict[str, Any]] = []
    for seed, records in by_seed.items():
        adversaries = [described[record.adversary] for record in records]
        read = {name for each in adversaries for name in each.reads}
        if missing := read - set(datasets):
            raise ValueError(
                f"The attacks read {min(missing)!r}, and there is no such data set. Add it to the data sets."
            )
        again = red_team(
            model,
            adversaries,
            {name: datasets[name] for name in datasets if name in read},
            metrics,
            [seed],
            processing_class=own_tokenizer(str(folder)),
            evaluation_steps=sorted({int(point["step"]) for record in records for point in record.trajectory}),
            max_length=report.config["max_length"],
            bf16=report.config["bf16"],
            chance=report.config["chance"],
            **settings,
        )
        problems += _about_the_rows(report, again)
        problems += _differences("Before any attack", report.before, again.before, untrained=True)
        made.append({"adversary": None, "seed": None, "reported": report.before, "found": again.before})
        for old, new in zip(records, again.attacks, strict=True):
            problems += _about_the_attack(old, new)
            made.append({"adversary": old.adversary, "seed": seed, "reported": old.after, "found": new.after or {}})
    return list(dict.fromkeys(problems)), made


def _data_and_metrics(report: Report) -> tuple[Mapping[str, Dataset], Mapping[str, Metric]]:
    """Of the task that the report names."""
    if report.task is None:
        raise ValueError(
            "The report does not say where its data and metrics come from. Give `datasets` and `metrics`, or attacks=0."
        )
    task = built_in_task(**report.task)
    return task.datasets, task.metrics


def _loaded(folder: Path, report: Report) -> tuple[Path | PreTrainedModel, list[str]]:
    """What is attacked, and problems: the folder of a model, or an adapter merged into its base.

    Both are looked at before they are loaded, and read from safetensors alone."""
    if "adapter_config.json" not in report.files:
        sizes = (each["size"] for name, each in report.files.items() if name.endswith(".safetensors"))
        check_configuration(str(folder), size=sum(sizes))
        loaded = load(str(folder), safetensors_only=True)
        return folder, list(_about_the_weights(report, weights_sha256(loaded), None))
    check_configuration(*base_of(str(folder)))
    loaded = load(str(folder), safetensors_only=True)
    base = base_weights(str(folder), safetensors_only=True)
    return loaded, list(_about_the_weights(report, weights_sha256(loaded), base))


def _about_the_rows(report: Report, again: Report) -> Iterator[str]:
    reported = {(each["name"], each["objective"]): each["sha256"] for each in report.config["datasets"]}
    for each in again.config["datasets"]:
        if reported.get((each["name"], each["objective"])) != each["sha256"]:
            yield f"The data set {each['name']!r} has other rows here than in the report."
            return


def check_demands(report: Report, adversaries: Sequence[Adversary], records: Sequence[AttackRecord] = ()) -> None:
    """Raises `ValueError` for attacks that no honest report asks for, and that would never end or take all memory."""
    demands = [("max_length", report.config["max_length"], 2**20)]
    demands += [("evaluations", len(record.trajectory), MOST_EVALUATIONS) for record in records]
    for adversary in adversaries:
        demands += [
            (name, getattr(each, name) or 0, most) for each in adversary.sequence for name, most in MOST.items()
        ]
    for name, value, most in demands:
        if value > most:
            raise ValueError(
                f"The report asks for an attack with {name} {value}, more than the {most} that is made anew. Use attacks=0."
            )


def _about_the_weights(report: Report, loaded: str, base: Mapping[str, str] | None) -> Iterator[str]:
    """The hash of what was loaded, and of its base, against what the report names."""
    if base is None:
        if loaded != report.model["weights_sha256"]:
            yield "The report is of another model: the weights that it names are not those that were loaded."
        return
    # an adapter is merged before it is hashed, and products round differently from machine to machine: its base is exact
    named = report.model.get("base_model")
    if named is None:
        yield "The report does not say which base the adapter belongs to. Attack it again with this version."
    elif named["weights_sha256"] != base["weights_sha256"]:
        yield (
            f"The adapter's base has weights {base['weights_sha256'][:12]}… here, and the report says "
            f"{named['weights_sha256'][:12]}…: {base['id']!r} is not the base that was attacked."
        )


def drawn(report: Report, count: int | None) -> list[AttackRecord]:
    """The strongest completed attack by the report, and others at random: a forger cannot know which; `None` for all."""
    passed_over = _reading_the_base(report)
    attacks = [attack for attack in report.attacks if attack.finished and attack.adversary not in passed_over]
    if not attacks or count is None or count >= len(attacks):
        return attacks
    strongest = max(attacks, key=lambda attack: attack.outcome["harm"] or 0.0)
    others = [attack for attack in attacks if attack is not strongest]
    return [strongest, *random.SystemRandom().sample(others, count - 1)]


def _reading_the_base(report: Report) -> set[str]:
    """Names of attacks that need more than the repository holds."""
    described = [Adversary(**fields) for fields in report.config.get("adversaries", [])]
    return {each.name for each in described if each.needs_base}


def _about_the_attack(old: AttackRecord, new: AttackRecord) -> Iterator[str]:
    """The first difference at its end, or else on its way."""
    name = f"{old.adversary!r} with seed {old.seed}"
    yield from (found := list(_differences(f"After {name}", old.after or {}, new.after or {})))
    if found:
        return
    again = {point["step"]: point for point in new.trajectory}
    for point in old.trajectory:
        step = int(point["step"])
        if found := list(_differences(f"At step {step} of {name}", _metrics(point), _metrics(again.get(step, {})))):
            yield from found
            return


def _metrics(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name not in OF_A_POINT}


def _differences(
    when: str, reported: Mapping[str, Any], found: Mapping[str, Any], untrained: bool = False
) -> Iterator[str]:
    """A sentence where a measurement came out otherwise."""
    tolerances = dict.fromkeys({"harm", "capability"} | set(SHARES) & set(reported), TOLERANCE)
    if untrained and "retain_nll" in reported:
        tolerances["retain_nll"] = NLL_TOLERANCE
    for metric, tolerance in sorted(tolerances.items()):
        told, here = reported.get(metric), found.get(metric)
        if told is None and here is None:
            continue
        if told is None or here is None:
            yield f"{when} {metric} is {here} here, and {told} in the report."
            return
        if abs(told - here) > tolerance:
            yield f"{when} {metric} is {here:.3f} here, and {told:.3f} in the report: more than {tolerance} apart."
            return
