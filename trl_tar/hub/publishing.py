"""Publishing of a model and its evidence, in one commit on the Hub."""

import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..files import write_text
from ..models.transformers_4 import write_for_transformers_4
from ..report.answers import QUESTIONS_FILE
from ..report.report import FILE_NAME, Report
from ..views.card import DIGEST, unattacked_card
from .errors import clean_token, patiently, push_errors
from .evidence_folder import EVIDENCE, load_with_answers, write_evidence
from .model_files import MODEL_FILES, OLDER_FILES, adapter_base, check_model, model_files, others_beside, weights_beside


DESCRIPTION = "A language model with a safeguard against fine-tuning attacks."
UNATTACKED = "**Not attacked.**"  # in the card of a model without a report
BLANK = "# Model Card for Model ID"  # heading of the form that peft saves with an adapter


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

    Without a report, as an argument or in the folder, the card says that the model was not attacked. In the repository, weights,
    configuration and tokenizer at the top are replaced, and so is the evidence of an earlier push; all other files stay.

    Args:
        folder (`str` or `Path`):
            Folder of a model or adapter in safetensors, with its tokenizer. Card and evidence are written there.
        repository (`str`):
            Hub id of the repository, which is created if it does not exist.
        report ([`Report`] or `False`, *optional*):
            Report of the red team on this model. By default the `report.json` in the folder; `False` leaves that out too.
        title, description (`str`, *optional*):
            Title and description of the card; by default those of the report's earlier card.
        license (`str`, *optional*):
            License of the weights, as the Hub names it, such as `"apache-2.0"`; by default that of the earlier card.
        private (`bool`, *optional*):
            Whether a repository that is created here is private.
        token (`str`, *optional*):
            Token of the Hub; by default that of the login.
        revision (`str`, *optional*):
            Branch, which is created if it does not exist.
        commit_message (`str`, *optional*):
            Message of the commit; by default it says whether there is evidence.
        overwrite_card (`bool`, *optional*, defaults to `False`):
            Whether to replace a `README.md` in the folder that is no card of trl-tar. Otherwise the push is refused, and
            nothing is written. A card of trl-tar is always replaced.

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
    write_for_transformers_4(folder)  # before the report is bound to the files
    if report is None and (folder / FILE_NAME).is_file():
        report = load_with_answers(folder)
    if not report:
        report = None
        sentences = {"title": repository.split("/")[-1], "description": DESCRIPTION} | _non_empty(words)
        write_text(folder / "README.md", unattacked_card(**sentences, base=adapter_base(folder)))
    else:
        recorded = {name: report.config.get("card", {}).get(name) for name in words}
        sentences = (
            {"title": repository.split("/")[-1], "description": DESCRIPTION} | _non_empty(recorded) | _non_empty(words)
        )
        report = write_evidence(report, folder, **sentences, repository=repository)
    message = commit_message or ("Model, not attacked" if report is None else "Model and evidence")
    return _push(folder, repository, report, private, token, revision or None, message)


def _non_empty(words: dict[str, str | None]) -> dict[str, str]:
    return {name: word for name, word in words.items() if word}


def _check_words(repository: str, **words: str | None) -> None:
    """Raises `ValueError` for an argument that is no text."""
    for name, word in {"repository": repository, **words}.items():
        if not isinstance(word, str) and (word is not None or name == "repository"):
            raise ValueError(f"{name} is {word!r}, which is no text. Give a str.")
    if not repository:
        raise ValueError("repository is empty. Give a Hub id, such as me/my-model.")


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
    """Makes one commit that adds model and evidence, and deletes what an earlier push left; returns its address."""
    api = HfApi(token=token)
    sent = [*(file.relative_to(folder).as_posix() for file in model_files(folder)), *_evidence_on(report)]
    with push_errors(repository, token):
        repository_id = patiently(lambda: api.create_repo(repository, private=private, exist_ok=True)).repo_id
        public = private and not patiently(lambda: api.model_info(repository_id)).private
    if public:
        raise ValueError(
            f"{repository_id!r} is there already, and public. Make it private in its settings, or leave private out."
        )
    with push_errors(repository, token):
        if revision is not None:
            patiently(lambda: api.create_branch(repository_id, branch=revision, exist_ok=True))
        there = [
            file.rfilename
            for file in patiently(lambda: api.model_info(repository_id, revision=revision)).siblings or ()
        ]
        # not upload_folder, which makes several commits with Xet
        additions = [CommitOperationAdd(name, folder / name) for name in sent]
        deletions = [CommitOperationDelete(name) for name in there if name not in sent and _is_replaced(name)]
        api.preupload_lfs_files(repository_id, additions, revision=revision, free_memory=False)  # tries again by itself
        operations = [*additions, *deletions]
        commit = patiently(
            lambda: api.create_commit(repository_id, operations, commit_message=message, revision=revision)
        )
    if report is not None:
        _warn_of_foreign_files(repository_id, {*there} - {*sent} - {deletion.path_in_repo for deletion in deletions})
    return commit.commit_url


def _evidence_on(report: Report | None) -> list[str]:
    """Lists the files of the evidence, without those that this report has no content for."""
    if report is None:
        return ["README.md"]
    lacking = {"training.json": report.training is None, QUESTIONS_FILE: report.questions is None}
    return [name for name in EVIDENCE if not lacking.get(name, False)]


def _is_replaced(name: str) -> bool:
    """Returns whether a file of the repository, by its path, belongs to an earlier model or its evidence."""
    of_model = (*MODEL_FILES, *OLDER_FILES)
    depth = name.count("/")  # a * of fnmatch stands for a slash too
    return name in EVIDENCE or any(fnmatchcase(name, pattern) for pattern in of_model if pattern.count("/") == depth)


def _warn_of_foreign_files(repository: str, left: set[str]) -> None:
    foreign = sorted(weights_beside(left) | others_beside(left))
    if foreign:
        warnings.warn(
            f"{repository!r} also holds {', '.join(map(repr, foreign))}, which this push left alone: verify will refuse the "
            "repository until it is removed, since a library may read it.",
            stacklevel=4,
        )
