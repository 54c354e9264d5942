"""Requests to the Hub: repeated where it is busy or fails, and reported in one sentence, without tokens, where it refuses."""

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

TRIES = 5  # a choice: they wait 1, 2, 4 and 8 seconds, unless the Hub asks for other times
LONGEST_WAIT = 60  # seconds between two tries, a choice; where the Hub asks for more, the user decides
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
    """Strips white space, which a copied token may have; returns `None`, for the token of the login, if nothing is left.

    Raises:
        `ValueError`: if the token, or that of the login, cannot be sent in a header; the message does not show it.
    """
    cleaned = (token or "").strip() or None
    sent = cleaned or get_token() or ""
    if not (sent.isascii() and sent.isprintable()):
        raise ValueError(
            "The token holds characters that no token of the Hub has. Copy it anew from huggingface.co/settings/tokens."
        )
    return cleaned


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Returns what `ask` returns, and repeats it if the Hub takes no more requests (429), fails (5xx), or hangs up."""
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
    """Returns the seconds before the next try; `None` if another try would not help, or only after `LONGEST_WAIT`."""
    requested = None
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code != 429 and error.response.status_code < 500:
            return None
        requested = _requested_wait(error)
    wait = 2 ** (tries - 1) if requested is None else requested
    return wait if wait <= LONGEST_WAIT else None


def _requested_wait(error: HfHubHTTPError) -> int | None:
    """Returns the seconds that the Hub asks to wait, from its headers; `None` if it does not say."""
    after = error.response.headers.get("Retry-After", "")
    limit = re.search(r"\bt=(\d+)", error.response.headers.get("RateLimit", ""))
    if after.isdigit():
        return int(after)
    return int(limit[1]) if limit else None


@contextmanager
def push_errors(repository: str, token: str | None) -> Iterator[None]:
    """Raises `ValueError`, one sentence without the token, for a push that the Hub refuses or that failed after all tries."""
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
    """Returns status, reason and remedy, in words."""
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
        wait = _requested_wait(error)
        reason = f"the Hub takes no more requests for now. Wait {f'{wait} seconds' if wait else 'a minute'}. {again}"
    elif status >= 500:
        reason = f"the Hub failed. Wait a while. {again}"
    else:
        message = without_secrets(error.server_message or "it gave no reason", token)
        reason = REASONS.get(
            status, f"the Hub refused it, and said: {message.rstrip('.')}. Correct that, and try again."
        )
    return f"({status}): {reason}"


def without_secrets(text: str, token: str | None) -> str:
    """Returns the text on one line of at most 300 characters, without this token, that of the login, and any other."""
    for secret in (token, get_token()):
        text = text.replace(secret.strip(), "hf_…") if secret and secret.strip() else text
    return SECRET.sub("…", " ".join(text.split()))[:300]
