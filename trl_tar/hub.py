"""Model and evidence, together in a folder and on the Hub."""

import json
import os
import warnings
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)

from .connection import clean_token, hub_errors, patiently, push_errors
from .model_card import DIGEST, HUB_ID, ROLES, evaluation_results, model_card, unattacked_card
from .phases import WEIGHTS, file_sha256
from .plots import plot_attacks, plot_tradeoff
from .published_files import others_beside, weights_beside
from .questions import QUESTIONS_FILE, Questions
from .records import write_json
from .red_teaming.fingerprints import weights_sha256
from .red_teaming.loading import load
from .report import FILE_NAME, MAX_BYTES, Report
from .report_page import write_pages


# what the libraries save beside weights; nothing else of a folder is sent
MODEL_FILES = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
)
# weights of an older model in formats that would load beside ours, or in their place, and a trainer's pickle
OLDER_FILES = (
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "training_args.bin",
)
EVIDENCE = (
    "README.md",
    "SUMMARY.md",
    "report.html",
    FILE_NAME,
    "training.json",
    QUESTIONS_FILE,
    "figures/attacks.png",
    "figures/tradeoff.png",
    ".eval_results/trl-tar.yaml",
)
FIGURES = (
    {"path": "figures/attacks.png", "alt": "Harm and held-out capability along the attacks"},
    {"path": "figures/tradeoff.png", "alt": "Capability against harm, before and after attack"},
)
UNNAMED = {"title": "A model", "description": "", "repository": None}
DESCRIPTION = "A language model with a safeguard against fine-tuning attacks."
UNATTACKED = "**Not attacked.**"  # in the card of a model without a report
BLANK = "# Model Card for Model ID"  # heading of the form that peft saves with an adapter


def model_files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer in a folder: what the report binds."""
    files = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in files if not file.name.startswith("."))


def check_model(folder: Path) -> None:
    """Raises `ValueError` where there are no weights in safetensors, or no tokenizer, that could be sent."""
    if not any(folder.glob(WEIGHTS)):
        raise ValueError(f"{str(folder)!r} holds no {WEIGHTS}. Save the model there with save_pretrained.")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{str(folder)!r} holds no tokenizer.json. Save the tokenizer there, a fast one.")


def bound(report: Report, folder: Path) -> Report:
    """The report with size and hash of every file of the model that it is about.

    Raises:
        `ValueError`: if the folder holds no model in safetensors, or another one than was attacked.
    """
    check_model(folder)
    found = weights_sha256(load(str(folder)))
    if found != report.model["weights_sha256"]:
        raise ValueError(
            f"The report is about weights {report.model['weights_sha256'][:12]}…, and {str(folder)!r} holds {found[:12]}…. "
            f"Attack this model, or give the report that belongs to it; without one, remove {FILE_NAME} first."
        )
    return replace(report, files=_described(folder))


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file of the model."""
    return {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": file_sha256(file)}
        for file in model_files(folder)
    }


def belongs(folder: Path) -> bool | None:
    """Whether the report in the folder is about the model beside it; `None` without a report that is bound to one."""
    if not (folder / FILE_NAME).is_file():
        return None
    try:
        files = Report.load(folder).files
    except ValueError:  # of a newer version, or damaged
        return False
    return _described(folder) == files if files else None


def load_with_answers(path: str | Path) -> Report:
    """A report from the disk with the answers of its side file, where it has one: they go where the report goes."""
    report = Report.load(path)
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    side = file.with_name(QUESTIONS_FILE) if file.name == FILE_NAME else file.with_suffix(f".{QUESTIONS_FILE}")
    return replace(report, questions=Questions.load(side)) if side.is_file() else report


def own_report(folder: Path) -> Report | None:
    """The report in the folder, if there is one and it is about the weights beside it."""
    if not (folder / FILE_NAME).is_file():
        return None
    report = load_with_answers(folder)
    return report if weights_sha256(load(str(folder))) == report.model["weights_sha256"] else None


def _answers_beside(report: Report, folder: Path) -> Questions | None:
    """Those in the folder, if the report there is this one; what lies there of another is put aside."""
    side = folder / QUESTIONS_FILE
    if not side.is_file():
        return None
    try:
        held = load_with_answers(folder)
    except ValueError:  # of a newer version, damaged, or not there
        held = None
    if held is not None and (held.before, held.attacks) == (report.before, report.attacks):
        return held.questions
    os.replace(side, folder / f"other.{QUESTIONS_FILE}")
    return None


def write_evidence(
    report: Report,
    folder: Path,
    title: str,
    description: str,
    repository: str | None = None,
    license: str | None = None,
) -> Report:
    """Report, card, pages, figures and metrics beside the weights in the folder; returns the report, bound to them."""
    card = {"title": title, "description": description, "repository": repository, "license": license}
    report = bound(replace(report, config={**report.config, "card": card}), folder)
    if report.questions is None:
        report = replace(report, questions=_answers_beside(report, folder))
    report.save(folder)
    if report.training is not None:
        write_json(folder / "training.json", report.training)
    write_pages(report, folder, title)
    _write_figures(report, folder)
    (folder / ".eval_results").mkdir(exist_ok=True)
    (folder / ".eval_results" / "trl-tar.yaml").write_text(evaluation_results(report), encoding="utf-8")
    (folder / "README.md").write_text(card_of(report), encoding="utf-8")
    return report


def card_of(report: Report) -> str:
    """The card of a report that is bound to a model: always the same for the same report."""
    return model_card(report, figures=FIGURES, **report.config.get("card", UNNAMED))


def _write_figures(report: Report, folder: Path) -> None:
    attacked = {
        "this model": report,
        **{ROLES[role]: report.references[role] for role in ROLES if role in report.references},
    }
    chance = report.config["chance"] or None
    figures = {
        "attacks.png": plot_attacks(attacked, chance=chance),
        "tradeoff.png": plot_tradeoff(attacked, chance=chance),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / "figures" / name, dpi=120)


def publish(
    folder: str | Path,
    repository: str,
    report: Report | Literal[False] | None = None,
    *,
    title: str | None = None,
    description: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    overwrite_card: bool = False,
) -> str:
    """Pushes a model, and the evidence on it, in one commit; safe to repeat after an interruption.

    Without a report, neither given nor in the folder, the card says that the model was not attacked. Of what is in the
    repository already, weights, configuration and tokenizer at its top give way, and evidence of an earlier push; all
    else is left alone.

    Args:
        folder (`str` or `Path`):
            Of a model or adapter in safetensors, with its tokenizer. Card and evidence are written there.
        repository (`str`):
            Its Hub id; made if there is none.
        report ([`Report`] or `False`, *optional*):
            The red team's, on this very model. By default the `report.json` in the folder; `False`: not even that.
        title, description (`str`, *optional*):
            Of the card; by default those that the report's card has had.
        license (`str`, *optional*):
            Of the weights, as the Hub names it, such as `"apache-2.0"`; by default the one told before.
        private (`bool`, *optional*):
            For a repository that is made here.
        token (`str`, *optional*):
            Of the Hub; by default the one logged in with.
        revision (`str`, *optional*):
            Branch; made if there is none.
        commit_message (`str`, *optional*):
            One of your own.
        overwrite_card (`bool`, *optional*, defaults to `False`):
            Whether a `README.md` in the folder that is no card of ours may give way. Otherwise it is refused, and
            nothing is written. A card of ours is always written anew.

    Returns:
        `str`: address of the commit.

    Raises:
        `ValueError`: for a folder without a model, a report of another one, or what the Hub refuses, with the reason.
    """
    folder, token = Path(folder), clean_token(token)
    words = {"title": title, "description": description, "license": license}
    _check_words(repository=repository, revision=revision or None, commit_message=commit_message, **words)
    check_model(folder)
    _check_base(folder)
    if not overwrite_card:
        _check_card(folder / "README.md")
    if report is None and (folder / FILE_NAME).is_file():
        report = load_with_answers(folder)
    if not report:
        report = None
        words = {"title": repository.split("/")[-1], "description": DESCRIPTION} | _given(words)
        (folder / "README.md").write_text(unattacked_card(**words, base=adapter_base(folder)), encoding="utf-8")
    else:
        told = {name: report.config.get("card", {}).get(name) for name in words}
        words = {"title": repository.split("/")[-1], "description": DESCRIPTION} | _given(told) | _given(words)
        report = write_evidence(report, folder, **words, repository=repository)
    message = commit_message or ("Model, not attacked" if report is None else "Model and evidence")
    return _push(folder, repository, report, private, token, revision or None, message)


def _given(words: dict[str, str | None]) -> dict[str, str]:
    return {name: word for name, word in words.items() if word}


def _check_words(repository: str, **words: str | None) -> None:
    """Raises `ValueError` for what is no text."""
    for name, word in {"repository": repository, **words}.items():
        if not isinstance(word, str) and (word is not None or name == "repository"):
            raise ValueError(f"{name} is {word!r}, which is no text. Give a str.")
    if not repository:
        raise ValueError("repository is empty. Give a Hub id, such as me/my-model.")


def adapter_base(folder: Path) -> str | None:
    """Hub id or folder of the base of the adapter in a folder; `None` for a whole model."""
    file = folder / "adapter_config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") if file.is_file() else None


def _check_base(folder: Path) -> None:
    """Raises `ValueError` for an adapter that nobody else could load."""
    base = adapter_base(folder)
    if base and (Path(base).is_absolute() or Path(base).is_dir()):
        raise ValueError(
            f"The adapter in {str(folder)!r} has the base {base!r}, a folder that only this machine has. Publish the base, and "
            "name its Hub id as base_model_name_or_path in adapter_config.json; or merge the adapter."
        )


def _check_card(file: Path) -> None:
    """Raises `ValueError` for a card that somebody wrote: neither of ours, nor a blank form."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if text.strip() and not (DIGEST.search(text) or UNATTACKED in text or BLANK in text):
        raise ValueError(
            f"{str(file)!r} is no card of trl-tar, and a push would write one in its place. Rename it, or give "
            "overwrite_card=True (--overwrite-card)."
        )


def _push(
    folder: Path,
    repository: str,
    report: Report | None,
    private: bool | None,
    token: str | None,
    revision: str | None,
    message: str,
) -> str:
    """One commit with model and evidence, and without what an earlier push left; returns its address."""
    api = HfApi(token=token)
    sent = [*(file.relative_to(folder).as_posix() for file in model_files(folder)), *_evidence_on(report)]
    with push_errors(repository, token):
        made = patiently(lambda: api.create_repo(repository, private=private, exist_ok=True)).repo_id
        public = private and not patiently(lambda: api.model_info(made)).private
    if public:
        raise ValueError(
            f"{made!r} is there already, and public. Make it private in its settings, or leave private out."
        )
    with push_errors(repository, token):
        if revision is not None:
            patiently(lambda: api.create_branch(made, branch=revision, exist_ok=True))
        there = [file.rfilename for file in patiently(lambda: api.model_info(made, revision=revision)).siblings or ()]
        # not upload_folder, which makes several commits with Xet
        additions = [CommitOperationAdd(name, folder / name) for name in sent]
        deletions = [CommitOperationDelete(name) for name in there if name not in sent and _gives_way(name)]
        api.preupload_lfs_files(made, additions, revision=revision, free_memory=False)  # tries again by itself
        operations = [*additions, *deletions]
        commit = patiently(lambda: api.create_commit(made, operations, commit_message=message, revision=revision))
    if report is not None:
        _tell_what_is_left(made, {*there} - {*sent} - {each.path_in_repo for each in deletions})
    return commit.commit_url


def _evidence_on(report: Report | None) -> list[str]:
    """Files of the evidence, without those that the report has nothing for."""
    if report is None:
        return ["README.md"]
    lacking = {"training.json": report.training is None, QUESTIONS_FILE: report.questions is None}
    return [name for name in EVIDENCE if not lacking.get(name, False)]


def _gives_way(name: str) -> bool:
    """Whether a file of the repository, by its path, is of an earlier model, or evidence of ours."""
    of_model = (*MODEL_FILES, *OLDER_FILES)
    depth = name.count("/")  # a * of fnmatch stands for a slash too
    return name in EVIDENCE or any(fnmatchcase(name, each) for each in of_model if each.count("/") == depth)


def _tell_what_is_left(repository: str, left: set[str]) -> None:
    foreign = sorted(weights_beside(left) | others_beside(left))
    if foreign:
        warnings.warn(
            f"{repository!r} also holds {', '.join(map(repr, foreign))}, which this push left alone: verify will refuse the "
            "repository until it is removed, since a library may read it.",
            stacklevel=4,
        )


def load_report(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Report:
    """A report from a folder, a file, or a repository of the Hub, of which nothing else is downloaded.

    Args:
        source (`str` or `Path`):
            Folder, `report.json` or Hub id.
        revision, token (`str`, *optional*):
            Of the Hub.

    Raises:
        `ValueError`: if there is no report, or one that this version cannot read.
    """
    if not isinstance(source, str | Path) or not str(source):
        raise ValueError(f"`source` is {source!r}. Give a folder, a report.json or the Hub id of a model.")
    if Path(source).exists():
        return Report.load(source)
    return Report.load(download(str(source), FILE_NAME, revision, token))


def download(
    repository: str, name: str, revision: str | None = None, token: str | None = None, most: int = MAX_BYTES
) -> Path:
    """One file of a repository; `ValueError` where it is not to be had, or larger than `most` bytes."""
    where, token = f"{name!r} of {repository!r}", clean_token(token)
    if not HUB_ID.fullmatch(repository):
        raise ValueError(f"{repository!r} is neither a folder nor a repository of the Hub. Check its spelling.")
    with hub_errors(where, token):
        size = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), token=token).size or 0
        if size > most:
            raise ValueError(
                f"{where} has {size / 2**20:.0f} MiB, more than the {most // 2**20} expected. It was not downloaded."
            )
        return Path(hf_hub_download(repository, name, revision=revision, token=token))
