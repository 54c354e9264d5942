"""Model and evidence, together in a folder and on the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from .model_card import HUB_ID, ROLES, evaluation_results, model_card, unattacked_card
from .phases import WEIGHTS, file_sha256
from .plots import plot_attacks, plot_tradeoff
from .records import write_json
from .red_teaming.fingerprints import weights_sha256
from .red_teaming.loading import load
from .report import FILE_NAME, MAX_BYTES, Report
from .report_page import write_pages


# of the report, and of the training's own
OUR_FILES = {FILE_NAME, "training.json", "run.json", "log_history.json", "comparison.json", "trainer_state.json"}
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
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "*.jinja",
)
EVIDENCE = (
    "README.md",
    "SUMMARY.md",
    "report.html",
    FILE_NAME,
    "training.json",
    "questions.json.gz",
    "figures/*.png",
    ".eval_results/*.yaml",
)
FIGURES = (
    {"path": "figures/attacks.png", "alt": "Harm and held-out capability along the attacks"},
    {"path": "figures/tradeoff.png", "alt": "Capability against harm, before and after attack"},
)
UNNAMED = {"title": "A model", "description": "", "repository": None}
REASONS = {
    401: "the Hub does not know the token. Log in with hf auth login, or give another token.",
    403: "the token may not write there. Use a token with the role 'write', and a repository of your own.",
    404: "there is no such repository, or the token may not see it. Check its name.",
    409: "the repository was changed meanwhile. Push again.",
}


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
            "Attack this model, or give the report that belongs to it."
        )
    return replace(report, files=_described(folder))


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file of the model."""
    return {file.name: {"size": file.stat().st_size, "sha256": file_sha256(file)} for file in model_files(folder)}


def belongs(folder: Path) -> bool | None:
    """Whether the report in the folder is about the model beside it; `None` without a report that is bound to one."""
    if not (folder / FILE_NAME).is_file():
        return None
    try:
        files = Report.load(folder).files
    except ValueError:  # of a newer version, or damaged
        return False
    return _described(folder) == files if files else None


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
    report: Report | None = None,
    *,
    title: str | None = None,
    description: str = "A language model with a safeguard against fine-tuning attacks.",
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Pushes a model, and the evidence on it, in one commit; safe to repeat after an interruption.

    Without a report, neither given nor in the folder, the card says that the model was not attacked.

    Args:
        folder (`str` or `Path`):
            Of a model or adapter in safetensors, with its tokenizer.
        repository (`str`):
            Its Hub id; made if there is none.
        report ([`Report`], *optional*):
            The red team's, on this very model. By default the `report.json` in the folder.
        title, description (`str`, *optional*):
            Of the card.
        license (`str`, *optional*):
            Of the weights, as the Hub names it, such as `"apache-2.0"`.
        private (`bool`, *optional*):
            For a repository that is made here.
        token (`str`, *optional*):
            Of the Hub; by default the one logged in with.
        revision (`str`, *optional*):
            Branch; made if there is none.
        commit_message (`str`, *optional*):
            One of your own.

    Returns:
        `str`: address of the commit.

    Raises:
        `ValueError`: for a folder without a model, a report of another one, or what the Hub refuses, with the reason.
    """
    folder = Path(folder)
    check_model(folder)
    if report is None and (folder / FILE_NAME).is_file():
        report = Report.load(folder)
    title = title or repository.split("/")[-1]
    if report is None:
        (folder / "README.md").write_text(unattacked_card(title, description, license), encoding="utf-8")
    else:
        report = write_evidence(report, folder, title, description, repository, license)
    message = commit_message or ("Model, not attacked" if report is None else "Model and evidence")
    api = HfApi(token=token)

    with _push_errors(repository, token):
        made = api.create_repo(repository, private=private, exist_ok=True).repo_id
        if private and not api.model_info(made).private:
            raise ValueError(
                f"{made!r} is there already, and public. Make it private in its settings, or leave private out."
            )
        if revision is not None:
            api.create_branch(made, branch=revision, exist_ok=True)
        files = [file.name for file in model_files(folder)]
        evidence = [name for name in EVIDENCE if report is not None or name == "README.md"]
        commit = api.upload_folder(
            repo_id=made,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=[*files, *evidence],
            delete_patterns=[*EVIDENCE, *MODEL_FILES],  # what an earlier push left: of another model, or about it
        )
    return commit.commit_url


@contextmanager
def _push_errors(repository: str, token: str | None) -> Iterator[None]:
    """What the Hub refuses, or what broke down after the retries of huggingface_hub, as one sentence without the token."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"{repository!r} cannot be pushed offline. Unset HF_HUB_OFFLINE.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = REASONS.get(status, "the Hub failed. Push again later: what arrived is not sent twice.")
        raise ValueError(f"{repository!r} was not pushed ({status}): {reason}") from None
    except HTTPError as error:
        reason = _without(f"{type(error).__name__}: {error}", token)
        raise ValueError(f"{repository!r} was not pushed ({reason}): the connection broke. Push again.") from None
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is no id of the Hub ({str(error).splitlines()[0]}). Use me/my-model."
        ) from None


def _without(text: str, token: str | None) -> str:
    """The first line, with the token taken out."""
    lines = text.splitlines() or [""]
    for secret in {token, get_token()} - {None}:
        lines[0] = lines[0].replace(str(secret), "hf_…")
    return lines[0]


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
    if Path(source).exists():
        return Report.load(source)
    return Report.load(download(str(source), FILE_NAME, revision, token))


def download(
    repository: str, name: str, revision: str | None = None, token: str | None = None, most: int = MAX_BYTES
) -> Path:
    """One file of a repository; `ValueError` where it is not to be had, or larger than `most` bytes."""
    where = f"{name!r} of {repository!r}"
    if not HUB_ID.fullmatch(repository):
        raise ValueError(f"{repository!r} is neither a folder nor a repository of the Hub. Check its spelling.")
    with hub_errors(where, token):
        size = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), token=token).size or 0
        if size > most:
            raise ValueError(
                f"{where} has {size / 2**20:.0f} MiB, more than the {most // 2**20} expected. It was not downloaded."
            )
        return Path(hf_hub_download(repository, name, revision=revision, token=token))


@contextmanager
def hub_errors(what: str, token: str | None) -> Iterator[None]:
    """What cannot be read from the Hub as one sentence, without the token."""
    try:
        yield
    except (HFValidationError, HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        reason = REASONS.get(status) if isinstance(error, RepositoryNotFoundError) else None
        raise ValueError(
            f"{what} cannot be had from the Hub: {reason or _without(str(error), token)} Check its name, and your connection."
        ) from None
