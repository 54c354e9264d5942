"""What the Hub does not give is told with its reason, and nothing too large is taken."""

import pytest
from support.hub_server import HANGS_UP, TOKEN

from trl_tar.hub.download import load_report
from trl_tar.hub.publishing import publish
from trl_tar.report.report import MAX_BYTES
from trl_tar.verification.verifier import verify


def test_a_repository_that_cannot_be_read_is_one_sentence(hub):
    for source in ("someone/nothing", "no such name"):
        with pytest.raises(
            ValueError, match="cannot be had from the Hub|is neither a folder nor a repository"
        ) as error:
            load_report(source, token=TOKEN)
        assert "\n" not in str(error.value) and TOKEN not in str(error.value)


@pytest.mark.parametrize("source", [None, 123, ""])
def test_what_names_no_report_is_one_sentence(source):
    with pytest.raises(ValueError, match=f"`source` is {source!r}. Give a folder, a report.json or the Hub id"):
        load_report(source)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "the Hub does not know the token"),
        (403, "the token may not read there"),
        (404, "no such repository"),
        (429, "Wait 3 seconds. Try again later."),
        (500, "the Hub failed. Wait a while. Try again later."),
        (HANGS_UP, "Check its name, and your connection."),
    ],
)
@pytest.mark.parametrize("read", [load_report, lambda name, **settings: verify(name, 0, **settings)])
def test_what_the_hub_does_not_give_is_told_with_its_reason(hub, model, read, status, reason):
    publish(model, "someone/a-model", token=TOKEN)
    headers = {"X-Error-Code": "RepoNotFound"} if status == 404 else {"Retry-After": "3"}
    hub.fail("report.json|GET /api/models", status, times=100, **headers)
    with pytest.raises(ValueError, match="cannot be had from the Hub") as error:
        read("someone/a-model", token=TOKEN)
    sentence = str(error.value)
    assert reason in sentence and "\n" not in sentence and TOKEN not in sentence
    assert ("connection" in sentence) == (status == HANGS_UP)


def test_a_file_or_branch_that_is_not_there_is_told(hub, model):
    publish(model, "someone/a-model", token=TOKEN)
    with pytest.raises(ValueError, match=r"\(404\): it has no such file"):
        load_report("someone/a-model", token=TOKEN)
    with pytest.raises(ValueError, match=r"\(404\): it has no such branch or commit"):
        load_report("someone/a-model", token=TOKEN, revision="other")


def test_a_report_that_is_too_large_is_not_downloaded(hub, model):
    publish(model, "someone/a-model", token=TOKEN)
    hub.repositories["someone/a-model"].files["report.json"] = b" " * (MAX_BYTES + 2**20)
    with pytest.raises(ValueError, match="has 65 MiB, more than the 64 expected. It was not downloaded."):
        load_report("someone/a-model", token=TOKEN)
    assert not [request for request in hub.requests if request.startswith("GET") and "resolve" in request]
