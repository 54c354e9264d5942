"""No token is shown, sent or told."""

import pytest
from support.hub_server import TOKEN
from support.reports import report_on

from trl_tar.hub.download import load_report
from trl_tar.hub.errors import without_secrets
from trl_tar.hub.publishing import publish


@pytest.mark.parametrize("use", [publish, lambda folder, name, token: load_report(name, token=token)])
def test_a_token_is_never_shown(hub, model, use):
    for token in ("hf_Sécret123456", "hf_Secret\x00123456", "hf_Secret\n123456"):
        with pytest.raises(ValueError, match="The token holds characters that no token of the Hub has") as error:
            use(model, "someone/a-model", token=token)
        assert "123456" not in str(error.value) and hub.requests == []


def test_white_space_around_a_token_is_left_out_and_an_empty_one_is_none(hub, model, monkeypatch):
    publish(model, "someone/a-model", report_on(model), token=f" {TOKEN}\n", private=True)
    assert load_report("someone/a-model", token=f"{TOKEN}\n").files
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_report("someone/a-model", token="").files


def test_errors_of_libraries_are_told_without_tokens_and_signatures():
    told = without_secrets(
        f"b'Bearer {TOKEN}x\\n' is illegal\nhf_Another1 at https://there/a?X-Amz-Signature=abc", f"{TOKEN}x\n"
    )
    assert told == "b'… is illegal … at https://there/a…"
    assert without_secrets("nothing to hide", "") == "nothing to hide"


def test_the_token_is_in_nothing_that_is_sent(hub, model, capsys):
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    sent = hub.repositories["someone/a-model"].files
    assert not [name for name, content in sent.items() if TOKEN.encode() in content]
    assert TOKEN not in "".join(capsys.readouterr())
