"""Model and evidence on a Hub: what is sent, what is claimed, and what happens where the Hub or the line fails."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard
from support.attacks import tiny_model
from support.hub_server import CUTS, HANGS_UP, STALLS, TOKEN, Repository
from support.reports import report_on
from support.repository import ROOT

from trl_tar import Report
from trl_tar.cli.main import main
from trl_tar.hub.download import load_report
from trl_tar.hub.evidence_folder import card_of, write_evidence
from trl_tar.hub.model_files import model_files
from trl_tar.hub.publishing import publish
from trl_tar.models.loading import load
from trl_tar.report.answers import Questions
from trl_tar.verification.verifier import verify
from trl_tar.views.card import model_card


def fresh_process(hub, tmp_path: Path, *command: str) -> subprocess.Popen:
    """Python with nothing of this process but the address of the Hub and a token."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True, **pipes)


def test_everything_is_sent_in_one_commit_and_found_again(hub, model):
    publish(model, "someone/a-model", report_on(model), token=TOKEN, commit_message="My own words", private=True)
    repository = hub.repositories["someone/a-model"]
    assert repository.private and repository.messages == ["initial commit", "My own words"]
    assert set(repository.files) >= {
        *("README.md", "SUMMARY.md", "report.html", "report.json", "figures/attacks.png", "figures/tradeoff.png"),
        *(".eval_results/trl-tar.yaml", "model.safetensors", "config.json", "tokenizer.json"),
    }
    assert b'"PreTrainedTokenizerFast"' in repository.files["tokenizer_config.json"]  # for transformers 4
    assert load_report("someone/a-model", token=TOKEN) == Report.load(model)
    found = verify("someone/a-model", 0, token=TOKEN)
    assert found.verified and found.warnings == []


def test_a_branch_is_made_and_the_main_one_left_alone(hub, model):
    publish(model, "someone/a-model", token=TOKEN, revision="hardened")
    repository = hub.repositories["someone/a-model"]
    assert repository.files == {} and "model.safetensors" in repository.commits[repository.branches["hardened"]]


def test_without_a_report_nothing_is_claimed(hub, model):
    publish(model, "someone/a-model", token=TOKEN)
    files = hub.repositories["someone/a-model"].files
    card = files["README.md"].decode()
    assert "**Not attacked.**" in card and "resistant to" not in card
    assert "report.json" not in files and ".eval_results/trl-tar.yaml" not in files


def test_a_push_without_a_report_takes_away_what_an_earlier_one_said(hub, model):
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    (model / "report.json").unlink()
    publish(model, "someone/a-model", token=TOKEN, license="mit")
    files = hub.repositories["someone/a-model"].files
    assert set(files) == {"README.md", *(file.name for file in model_files(model))}
    assert b"**Not attacked.**" in files["README.md"] and b"license: mit" in files["README.md"]


def test_a_licence_that_nobody_gave_is_not_told(model):
    write_evidence(report_on(model), model, "A model", "For a test.")
    assert "icen" not in (model / "README.md").read_text()


def test_only_what_belongs_to_a_model_is_sent(hub, model):
    for name in ("notes.json", "training_args.bin", "credentials.json", "optimizer.pt", "a.py"):
        (model / name).write_text("{}")
    publish(model, "someone/a-model", token=TOKEN)
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert set(hub.repositories["someone/a-model"].files) == {*names, "tokenizer.json", "tokenizer_config.json"}


def test_files_of_other_people_in_the_repository_stay(hub, model):
    theirs = {
        *(
            "checkpoint-500/model.safetensors",
            "original/consolidated.safetensors",
            "onnx/a.jinja",
            "additional_chat_templates/a.txt",
            "figures/mine/a.png",
        ),
        *("figures/mine.png", ".eval_results/gsm8k.yaml", "adapter/adapter_config.json", "LICENSE", ".gitattributes"),
    }
    older = {
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "training_args.bin",
        "merges.txt",
        "a.safetensors",
    }
    hub.repositories["someone/a-model"] = Repository()
    hub.repositories["someone/a-model"].commit("main", dict.fromkeys(theirs | older, b"x"), "theirs")
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    files = set(hub.repositories["someone/a-model"].files)
    assert theirs <= files and not older & files


def test_files_that_verify_will_refuse_are_told(hub, model):
    hub.repositories["someone/a-model"] = Repository()
    hub.repositories["someone/a-model"].commit(
        "main", {"model.gguf": b"", "LICENSE": b"", "a.py": b"", "onnx/a.bin": b""}, "theirs"
    )
    with pytest.warns(UserWarning, match="also holds 'a.py', 'model.gguf', 'onnx/a.bin', which this push left alone"):
        publish(model, "someone/a-model", report_on(model), token=TOKEN)
    assert len(verify("someone/a-model", 0, token=TOKEN).problems) == 3


def test_every_file_of_a_tokenizer_is_bound_and_sent(hub, model):
    names = {"merges.txt", "vocab.txt", "vocab.json", "added_tokens.json", "tokenizer.model", "spiece.model"}
    names.add("additional_chat_templates/tools.jinja")
    (model / "additional_chat_templates").mkdir()
    for name in names:
        (model / name).write_text("{}")
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    assert names <= set(hub.repositories["someone/a-model"].files) & set(Report.load(model).files)


def test_names_are_no_patterns(hub, model):
    (model / "model.safetensors").rename(model / "model[1].safetensors")
    publish(model, "someone/a-model", token=TOKEN)
    assert "model[1].safetensors" in hub.repositories["someone/a-model"].files


def test_an_adapter_on_a_folder_of_this_machine_is_refused(hub, model, tmp_path):
    (model / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path}"}}')
    with pytest.raises(ValueError, match="a folder that only this machine has. Publish the base"):
        publish(model, "someone/a-model", token=TOKEN)
    assert hub.requests == []


def test_a_card_that_somebody_wrote_is_not_overwritten(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    card = model / "README.md"
    card.write_text("# My own words")
    with pytest.raises(ValueError, match="is no card of trl-tar, and a push would write one in its place. Rename it"):
        publish(model, "someone/a-model", report_on(model))
    assert hub.requests == [] and [card.read_text(), (model / "report.json").exists()] == ["# My own words", False]
    assert main(["push", str(model), "someone/a-model", "--overwrite-card"]) == 0
    assert "has no report.json: the card will say that the model was not attacked" in capsys.readouterr().err
    assert "**Not attacked.**" in card.read_text()
    publish(model, "someone/a-model", report_on(model))  # over a card of ours, and over one with evidence
    publish(model, "someone/a-model")
    card.write_text("# Model Card for Model ID\n\n[More Information Needed]")
    publish(model, "someone/a-model", report=False)


def test_a_later_push_keeps_the_words_of_the_card(hub, model):
    write_evidence(report_on(model), model, "My title", "My description.", license="mit")
    publish(model, "someone/a-model", token=TOKEN)
    card = hub.repositories["someone/a-model"].files["README.md"].decode()
    assert "# My title" in card and "My description." in card and "license: mit" in card
    publish(model, "someone/a-model", token=TOKEN, title="Another")
    card = hub.repositories["someone/a-model"].files["README.md"].decode()
    assert "# Another" in card and "My description." in card and "license: mit" in card


@pytest.mark.parametrize(
    ("repository", "settings", "sentence"),
    [
        (123, {}, "repository is 123, which is no text"),
        (None, {}, "repository is None, which is no text"),
        ("", {}, "repository is empty"),
        ("a/b/c", {}, "'a/b/c' is no id of the Hub"),
        ("someone/a-model", {"title": 5}, "title is 5, which is no text"),
        ("someone/a-model", {"license": ["mit"]}, r"license is \['mit'\], which is no text"),
    ],
)
def test_what_is_no_text_is_one_sentence(hub, model, repository, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        publish(model, repository, token=TOKEN, **settings)
    assert "\n" not in str(error.value) and hub.requests == []


def answered(harm: float) -> Questions:
    return Questions(before={"model": {"harm": [harm]}})


@pytest.mark.parametrize("name", ["elsewhere", "elsewhere/hardened.json"])
def test_answers_go_where_their_report_goes(hub, model, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "elsewhere").mkdir()
    replace(report_on(model), questions=answered(0.25)).save(tmp_path / name)
    answered(1.0).save(model)
    assert main(["push", str(model), "someone/a-model", "--report", str(tmp_path / name)]) == 0
    (tmp_path / "sent.json.gz").write_bytes(hub.repositories["someone/a-model"].files["questions.json.gz"])
    assert Questions.load(tmp_path / "sent.json.gz") == answered(0.25)
    publish(model, "someone/a-model", Report.load(model))  # its answers are beside it
    publish(model, "someone/a-model")
    assert Questions.load(model) == answered(0.25)
    assert "questions.json.gz" in hub.repositories["someone/a-model"].files


def test_what_another_report_left_is_not_sent(hub, model):
    first = replace(report_on(model), questions=answered(1.0), training={"phases": []})
    publish(model, "someone/a-model", first, token=TOKEN)
    assert {"questions.json.gz", "training.json"} <= set(hub.repositories["someone/a-model"].files)
    other = replace(report_on(model), before={**first.before, "harm": 0.123})
    publish(model, "someone/a-model", other, token=TOKEN)
    publish(model, "someone/a-model", token=TOKEN)
    assert not {"questions.json.gz", "training.json"} & set(hub.repositories["someone/a-model"].files)
    assert Questions.load(model / "other.questions.json.gz") == answered(1.0)


def test_a_model_takes_the_place_of_an_adapter(hub, model):
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base"}')
    publish(model, "someone/a-model", token=TOKEN)
    metadata = ModelCard.load(model / "README.md").data
    assert (metadata.library_name, metadata.base_model) == ("peft", "someone/base")
    (model / "adapter_config.json").unlink()
    publish(model, "someone/a-model", token=TOKEN)
    assert "adapter_config.json" not in hub.repositories["someone/a-model"].files


def test_private_is_not_claimed_of_a_repository_that_is_public(hub, model):
    publish(model, "someone/a-model", token=TOKEN)
    with pytest.raises(ValueError, match="is there already, and public. Make it private in its settings"):
        publish(model, "someone/a-model", token=TOKEN, private=True, commit_message="Secret")
    assert "Secret" not in hub.repositories["someone/a-model"].messages


def test_the_command_pushes_a_report_of_another_folder(hub, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    file = report_on(model).save(tmp_path / "elsewhere.json")
    assert main(["push", str(model), "someone/a-model", "--report", str(file), "--title", "A title"]) == 0
    assert b"# A title" in hub.repositories["someone/a-model"].files["README.md"]
    assert load_report("someone/a-model", token=TOKEN).files


def test_a_card_of_a_report_that_is_bound_to_nothing_claims_no_hashes(model):
    card = model_card(report_on(model), "A model", "For a test.")
    assert "not bound to the files" in card and "SHA-256" not in card and "trl-tar verify" not in card


def test_a_report_of_another_model_is_refused_before_anything_is_sent(hub, model):
    other = report_on(model)
    tiny_model(1).save_pretrained(model)
    with pytest.raises(ValueError, match="The report is about weights .*, and .* holds"):
        publish(model, "someone/a-model", other, token=TOKEN)
    assert hub.requests == []


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*.safetensors. Save the model there"):
        publish(tmp_path, "someone/a-model")
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no tokenizer.json"):
        publish(tmp_path, "someone/a-model")


def refused(folder: Path, **settings) -> str:
    """The sentence that a push ends in, without the token or a signed address."""
    with pytest.raises(ValueError, match="'someone/a-model' was not pushed") as error:
        publish(folder, "someone/a-model", token=TOKEN, **settings)
    sentence = str(error.value)
    assert TOKEN not in sentence and "Amz" not in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "said: refused with 400. Correct that"),
        (401, "does not know the token"),
        (403, "may not write there"),
        (404, "no such repository"),
        (409, "Push again"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_and_a_second_push_completes(either_hub, model, status, reason):
    either_hub.fail("POST .*/commit/", status)
    sentence = refused(model)
    assert f"({status}): " in sentence and reason in sentence and either_hub.waits == []
    publish(model, "someone/a-model", token=TOKEN)
    assert "model.safetensors" in either_hub.repositories["someone/a-model"].files


@pytest.mark.parametrize("status", [429, 500, 503, HANGS_UP, CUTS])
@pytest.mark.parametrize(
    "path", ["repos/create", "GET /api/models", "/branch/", "validate-yaml", "/preupload/", "/commit/"]
)
def test_a_server_that_fails_for_a_while_is_asked_again(hub, model, path, status):
    hub.fail(path, status, times=2, **{"Retry-After": "3"})
    publish(model, "someone/a-model", token=TOKEN, private=True, revision="b")
    assert len(hub.waits) == 2 and min(hub.waits) >= (3 if status > 0 else 1)
    repository = hub.repositories["someone/a-model"]
    assert repository.messages == ["initial commit", "Model, not attacked"]
    assert "model.safetensors" in repository.commits[repository.branches["b"]]


def test_a_wait_that_is_too_long_is_told_instead(hub, model):
    hub.fail("repos/create", 429, **{"RateLimit": '"api";r=0;t=250'})
    assert "no more requests for now. Wait 250 seconds. Push again" in refused(model) and hub.waits == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "the Hub failed"),
        (429, "no more requests for now. Wait a minute."),
        (HANGS_UP, "the connection broke"),
        (CUTS, "the connection broke"),
    ],
)
def test_a_server_that_stays_down_is_given_up_and_a_second_push_completes(either_hub, model, status, reason):
    either_hub.fail("POST .*/commit/", status, times=100)
    sentence = refused(model)
    assert reason in sentence and "Push again" in sentence and len(either_hub.waits) <= 10
    either_hub.failures.clear()
    publish(model, "someone/a-model", token=TOKEN)
    assert "model.safetensors" in either_hub.repositories["someone/a-model"].files


@pytest.mark.parametrize(
    ("path", "status", "times", "reason"),
    [
        (
            "PUT /storage",
            400,
            1,
            "(400, Error while uploading 'model.safetensors' to the Hub): its storage did not take it",
        ),
        (
            "PUT /storage",
            403,
            1,
            "(403, Error while uploading 'model.safetensors' to the Hub): its storage did not take it",
        ),
        (
            "PUT /storage",
            500,
            100,
            "(500, Error while uploading 'model.safetensors' to the Hub): its storage did not take it",
        ),
        ("PUT /storage", HANGS_UP, 100, "the connection broke"),
        ("PUT /storage", CUTS, 100, "the connection broke"),
        (
            "objects/verify",
            422,
            1,
            "(422, Error while uploading 'model.safetensors' to the Hub): its storage did not take it",
        ),
        ("objects/batch", 403, 1, "(403): the token may not write there"),
        ("objects/batch", 500, 100, "(500): the Hub failed"),
    ],
)
def test_weights_that_do_not_arrive_are_one_sentence_and_a_second_push_completes(
    lfs_hub, model, path, status, times, reason
):
    lfs_hub.fail(path, status, times=times)
    assert reason in refused(model) and len(lfs_hub.waits) <= 10
    assert lfs_hub.repositories["someone/a-model"].messages == ["initial commit"]
    lfs_hub.failures.clear()
    publish(model, "someone/a-model", token=TOKEN)
    assert (
        lfs_hub.repositories["someone/a-model"].files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    )


@pytest.mark.parametrize("status", [429, 500, CUTS])
def test_weights_are_sent_again_after_a_break(lfs_hub, model, status):
    lfs_hub.fail("PUT /storage", status, times=2, **{"Retry-After": "3"})
    publish(model, "someone/a-model", token=TOKEN)
    assert len(lfs_hub.waits) == 2 and min(lfs_hub.waits) >= (3 if status > 0 else 1)


def test_an_upload_through_xet_that_is_refused_is_one_sentence(hub, model):
    pytest.importorskip("hf_xet")
    hub.lfs = True
    hub.fail("xet-write-token", 403, times=100)
    assert "403 Forbidden" in (sentence := refused(model)) and "Push again" in sentence


def test_a_push_that_is_killed_in_the_middle_is_completed_by_the_next(lfs_hub, model, tmp_path):
    lfs_hub.fail("PUT /storage", STALLS)
    first = fresh_process(lfs_hub, tmp_path, "-m", "trl_tar", "push", str(model), "someone/a-model")
    assert lfs_hub.stalled.wait(120)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert lfs_hub.repositories["someone/a-model"].messages == ["initial commit"]
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    assert lfs_hub.repositories["someone/a-model"].messages == ["initial commit", "Model and evidence"]
    assert verify("someone/a-model", 0, token=TOKEN).verified


def test_another_process_loads_and_verifies_what_was_pushed(lfs_hub, model, tmp_path):
    publish(model, "someone/a-model", report_on(model), token=TOKEN, private=True)
    use = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; from trl_tar import load_report;"
        "from trl_tar.cli.main import main; name = 'someone/a-model'; T.from_pretrained(name);"
        "print(M.from_pretrained(name).num_parameters(), load_report(name).digest);"
        "raise SystemExit(main(['verify', name, '--attacks', '0']))"
    )
    process = fresh_process(lfs_hub, tmp_path, "-c", use)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.split()[:2] == [str(load(str(model)).num_parameters()), Report.load(model).digest]
    assert "verified someone/a-model" in said and TOKEN not in said + errors


def test_the_hubs_own_parsers_read_the_metadata(hub, model):
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    card = ModelCard.load(model / "README.md")
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert set(card.data.tags) == {"trl", "trl-tar", "tamper-resistance"}
    report = Report.load(model)
    assert values["harm_after_attack"] == round(report.summary["harm_after"]["mean"], 4) == 0.38
    entries = huggingface_hub.parse_eval_result_entries(
        yaml.safe_load((model / ".eval_results" / "trl-tar.yaml").read_text())
    )
    assert {entry.task_id: entry.value for entry in entries} == values
    assert huggingface_hub.eval_result_entries_to_yaml(entries) == yaml.safe_load(
        (model / ".eval_results" / "trl-tar.yaml").read_text()
    )


def cards() -> list[Path]:
    found = [file for file in (ROOT / "model_cards").rglob("report.json") if Report.load(file).files]
    assert found
    return [file.parent for file in found]


@pytest.mark.parametrize("folder", cards(), ids=lambda folder: folder.name)
def test_the_cards_that_are_kept_are_those_of_their_reports(folder):
    assert (folder / "README.md").read_text(encoding="utf-8") == card_of(Report.load(folder))
