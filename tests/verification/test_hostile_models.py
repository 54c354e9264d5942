"""A model and a report that somebody made to harm who verifies them: nothing is loaded, and nothing is believed."""

import json
import os
from pathlib import Path

import pytest
import torch
from support.published import rewrite

from trl_tar import Report
from trl_tar.hub.evidence_folder import bound
from trl_tar.verification.verifier import verify


def forged(folder: Path, change=lambda content: None) -> None:
    """Edits the report, and binds it anew to what is in the folder."""
    files = {name: dict(each) for name, each in bound(Report.load(folder), folder).files.items()}

    def all_of_it(content):
        content["files"] = {**content["files"], **files}
        change(content)

    rewrite(folder, all_of_it)


class Opened:
    """A pickle that leaves a mark when somebody reads it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["evil.jinja", "../outside.bin"])
def test_an_index_that_names_no_safetensors_of_the_report_is_refused(copy, tmp_path, place):
    torch.save(Opened(tmp_path / "opened"), copy / place)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": place}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    forged(copy)
    found = verify(copy, 0)
    assert any("reads weights from" in problem and place in problem for problem in found.problems), found.problems
    assert not (tmp_path / "opened").exists()


def test_code_is_found_however_its_field_is_spelled(copy, monkeypatch):
    config = (copy / "config.json").read_text()
    spelled = '{"auto\\u005fmap": {"AutoModelForCausalLM": "evil.Model"},' + config.lstrip()[1:]
    (copy / "config.json").write_text(spelled)
    forged(copy)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it was asked whether to run code"))
    assert any("which is not run" in problem for problem in verify(copy, 1).problems)


def flat(content) -> None:
    for point in content["attacks"][0]["trajectory"]:
        point["harm"] = 0.0


def other_chance(content) -> None:
    content["config"]["chance"] = 0.5


FORGED = {
    "a trajectory": (flat, "ends otherwise than its trajectory"),
    "chance": (other_chance, "has chance 0.5, and a task of kind 'knowledge' has 0.25"),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_the_verdict_rests_on_is_checked(copy, case):
    change, sentence = FORGED[case]
    forged(copy, change)
    assert any(sentence in problem for problem in verify(copy, 0).problems)


def deep(content) -> None:
    settings: dict = {}
    content["training"] = {"phases": [{"name": "a", "settings": settings, "adversaries": []}]}
    for _ in range(900):
        settings["a"] = settings = {}


def twice(content) -> None:
    content["attacks"].append(content["attacks"][0])


def many(content) -> None:
    content["seeds"] = list(range(60_000))


def no_estimate(content) -> None:
    content["summary"]["worst_harm"].pop("adversary")


UNUSABLE = {"deep": deep, "an attack twice": twice, "many": many, "no estimate": no_estimate}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_report_that_would_break_its_reader_is_one_sentence(copy, case):
    content = json.loads((copy / "report.json").read_text())
    UNUSABLE[case](content)
    (copy / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        verify(copy, 0)
    assert "\n" not in str(error.value) and "report.json" in str(error.value)
