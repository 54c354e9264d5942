"""Model and evidence on a Hub: what is sent, what is claimed, and what happens where the Hub or the line fails."""

from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from hub_server import TOKEN
from huggingface_hub import ModelCard
from peft import LoraConfig
from test_attack import TOKENIZER, tiny_model
from test_report import REFERENCES, harms, record

from trl_tar import Adversary, Report
from trl_tar.cli import main
from trl_tar.hub import card_of, load_report, model_files, publish, write_evidence
from trl_tar.model_card import model_card
from trl_tar.phases import decisive
from trl_tar.red_teaming.fingerprints import weights_sha256
from trl_tar.red_teaming.loading import load
from trl_tar.red_teaming.runner import environment
from trl_tar.report import build_report
from trl_tar.verification import verify


ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "a-model"
    tiny_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def report_on(folder: Path) -> Report:
    """A report with numbers of its own, about the model in the folder."""
    made = record(harms((0.36, 0.38), (0.38, 0.4)))
    model = replace(made, model={**made.model, "weights_sha256": weights_sha256(load(str(folder)))})
    adversaries = [asdict(Adversary(name, "hazard")) for name in ("a", "b")]
    config = {"adversaries": adversaries, "datasets": [], "max_length": 32, "bf16": False}
    return build_report(model, REFERENCES, seeds=[0, 1], config=config, environment=environment())


def test_everything_is_sent_in_one_commit_and_found_again(hub, model):
    publish(model, "someone/a-model", report_on(model), token=TOKEN, commit_message="My own words", private=True)
    repository = hub.repositories["someone/a-model"]
    assert repository.private and repository.messages == ["initial commit", "My own words"]
    assert set(repository.files) >= {
        *("README.md", "SUMMARY.md", "report.html", "report.json", "figures/attacks.png", "figures/tradeoff.png"),
        *(".eval_results/trl-tar.yaml", "model.safetensors", "config.json", "tokenizer.json"),
    }
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


def test_a_model_takes_the_place_of_an_adapter(hub, model):
    (model / "adapter_config.json").write_text("{}")
    publish(model, "someone/a-model", token=TOKEN)
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


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "does not know the token"), (403, "may not write there"), (404, "no such repository"), (409, "Push again")],
)
def test_what_the_hub_refuses_is_one_sentence_and_a_second_push_completes(hub, model, status, reason):
    hub.fail("POST .*/commit/", status)
    with pytest.raises(ValueError, match=rf"'someone/a-model' was not pushed \({status}\): .*{reason}") as error:
        publish(model, "someone/a-model", token=TOKEN)
    assert TOKEN not in str(error.value) and hub.waits == []
    publish(model, "someone/a-model", token=TOKEN)
    assert "model.safetensors" in hub.repositories["someone/a-model"].files


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_server_that_fails_for_a_while_is_asked_again(hub, model, status):
    hub.fail("POST .*/commit/", status, times=2, **{"Retry-After": "3"})
    publish(model, "someone/a-model", token=TOKEN)
    assert len(hub.waits) == 2
    assert hub.repositories["someone/a-model"].messages == ["initial commit", "Model, not attacked"]


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "the Hub failed"), (0, "the connection broke"), (429, "the Hub failed")]
)
def test_a_server_that_stays_down_is_given_up_and_a_second_push_completes(hub, model, status, reason):
    hub.fail("POST .*/commit/", status, times=100)
    with pytest.raises(ValueError, match=f"'someone/a-model' was not pushed .*: {reason}.* Push again") as error:
        publish(model, "someone/a-model", token=TOKEN)
    assert TOKEN not in str(error.value) and "\n" not in str(error.value) and len(hub.waits) <= 10
    hub.failures.clear()
    publish(model, "someone/a-model", token=TOKEN)
    assert "model.safetensors" in hub.repositories["someone/a-model"].files


def test_a_repository_that_cannot_be_read_is_one_sentence(hub):
    for source in ("someone/nothing", "no such name"):
        with pytest.raises(
            ValueError, match="cannot be had from the Hub|is neither a folder nor a repository"
        ) as error:
            load_report(source, token=TOKEN)
        assert "\n" not in str(error.value) and TOKEN not in str(error.value)


def test_the_token_is_in_nothing_that_is_sent(hub, model, capsys):
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    sent = hub.repositories["someone/a-model"].files
    assert not [name for name, content in sent.items() if TOKEN.encode() in content]
    assert TOKEN not in "".join(capsys.readouterr())


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


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, task_type="CAUSAL_LM")], ids=["whole", "adapter"])
def test_a_trainer_pushes_with_a_report_and_says_so_where_there_is_none(hub, make_trainer, peft_config, tmp_path):
    trainer = make_trainer(max_steps=1, hub_token=TOKEN, hub_model_id="someone/hardened", peft_config=peft_config)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    trainer.create_model_card()
    assert "**Not attacked.**" in (folder / "README.md").read_text()
    trainer.push_to_hub()
    files = hub.repositories["someone/hardened"].files
    assert "**Not attacked.**" in files["README.md"].decode() and "training_args.bin" not in files
    assert ("adapter_model.safetensors" if peft_config else "model.safetensors") in files
    if peft_config is None:  # the base of this adapter is in memory alone
        trainer.push_to_hub(report=report_on(folder), commit_message="With evidence")
        assert hub.repositories["someone/hardened"].messages[-1] == "With evidence"
        phase = load_report("someone/hardened", token=TOKEN).training["phases"][0]
        assert phase["adversaries"] == [asdict(each) for each in trainer.adversaries]
        assert TOKEN not in str(phase) and phase["settings"]["tamper_resistance_weight"] == 2.0
        trainer.create_model_card()
        assert "Not attacked" not in (folder / "README.md").read_text()
        trainer.save_model()
        assert "Not attacked" not in (folder / "README.md").read_text()
        with torch.no_grad():
            next(trainer.model.parameters()).mul_(2)
        trainer.save_model()
        assert "**Not attacked.**" in (folder / "README.md").read_text() and (folder / "report.json").is_file()
    with pytest.raises(ValueError, match="push_to_hub has blocking=False"):
        trainer.push_to_hub(blocking=False)


def test_checkpoints_are_not_pushed_behind_the_back_of_the_evidence(hub, make_trainer):
    """transformers would send `training_args.bin`, a pickle that holds the token."""
    trainer = make_trainer(
        max_steps=2, save_steps=1, save_strategy="steps", push_to_hub=True, hub_token=TOKEN, hub_model_id="someone/h"
    )
    trainer.train()
    for repository in hub.repositories.values():
        for files in repository.commits.values():
            assert not [name for name, content in files.items() if TOKEN.encode() in content]


def test_secrets_of_the_settings_are_not_told():
    settings = {"model_init_kwargs": {"token": "hf_Secret", "dtype": "float32"}, "hub_token": "hf_Other", "seed": 3}
    assert decisive(settings) == {"model_init_kwargs": {"dtype": "float32"}, "seed": 3}


def cards() -> list[Path]:
    found = [file for file in (ROOT / "model_cards").rglob("report.json") if Report.load(file).files]
    assert found
    return [file.parent for file in found]


@pytest.mark.parametrize("folder", cards(), ids=lambda folder: folder.name)
def test_the_cards_that_are_kept_are_those_of_their_reports(folder):
    assert (folder / "README.md").read_text(encoding="utf-8") == card_of(Report.load(folder))
