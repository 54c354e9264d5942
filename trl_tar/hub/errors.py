"""Answers of the Hub: requested again where it has no time, and reported in one sentence, without a token, where it refuses."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


Answer = TypeVar("Answer")

TRIES = 5
LONGEST_WAIT = 60  # seconds between two of them; where the Hub asks for more, the user decides
SECRET = re.compile(r"Bearer\s+\S+|\bhf_\w+|\?\S+")  # tokens, and the queries of signed addresses
NOT_FOUND = "there is no such repository, or the token may not see it. Check its name, or log in with hf auth login."
REASONS = {
    401: "the Hub does not know the token. Log in with hf auth login, or give another token.",
    404: NOT_FOUND,
    409: "the repository was changed meanwhile. Push again.",
}
NO_WRITING = "the token may not write there. Use a token with the role 'write', and a repository of your own."
NO_READING = "the token may not read there. Ask for access on its page, or give another token."
PUSH_AGAIN = "Push again: what arrived is not sent twice."


def clean_token(token: str | None) -> str | None:
    """Without the white space that a copy brings along; `None`, for the one logged in with, where nothing is left.

    Raises:
        `ValueError`: if it, or the one logged in with, could not be sent; the sentence does not show it.
    """
    cleaned = (token or "").strip() or None
    sent = cleaned or get_token() or ""
    if not (sent.isascii() and sent.isprintable()):
        raise ValueError(
            "The token holds characters that no token of the Hub has. Copy it anew from huggingface.co/settings/tokens."
        )
    return cleaned


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Returns what `ask` returns, and calls it again where the Hub takes no more requests (429), fails, or hangs up."""
    for tries in count(1):
        try:
            return ask()
        except HTTPError as error:
            wait = _wait(error, tries)
            if wait is None or tries == TRIES:
                raise
        time.sleep(wait)
    raise AssertionError  # count does not end


def _wait(error: HTTPError, tries: int) -> int | None:
    """Seconds before the next try; `None` where another would not help, or not soon."""
    asked = None
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code != 429 and error.response.status_code < 500:
            return None
        asked = _asked_wait(error)
    wait = 2 ** (tries - 1) if asked is None else asked
    return wait if wait <= LONGEST_WAIT else None


def _asked_wait(error: HfHubHTTPError) -> int | None:
    """Seconds that the Hub asks to wait."""
    after = error.response.headers.get("Retry-After", "")
    limit = re.search(r"\bt=(\d+)", error.response.headers.get("RateLimit", ""))
    if after.isdigit():
        return int(after)
    return int(limit[1]) if limit else None


@contextmanager
def push_errors(repository: str, token: str | None) -> Iterator[None]:
    """Raises `ValueError`, one sentence without the token, for what the Hub refuses or what broke down after all tries."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"{repository!r} cannot be pushed offline. Unset HF_HUB_OFFLINE.") from error
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is no id of the Hub ({str(error).splitlines()[0]}). Use me/my-model."
        ) from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last three from LFS, Xet and the metadata
        raise ValueError(f"{repository!r} was not pushed {_why_not_pushed(error, token)}") from None


def _why_not_pushed(error: Exception, token: str | None) -> str:
    hidden = error.__context__  # an upload through LFS, and the check of metadata, hide what the Hub answered
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, NO_WRITING, PUSH_AGAIN, token)
    if isinstance(error, RuntimeError) and isinstance(hidden, HfHubHTTPError):
        what = without_secrets(str(error), token)  # "Error while uploading 'model.safetensors' to the Hub."
        return f"({hidden.response.status_code}, {what.rstrip('.')}): its storage did not take it. {PUSH_AGAIN}"
    if isinstance(hidden, HfHubHTTPError):
        return _refusal(hidden, NO_WRITING, PUSH_AGAIN, token)
    broken = hidden if isinstance(hidden, HTTPError) else error
    what = without_secrets(f"{type(broken).__name__}: {broken}", token)
    if isinstance(broken, HTTPError):
        return f"({what}): the connection broke. {PUSH_AGAIN}"
    return f"({what}): the upload broke. {PUSH_AGAIN}"


@contextmanager
def hub_errors(what: str, token: str | None) -> Iterator[None]:
    """Raises `ValueError`, one sentence without the token, for what cannot be read from the Hub."""
    clean_token(token)
    try:
        yield
    except (HFValidationError, HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        hidden = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if isinstance(hidden, HfHubHTTPError):
            reason = _refusal(hidden, NO_READING, "Try again later.", token)
        else:
            broken = without_secrets(f"{type(hidden or error).__name__}: {hidden or error}", token)
            reason = f"({broken}). Check its name, and your connection."
        raise ValueError(f"{what} cannot be had from the Hub {reason}") from None


def _refusal(error: HfHubHTTPError, forbidden: str, again: str, token: str | None) -> str:
    """Status, reason and remedy."""
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError) and status != 403:  # of a gated one
        reason = NOT_FOUND
    elif isinstance(error, RevisionNotFoundError):
        reason = "it has no such branch or commit. Check the revision."
    elif isinstance(error, EntryNotFoundError):
        reason = "it has no such file. Check the repository, or its branch."
    elif status == 403:
        reason = forbidden
    elif status == 429:
        wait = _asked_wait(error)
        reason = f"the Hub takes no more requests for now. Wait {f'{wait} seconds' if wait else 'a minute'}. {again}"
    elif status >= 500:
        reason = f"the Hub failed. Wait a while. {again}"
    else:
        said = without_secrets(error.server_message or "it gave no reason", token)
        reason = REASONS.get(status, f"the Hub refused it, and said: {said.rstrip('.')}. Correct that, and try again.")
    return f"({status}): {reason}"


def without_secrets(text: str, token: str | None) -> str:
    """The text in one line that is not long, with tokens taken out, the given one and any other."""
    for secret in (token, get_token()):
        text = text.replace(secret.strip(), "hf_…") if secret and secret.strip() else text
    return SECRET.sub("…", " ".join(text.split()))[:300]
