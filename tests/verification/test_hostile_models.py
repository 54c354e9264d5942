"""A model and a report that somebody made to harm who verifies them: nothing is loaded, and nothing is believed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from support.published import rewrite
from support.sentences import one_sentence

from trl_tar import Adversary, Report, compare
from trl_tar.cli.main import main
from trl_tar.cli.report import report as report_command
from trl_tar.fingerprints import file_sha256
from trl_tar.hub.evidence_folder import bound, write_evidence
from trl_tar.hub.model_files import model_files
from trl_tar.models.untrusted_config import check_configuration
from trl_tar.verification.repeat_attacks import check_demands
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


def huge(content) -> None:
    for point in content["attacks"][0]["trajectory"]:
        point["bystander"] = 1.7e308


def unprintable(content) -> None:
    content["\u001b[31m\u001b]0;owned\u0007colour"] = 1


def long_pattern(content) -> None:
    content["config"]["adversaries"][0] |= {"lora_r": 2, "lora_alpha": 4, "lora_target_modules": "a" * 10**5}


def many_phases(content) -> None:
    adversaries = [{**content["config"]["adversaries"][0], "name": str(i)} for i in range(5000)]
    content["training"] = {"phases": [{"name": "a", "settings": {}, "adversaries": adversaries}]}


UNUSABLE = {
    "many simulated adversaries": many_phases,
    "deep": deep,
    "an attack twice": twice,
    "many": many,
    "no estimate": no_estimate,
    "a number beyond sums": huge,
    "a field that a terminal obeys": unprintable,
    "a pattern without end": long_pattern,
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_report_that_would_break_its_reader_is_one_sentence(copy, case):
    content = json.loads((copy / "report.json").read_text())
    UNUSABLE[case](content)
    (copy / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        verify(copy, 0)
    assert "\n" not in str(error.value) and "report.json" in str(error.value)


def test_the_terminal_obeys_no_field_of_a_report(copy, capsys):
    content = json.loads((copy / "report.json").read_text())
    unprintable(content)
    (copy / "report.json").write_text(json.dumps(content))
    for command in (["verify", str(copy)], ["report", str(copy)], ["compare", str(copy)]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "owned" in told and told.rstrip("\n").isprintable()


def test_a_report_that_cannot_be_summed_leaves_the_others_on_the_leaderboard(copy, published):
    content = json.loads((copy / "report.json").read_text())
    huge(content)
    (copy / "report.json").write_text(json.dumps(content))
    found = compare(copy, published, skip_unreadable=True)
    assert len(found.rows) == 1 and "1e+100" in found.unreadable[str(copy)]


def change_json(name: str, **fields):
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**content, **fields}))

    return change


def whole(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def other_id(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary.pop(max(vocabulary, key=vocabulary.get))
    vocabulary["zzz"] = 10**6  # as many tokens as before
    (folder / "tokenizer.json").write_text(json.dumps(content))


GROWING = {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40}
BETWEEN = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}
AROUND = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 2000}
FILES = {
    "many labels": (change_json("config.json", num_labels=20_000_000), "num_labels 20000000, above 100000"),
    "no configuration": (whole("config.json", "[1]"), "'config.json' holds 'list'"),
    "a growing text": (change_json("tokenizer.json", normalizer=GROWING), "a text 1e.12 times as long"),
    "letters between all": (
        change_json("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [BETWEEN] * 40}),
        "a text 1e.12 times as long",
    ),
    "tokens around": (change_json("tokenizer.json", post_processor=AROUND), "puts 2000 tokens around each text"),
    "no tokenizer": (whole("tokenizer.json", "{}"), "The tokenizer of .* cannot be loaded"),
    "a rule of no kind": (
        change_json("tokenizer.json", normalizer={"type": "No"}),
        "The tokenizer of .* cannot be loaded",
    ),
    "settings in a list": (whole("tokenizer_config.json", "[1]"), "'tokenizer_config.json' holds 'list'"),
    "generation in a list": (whole("generation_config.json", "[1]"), "cannot be loaded|holds 'list'"),
    "generation of words": (whole("generation_config.json", '{"max_new_tokens": "x"}'), "cannot be loaded"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_would_break_its_reader_is_one_sentence(copy, case):
    change, sentence = FILES[case]
    change(copy)
    described = {f.name: {"size": f.stat().st_size, "sha256": file_sha256(f)} for f in model_files(copy)}
    rewrite(copy, lambda content: content["files"].update(described))
    with pytest.raises(ValueError, match=sentence) as error:
        verify(copy, 1)
    one_sentence(error)


def test_a_tokenizer_with_an_id_beyond_the_model_is_named_and_not_attacked_with(copy):
    other_id(copy)
    described = {f.name: {"size": f.stat().st_size, "sha256": file_sha256(f)} for f in model_files(copy)}
    rewrite(copy, lambda content: content["files"].update(described))
    found = verify(copy, 1)
    assert any("tokenizer" in warning for warning in found.warnings), found


def test_files_too_large_for_any_memory_are_told(copy):
    with open(copy / "README.md", "ab") as card:
        card.truncate(20 * 2**30)  # sparse: it takes no room
    assert any("The card (README.md) has 20480 MiB" in problem for problem in verify(copy, 0).problems)
    rewrite(copy, lambda content: content["files"]["config.json"].update(size=2**40), card=False)
    assert any("'config.json' with 1048576 MiB" in problem for problem in verify(copy, 0).problems)


def test_a_base_that_is_no_model_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="Use attacks=0") as error:
        check_configuration(str(tmp_path))
    one_sentence(error)


DEMANDS = {
    "a pattern": ({"lora_r": 2, "lora_target_modules": "(.|.)+!"}, "a pattern as lora_target_modules"),
    "steps of large batches": ({"num_steps": 10**5, "batch_size": 4096}, "num_steps × batch_size × longest row"),
    "a long template": ({"prompt_template": "{prompt}" + "a" * 400_000}, "characters of prompt_template 400008"),
}


@pytest.mark.parametrize("case", DEMANDS)
def test_a_demand_that_never_ends_is_one_sentence(published, case):
    fields, sentence = DEMANDS[case]
    adversary = Adversary("a", "attacker", **{"num_steps": 1, **fields})
    for each in (
        adversary,
        Adversary("b", "attacker", after=Adversary("a", "attacker", **{**fields, "prompt_template": None})),
    ):
        if case == "a long template" and each.name == "b":
            continue  # which only the last attack may have
        with pytest.raises(ValueError, match=sentence) as error:
            check_demands(Report.load(published), [each])
        one_sentence(error)


def test_a_number_in_quotes_has_pages(copy):
    rewrite(copy, lambda content: content["config"]["adversaries"][0].update(learning_rate="0.001"))
    report_command(copy)
    assert "0.001" in (copy / "report.html").read_text()


def test_code_in_any_folder_is_told(copy):
    (copy / "evilpkg").mkdir()
    (copy / "evilpkg" / "__init__.py").write_text("")
    assert any("evilpkg/__init__.py" in problem for problem in verify(copy, 0).problems)


def test_pages_are_never_written_through_a_link(copy, tmp_path):
    for name in ("SUMMARY.md", "report.html"):
        (tmp_path / name).write_text("mine")
        (copy / name).unlink()
        (copy / name).symlink_to(tmp_path / name)
        (copy / f".{name}.{os.getpid()}").symlink_to(tmp_path / name)  # where it is written first
    report_command(copy)
    for name in ("SUMMARY.md", "report.html"):
        assert (tmp_path / name).read_text() == "mine"
        assert not (copy / name).is_symlink() and len((copy / name).read_text()) > 100


def test_evidence_is_never_written_through_a_link(copy, tmp_path):
    report = Report.load(copy)
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(copy / "figures")
    (copy / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="figures' is a link") as error:
        write_evidence(report, copy, "A model", "For a test.")
    one_sentence(error)
    (copy / "figures").unlink()
    kept = {}
    for name in ("README.md", ".eval_results/trl-tar.yaml", "report.json"):
        kept[name] = tmp_path / name.replace("/", "_")
        kept[name].write_text("mine")
        (copy / name).unlink()
        (copy / name).symlink_to(kept[name])
    write_evidence(report, copy, "A model", "For a test.")
    assert all(file.read_text() == "mine" for file in kept.values())
