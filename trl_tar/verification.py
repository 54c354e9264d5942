"""Whether a published model is the one that its report is about, and whether the attacks come out as it says."""

import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from .adversary import Adversary
from .evaluation.scores import Metric
from .hub import OUR_FILES, card_of, download, hub_errors
from .model_card import DIGEST
from .phases import file_sha256
from .records import AttackRecord, ModelRecord
from .red_teaming import red_team
from .red_teaming.attackers import Reward
from .red_teaming.jobs import SHARES
from .red_teaming.runner import environment
from .report import FILE_NAME, MAX_BYTES, Report, build_report, digest_of, read_content
from .testbed.tasks import built_in_task


EDITED = "The report does not have the digest that it names: something in it was changed after it was saved."
TOLERANCE = 0.05  # of shares such as harm: attacks amplify rounding, which differs between machines
READ = {".safetensors", ".json", ".jinja"}  # the last one is text, which transformers renders in a sandbox
DECIDE = ("torch", "transformers", "trl", "peft", "device")  # of the environment, what numbers can depend on
LOADABLE = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5"}
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
SHA256 = re.compile("[0-9a-f]{64}")


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
            Folder, or Hub id.
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

    Raises:
        `ValueError`: if nothing can be verified: no model, no report, or one that this version cannot read.
    """
    with tempfile.TemporaryDirectory() as place:
        if Path(model).is_dir():
            folder, there = Path(model), [file.name for file in Path(model).iterdir()]
        else:
            folder, (revision, there) = Path(place), _commit(str(model), revision, token)  # nothing changes meanwhile
            _fetch(str(model), [FILE_NAME, *({"README.md"} & set(there))], folder, revision, token)
        content = read_content(folder / FILE_NAME)
        problems = [] if content.get("digest") == digest_of(content) else [EDITED]
        if unsafe := list(_about_the_file_list(content)):
            return Verification([*problems, *unsafe])
        report = Report.load(folder)
        if not Path(model).is_dir():
            _fetch(str(model), sorted(set(report.files) & set(there)), folder, revision, token)
        of_card, warnings = _about_the_card(folder / "README.md", report)
        problems += [*_about_the_attacks(report), *of_card, *_about_the_files(folder, report, there)]
        warnings += _about_the_environment(report)
        checked = [f"{len(report.files)} files", f"{len(report.attacks)} attacks of the report"]
        if not Path(model).is_dir():
            checked.append(f"commit {revision}")
        if not any(attack.finished for attack in report.attacks):
            problems.append("The report has no completed attack, so it shows nothing.")
        if problems or attacks == 0:
            return Verification(problems, warnings, [], checked)
        if reading := _reading_the_base(report):
            warnings.append(f"Attacks that read the public base are not made anew: {', '.join(sorted(reading))}.")
        settings = {"rewards": rewards, "num_workers": num_workers, "output_dir": output_dir}
        others, made = _again(folder, report, attacks, datasets, metrics, settings)
        problems = [*others, *(sentence for each in made if (sentence := _differs(each)))]
        return Verification(
            problems,
            warnings,
            made,
            [*checked, f"{sum(each['adversary'] is not None for each in made)} attacks made anew"],
        )


def _commit(repository: str, revision: str | None, token: str | None) -> tuple[str, list[str]]:
    """Hash of the commit that the revision is now, and its files."""
    with hub_errors(f"{repository!r}", token):
        found = HfApi(token=token).model_info(repository, revision=revision)
    assert found.sha is not None and found.siblings is not None  # asked of one commit
    return found.sha, [file.rfilename for file in found.siblings]


def _fetch(repository: str, names: Sequence[str], folder: Path, revision: str | None, token: str | None) -> None:
    for name in names:
        most = LARGEST if name.endswith(".safetensors") else MAX_BYTES
        (folder / name).symlink_to(download(repository, name, revision, token, most))


def _about_the_file_list(content: Mapping[str, Any]) -> Iterator[str]:
    """Names that nothing may be looked up or downloaded by, and what a model cannot be without."""
    files = content.get("files")
    if not isinstance(files, dict) or not any(str(name).endswith(".safetensors") for name in files):
        yield "The report names no file of weights, so it is bound to no model. Publish it with trl-tar push."
        return
    if not {"config.json", "adapter_config.json"} & set(files):
        yield "The report names no configuration (config.json), so its weights can be read as another model."
    if "tokenizer.json" not in files:
        yield "The report names no tokenizer (tokenizer.json), so its numbers can be of another one."
    for name, each in files.items():
        if PurePosixPath(name).name != name or "\\" in name or name.startswith("."):
            yield f"The report lists the file {name!r}, which is not in the model's own folder."
        elif Path(name).suffix not in READ:
            yield f"The report lists the file {name!r}. Only {', '.join(sorted(READ))} are read."
        elif (
            not isinstance(each, dict)
            or type(each.get("size")) is not int
            or not SHA256.fullmatch(str(each.get("sha256")))
        ):
            yield f"The report lists {name!r} without size and SHA-256."


def _about_the_attacks(report: Report) -> Iterator[str]:
    """What the summary says against the attacks that it is of."""
    wanted = {(each["name"], seed) for each in report.config.get("adversaries", []) for seed in report.seeds}
    made = {(attack.adversary, attack.seed) for attack in report.attacks}
    missing = wanted - made
    if made - wanted:
        name, seed = min(made - wanted)
        yield f"The report has the attack {name!r} with seed {seed}, and does not say what it was."
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


def _about_the_card(file: Path, report: Report) -> tuple[list[str], list[str]]:
    """Problems and warnings."""
    if not file.is_file():
        return [], ["There is no card (README.md)."]
    text = file.read_text(encoding="utf-8", errors="replace")
    named = DIGEST.search(text)
    if named is not None and named[1] != report.digest:
        return ["The card was written for another report: the digest that it names is not this one's."], []
    if text != card_of(report):
        return [], [
            "The card differs from the one that the report gives here: it was edited by hand, or written by another version of "
            "trl-tar. Go by the report."
        ]
    return [], []


def _about_the_files(folder: Path, report: Report, there: Sequence[str]) -> Iterator[str]:
    """Files that are not those the report is about."""
    for name, each in report.files.items():
        file = folder / name
        what = "the weights" if name.endswith(".safetensors") else "the tokenizer" if "token" in name else "this file"
        if not file.is_file():
            yield f"{name!r} is missing."
        elif file.stat().st_size != each["size"]:
            change = "cut short" if file.stat().st_size < each["size"] else "added to, or exchanged"
            yield f"{name!r} has {file.stat().st_size} bytes, and the report says {each['size']}: {what} were {change}."
        elif (found := file_sha256(file)) != each["sha256"]:
            yield (
                f"{name!r} has the SHA-256 {found[:12]}…, and the report says {each['sha256'][:12]}…: {what} were changed, or "
                "the report is of another model."
            )
    for name in sorted(set(there) - set(report.files) - OUR_FILES):
        if Path(name).suffix in LOADABLE and name != "training_args.bin":  # the trainer's own, no weights
            yield f"{name!r} holds weights that the report says nothing of, and a library may load them. Remove it."
        elif Path(name).suffix in {".json", ".jinja", ".model", ".py"} or name in {"vocab.txt", "merges.txt"}:
            yield f"{name!r} is beside the model, a library may read it, and the report says nothing of it. Remove it."


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
    for name in report.files:
        if name.endswith(".json") and '"auto_map"' in (folder / name).read_text(encoding="utf-8"):
            return [
                f"The model needs code of its repository (auto_map in {name}), which is not run. Use attacks=0."
            ], []
    if datasets is None or metrics is None:
        if report.task is None:
            raise ValueError(
                "The report does not say where its data and metrics come from. Give `datasets` and `metrics`, or attacks=0."
            )
        task = built_in_task(**report.task)
        datasets, metrics = task.datasets, task.metrics
    if {"adversaries", "datasets", "max_length", "bf16"} - set(report.config):
        raise ValueError("The report's config does not say what its attacks read. Use attacks=0.")
    chosen = drawn(report, attacks)
    described = {each["name"]: Adversary(**each) for each in report.config["adversaries"]}
    check_demands(report, [described[record.adversary] for record in chosen])
    by_seed = {seed: [a for a in chosen if a.seed == seed] for seed in sorted({a.seed for a in chosen})}
    reported_rows = {(each["name"], each["objective"]): each["sha256"] for each in report.config["datasets"]}
    problems, made = [], []
    for seed, records in by_seed.items():
        adversaries = [described[record.adversary] for record in records]
        missing = {name for each in adversaries for name in each.reads} - set(datasets)
        if missing:
            raise ValueError(
                f"The attacks read {min(missing)!r}, and there is no such data set. Add it to the data sets."
            )
        again = red_team(
            folder,
            adversaries,
            {name: datasets[name] for each in adversaries for name in each.reads},
            metrics,
            [seed],
            evaluation_steps=[1],
            max_length=report.config["max_length"],
            bf16=report.config["bf16"],
            chance=report.config["chance"],
            **settings,
        )
        others = [
            each["name"]
            for each in again.config["datasets"]
            if reported_rows.get((each["name"], each["objective"])) != each["sha256"]
        ]
        if others:
            problems.append(f"The data set {others[0]!r} has other rows here than in the report.")
        problems += _about_the_weights(report, again)
        made.append({"adversary": None, "seed": None, "reported": report.before, "found": again.before})
        made += [
            {"adversary": old.adversary, "seed": seed, "reported": old.after, "found": new.after or {}}
            for old, new in zip(records, again.attacks, strict=True)
        ]
    return problems, made


def check_demands(report: Report, adversaries: Sequence[Adversary]) -> None:
    """Raises `ValueError` for attacks that no honest report asks for, and that would never end or take all memory."""
    demands = [("max_length", report.config["max_length"], 2**20)]
    for adversary in adversaries:
        demands += [
            (name, getattr(each, name) or 0, most) for each in adversary.sequence for name, most in MOST.items()
        ]
    for name, value, most in demands:
        if value > most:
            raise ValueError(
                f"The report asks for an attack with {name} {value}, more than the {most} that is made anew. Use attacks=0."
            )


def _about_the_weights(report: Report, again: Report) -> Iterator[str]:
    """What was loaded against what the report names."""
    if "config.json" in report.files:
        if again.model["weights_sha256"] != report.model["weights_sha256"]:
            yield "The report is of another model: the weights that it names are not those that were loaded."
        return
    # an adapter is merged before it is hashed, and products round differently from machine to machine: its base is exact
    named, loaded = report.model.get("base_model"), again.model["base_model"]
    if named is None:
        yield "The report does not say which base the adapter belongs to. Attack it again with this version."
    elif named["weights_sha256"] != loaded["weights_sha256"]:
        yield (
            f"The adapter's base has weights {loaded['weights_sha256'][:12]}… here, and the report says "
            f"{named['weights_sha256'][:12]}…: {loaded['id']!r} is not the base that was attacked."
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


def _differs(made: Mapping[str, Any]) -> str | None:
    """A sentence where an attack, or the measurement before any, came out otherwise."""
    name = "Before any attack" if made["adversary"] is None else f"After {made['adversary']!r} with seed {made['seed']}"
    for metric in sorted({"harm", "capability"} | set(SHARES) & set(made["reported"])):
        reported, found = made["reported"].get(metric), made["found"].get(metric)
        if reported is None and found is None:
            continue
        if reported is None or found is None:
            return f"{name} {metric} is {found} here, and {reported} in the report."
        if abs(reported - found) > TOLERANCE:
            return (
                f"{name} {metric} is {found:.3f} here, and {reported:.3f} in the report: more than {TOLERANCE} apart."
            )
    return None
