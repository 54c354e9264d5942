"""One question to an OpenAI-compatible server, within a deadline, and what it says where it does not answer."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any


# statuses below 500 that another attempt may change: timeout, conflict, too early, too many requests
PASSING = (408, 409, 425, 429)
# statuses by which servers refuse this request and no other, and other things too: 200 where a filter emptied the reply
ABOUT_THE_REQUEST = (200, 400, 403, 413, 422, 451)
MOST_BYTES = 2**20  # of the page of an error that are read: a choice far above any reason
MOST_SHOWN = 200  # characters of a server's reason, our choice


@dataclass(frozen=True)
class Reply:
    """What a server replied: its text, and whether it was cut at the longest reply."""

    text: str
    cut: bool


class Refused(Exception):
    """A server that does not answer: its HTTP status, its reason, and the seconds that it asks to wait."""

    def __init__(self, status: int, reason: str, wait: float | None = None):
        super().__init__(f"HTTP {status}: {reason}" if reason else f"HTTP {status}")
        self.status, self.wait = status, wait

    @property
    def may_pass(self) -> bool:
        """Tells whether another attempt may help."""
        return self.status >= 500 or self.status in PASSING


def ask(url: str, body: Mapping[str, Any], key: str | None, timeout: float) -> Reply:
    """Asks a server, and returns what it replies.

    Args:
        url (`str`):
            Address up to and with its version.
        body (`dict`):
            Fields of the question.
        key (`str`, *optional*):
            Sent as a bearer token, and hidden in a reason that repeats it.
        timeout (`float`):
            Seconds from the beginning to the last byte.

    Raises:
        [`Refused`]: where the server does not answer, also where a filter emptied its reply.
        `TimeoutError`: when the time is over.
        `OSError`, `http.client.HTTPException`, `ValueError`, `LookupError`, `TypeError`, `AttributeError`: for a connection that
            fails, and for a reply in another form.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    return _within(timeout, lambda: _reply(request, key, timeout))


def _reply(request: urllib.request.Request, key: str | None, timeout: float) -> Reply:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            choice = json.loads(response.read())["choices"][0]
    except urllib.error.HTTPError as error:
        reason = _reason(error.read(MOST_BYTES)) if error.code < 500 else ""  # which is a page of the proxy's, mostly
        shown = reason.replace(key, "…") if key else reason
        raise Refused(error.code, shown, _seconds(error.headers.get("Retry-After"))) from None
    message, end = choice["message"], choice.get("finish_reason")
    if end == "content_filter" or message.get("refusal"):
        raise Refused(200, str(message.get("refusal") or end)[:MOST_SHOWN])
    return Reply(str(message["content"] or ""), cut=end == "length")


def _within(seconds: float, function: Callable[[], Reply]) -> Reply:
    """Returns or raises what the function does; `TimeoutError` when the time is over, whatever it waits for then.

    urllib's own timeout is one of each read: a server that sends a byte a second would never reach it."""
    found: Future[Reply] = Future()

    def work() -> None:
        try:
            found.set_result(function())
        except Exception as error:  # raised again where the result is asked for
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return found.result(seconds)


def _reason(body: bytes) -> str:
    """What a server says of an error, on one line: the message of its JSON, or else its text."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text
    for name in ("error", "message", "detail"):  # of OpenAI, and of servers that follow it less closely
        if isinstance(found, Mapping) and found.get(name):
            found = found[name]
    said = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    printable = "".join(letter if letter.isprintable() else " " for letter in said)
    return " ".join(printable.split())[:MOST_SHOWN].rstrip(".")


def _seconds(after: str | None) -> float | None:
    """The seconds that `Retry-After` asks to wait, as a number or as a date; `None` where it says neither."""
    if after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", after.strip()):
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
