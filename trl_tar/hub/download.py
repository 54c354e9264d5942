"""Downloads of reports and models from the Hub."""

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from ..report.report import FILE_NAME, MAX_BYTES, Report
from ..views.card import OWNED_HUB_ID
from .errors import clean_token, hub_errors


def load_report(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Report:
    """Loads a report from a folder, a file, or a repository of the Hub, of which nothing else is downloaded.

    Args:
        source (`str` or `Path`):
            Folder, `report.json` or Hub id.
        revision (`str`, *optional*):
            Branch or commit of the repository.
        token (`str`, *optional*):
            Token of the Hub; by default that of the login.

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
    """Downloads one file of a repository; raises `ValueError` if that fails, or the file is larger than `most` bytes."""
    where, token = f"{name!r} of {repository!r}", clean_token(token)
    if not OWNED_HUB_ID.fullmatch(repository):
        raise ValueError(f"{repository!r} is neither a folder nor a repository of the Hub. Check its spelling.")
    with hub_errors(where, token):
        size = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), token=token).size or 0
        if size > most:
            raise ValueError(
                f"{where} has {size / 2**20:.0f} MiB, more than the {most // 2**20} expected. It was not downloaded."
            )
        return Path(hf_hub_download(repository, name, revision=revision, token=token))
