"""A published model is what its report is about, and every way to tamper with the two is told by a sentence of its own."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from support.forged import FORGERIES
from support.hub_server import TOKEN
from support.published import BASE, SUITE, WORLD, rewrite
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_tar import Report, red_team
from trl_tar.cli.main import main
from trl_tar.fingerprints import digest_of, file_sha256
from trl_tar.hub.evidence_folder import bound, write_evidence
from trl_tar.hub.model_files import about_the_files, files_in, model_files
from trl_tar.hub.publishing import publish
from trl_tar.models.loading import load
from trl_tar.models.untrusted_config import base_of, check_configuration
from trl_tar.report.build import build_report
from trl_tar.report.records import ModelRecord
from trl_tar.report.report import MAX_BYTES, report_of
from trl_tar.testbed import knowledge_metrics
from trl_tar.verification.consistency import differences_of_attacks
from trl_tar.verification.repeat_attacks import TOLERANCE, drawn
from trl_tar.verification.verifier import verify


def test_an_untouched_model_is_verified_and_its_attacks_come_out_the_same(copy, capsys):
    assert main(["verify", str(copy), "--attacks", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] and found["problems"] == [] and found["warnings"] == []
    before, attack = found["attacks"]
    assert before["adversary"] is None and before["found"]["harm"] == before["reported"]["harm"]
    assert attack["found"]["harm"] == pytest.approx(attack["reported"]["harm"], abs=TOLERANCE)
    assert set(found["checked"]) == {"5 files", "4 attacks of the report", "1 attacks made anew"}
    assert main(["verify", str(copy), "--attacks", "0"]) == 0
    assert "verified" in capsys.readouterr().out


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def report_of_another_model(folder: Path) -> None:
    def change(content):
        content["files"]["model.safetensors"]["sha256"] = "0" * 64

    rewrite(folder, change)


def edit_a_number(content) -> None:
    content["attacks"][0]["after"]["harm"] = 0.0


def remove_an_attack(content) -> None:
    del content["attacks"][0]


def follow(content) -> None:
    """Forges every number that follows from the attacks."""
    old = report_of({k: v for k, v in content.items() if k != "digest"})
    made = build_report(
        ModelRecord(old.model, old.before, old.attacks, old.zero_step, old.standard_errors),
        old.references,
        seeds=old.seeds,
        config=old.config,
        chance=old.config["chance"],
        training=old.training,
        task=old.task,
    )
    content |= {n: json.loads(json.dumps(asdict(made)[n])) for n in ("summary", "by_adversary", "verdict")}


def raise_chance(content) -> None:
    content["config"]["chance"] = 0.9
    follow(content)


def forge_the_way(content) -> None:
    """Lower harm along an attack, and the end as it was."""
    content["attacks"][0]["trajectory"][-1]["harm"] = 0.0
    follow(content)


def read_weights_from(name: str):
    def change(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": name}}))
        (folder / "evil.jinja").write_bytes(b"a pickle")
        files = [*model_files(folder), folder / "evil.jinja"]
        rewrite(folder, lambda c: c.update(files={file.name: described(file) for file in files}))

    return change


def beside(name: str):
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")

    return change


def name_a_file(name: str):
    def change(content):
        content["files"][name] = content["files"]["config.json"]

    return lambda folder: rewrite(folder, change)


def cut(name: str):
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])

    return change


def swap_the_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    first, second = [word for word in WORLD.vocabulary if len(word) == 5][:2]
    swapped = text.replace(f'"{first}"', '"\0"').replace(f'"{second}"', f'"{first}"').replace('"\0"', f'"{second}"')
    assert len(swapped) == len(text) and swapped != text
    (folder / "tokenizer.json").write_text(swapped)


TAMPERED = {
    "one bit of the weights": (
        flip_a_bit,
        "'model.safetensors' has the SHA-256 .* the weights were changed, or the report",
    ),
    "a number": (lambda f: rewrite(f, edit_a_number, forge=False), "does not have the digest that it names"),
    "a number, digest and card forged": (
        lambda f: rewrite(f, edit_a_number),
        "summary does not follow from its attacks",
    ),
    "an attack removed": (
        lambda f: rewrite(f, remove_an_attack),
        "lacks the attack 'attacker' with seed 0, .* removed",
    ),
    "another model's report": (report_of_another_model, "or the report is of another model"),
    "another report's card": (
        lambda f: (f / "README.md").write_text(
            (f / "README.md").read_text().replace("report: `", "report: `" + "0" * 64 + "` `")
        ),
        "The card was written for another report",
    ),
    "the tokenizer": (swap_the_tokenizer, "'tokenizer.json' has the SHA-256 .* the tokenizer were changed"),
    "weights cut short": (cut("model.safetensors"), "'model.safetensors' has .* bytes, .*: the weights were cut short"),
    "a file gone": (lambda f: (f / "config.json").unlink(), "'config.json' is missing"),
    "weights beside": (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "'pytorch_model.bin' holds weights that"),
    "an adapter beside": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "'adapter_config.json' is beside the model, a library may read it, and the report says nothing of it",
    ),
    "a chat template beside": (
        lambda f: (f / "chat_template.jinja").write_text("x"),
        "'chat_template.jinja' is beside",
    ),
    "an additional chat template, of which the first is the one": (
        beside("additional_chat_templates/default.jinja"),
        "'additional_chat_templates/default.jinja' is beside the model",
    ),
    "weights in a folder": (beside("original/consolidated.pth"), "'original/consolidated.pth' holds weights that"),
    "an index of a pickle": (
        read_weights_from("evil.jinja"),
        "reads weights from 'evil.jinja', which is no safetensors",
    ),
    "an index that leads out": (
        read_weights_from("../outside.bin"),
        "reads weights from '../outside.bin', which is no",
    ),
    "the report among the files": (name_a_file("report.json"), "lists the file 'report.json', which is no part of a"),
    "a name with a line end": (name_a_file("a\nb.json"), "lists the file 'a.nb.json', which is no name"),
    "chance": (lambda f: rewrite(f, raise_chance), "has chance 0.9, and a task of kind 'knowledge' has 0.25"),
    "the way of an attack": (lambda f: rewrite(f, forge_the_way), "with seed 0 ends otherwise than its trajectory"),
    "the way of an attack on the twin": (
        lambda f: rewrite(f, lambda c: c["references"]["twin"]["attacks"][0]["trajectory"][-1].update(harm=0.0)),
        "ends otherwise than its trajectory",
    ),
    "a path that leads out": (
        name_a_file("../../x.json"),
        r"lists the file '../../x.json', which is not in the model's own",
    ),
    "a file that is no data": (
        name_a_file("code.py"),
        "lists the file 'code.py'. Only .jinja, .json, .model, .safetensors, .txt are read",
    ),
    "a path that leads out, digest not forged": (
        lambda f: rewrite(f, lambda c: c["files"].update({"../../x.json": c["files"]["config.json"]}), forge=False),
        "lists the file '../../x.json', which is not in the model's own",
    ),
    "no configuration": (lambda f: rewrite(f, lambda c: c["files"].pop("config.json")), "names no configuration"),
    "no attack that completed": (
        lambda f: rewrite(f, lambda c: [a.update(status="failed") for a in c["attacks"]]),
        "has no completed attack, so it shows nothing",
    ),
    "files in a list": (lambda f: rewrite(f, lambda c: c.update(files=[1]), forge=False), "names no file of weights"),
    "no files": (
        lambda f: rewrite(f, lambda c: c.update(files={})),
        "names no file of weights, so it is bound to no model",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_told_by_a_sentence_of_its_own(copy, capsys, case):
    tamper, sentence = TAMPERED[case]
    tamper(copy)
    assert main(["verify", str(copy), "--attacks", "0"]) == 1
    said = capsys.readouterr().out
    assert re.search(sentence, said), said


UNUSABLE = {
    "a newer schema": (lambda c: c.update(schema_version=99), "schema_version 99, .* Upgrade trl-tar"),
    "a field that is unknown": (lambda c: c.update(colour=1), "is not whole .colour: Extra inputs"),
    "an adversary without a name": (
        lambda c: c["config"]["adversaries"][0].pop("name"),
        "is not whole .config.adversaries.0: .*'name'",
    ),
    "a configuration of another type": (
        lambda c: c.update(config=[1]),
        "is not whole .config: Input should be a valid",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_report_that_cannot_be_read_is_unusable(copy, capsys, case):
    change, sentence = UNUSABLE[case]
    rewrite_raw = json.loads((copy / "report.json").read_text())
    change(rewrite_raw)
    (copy / "report.json").write_text(json.dumps(rewrite_raw | {"digest": digest_of(rewrite_raw)}))
    assert main(["verify", str(copy), "--attacks", "0"]) == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"schema_version": 4, "before": {"harm": NaN}}', "has NaN, which is no number of JSON"),
        (" " * (MAX_BYTES + 1), "more than the 64 of any report"),
        ("[[", "is not JSON"),
    ],
)
def test_json_that_is_no_report_is_unusable(copy, capsys, text, sentence):
    (copy / "report.json").write_text(text)
    assert main(["verify", str(copy), "--attacks", "0"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_card_that_was_edited_by_hand_is_a_warning(copy):
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("not resistant", "resistant"))
    found = verify(copy, 0)
    assert found.verified and "edited by hand" in found.warnings[0]


def test_another_version_is_a_warning_that_says_how_much_it_matters(copy):
    rewrite(copy, lambda content: content["environment"].update(torch="1.0", python="3.1"))
    found = verify(copy, 0)
    assert found.verified
    assert any(w.startswith("torch is") and "which attacks amplify" in w for w in found.warnings)
    assert any(w.startswith("python is") and "should not change a number" in w for w in found.warnings)


def test_numbers_that_nobody_can_repeat_are_not_verified(copy):
    def change(content):  # every number that follows from it forged as well
        for attack in content["attacks"]:
            attack["after"]["harm"] = attack["trajectory"][-1]["harm"] = 0.1
        follow(content)

    rewrite(copy, change)
    assert verify(copy, 0).verified
    found = verify(copy, 1)
    assert not found.verified
    assert re.search(r"After '\w+' with seed \d harm is [01]\.\d+ here, and 0.100 in the report", found.problems[0])


def test_numbers_on_the_way_of_an_attack_are_measured_anew(copy):
    def change(content):
        for attack in content["attacks"]:
            attack["trajectory"][0]["harm"] = 0.1
        follow(content)

    rewrite(copy, change)
    assert verify(copy, 0).verified
    assert re.search(r"At step 0 of '\w+' with seed \d harm is [01]\.\d+ here, and 0.100", verify(copy, 1).problems[0])


def test_the_loss_that_a_gate_reads_is_measured_anew(copy):
    def change(content):
        content["before"]["retain_nll"] = 9.0
        follow(content)

    rewrite(copy, change)
    assert re.search(r"Before any attack retain_nll is \d\.\d+ here, and 9.000", verify(copy, 1).problems[0])


def test_other_data_than_the_reports_is_told(copy):
    rewrite(copy, lambda content: [each.update(sha256="0" * 64) for each in content["config"]["datasets"]])
    assert "has other rows here than in the report" in verify(copy, 1).problems[0]


def test_code_of_a_repository_is_never_run(copy):
    config = json.loads((copy / "config.json").read_text())
    text = json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    (copy / "config.json").write_text(text.replace('"auto_map"', '"auto\\u005fmap"'))  # the same name to a parser
    rewrite(copy, lambda content: content["files"].update({f.name: described(f) for f in model_files(copy)}))
    assert "needs code of its repository" in verify(copy, 1).problems[0]


def test_code_of_a_tokenizer_is_never_run(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    evil = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    (copy / "tokenizer_config.json").write_text(json.dumps(config | evil))
    rewrite(copy, lambda content: content["files"].update({f.name: described(f) for f in model_files(copy)}))
    assert "needs code of its repository (auto_map in tokenizer_config.json)" in verify(copy, 1).problems[0]


def test_a_report_that_names_other_weights_is_told(copy):
    rewrite(copy, lambda content: content["model"].update(weights_sha256="0" * 64))
    assert "The report is of another model" in verify(copy, 1).problems[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: [*(each.update(num_steps=10**9) for each in c["config"]["adversaries"]), follow(c)],
            "num_steps 1000000000, more than",
        ),
        (
            lambda c: [each.update(batch_size=10**9) for each in c["config"]["adversaries"]],
            "batch_size 1000000000, more",
        ),
        (lambda c: c["config"].update(max_length=2**50), "max_length 1125899906842624, more than the 1048576"),
        (lambda c: c["task"].update(world="9" * 5000), "There is no world"),
    ],
)
def test_a_report_cannot_ask_for_attacks_without_end(copy, change, sentence):
    rewrite(copy, change)
    with pytest.raises(ValueError, match=sentence):
        verify(copy, 1)


def described(file: Path) -> dict:
    return {"size": file.stat().st_size, "sha256": file_sha256(file)}


def test_the_strongest_attack_is_made_anew_and_the_others_cannot_be_foreseen(published):
    report = Report.load(published)
    attacks = [
        replace(a, after={**a.after, "harm": h}) for a, h in zip(report.attacks, (0.1, 0.9, 0.2, 0.3), strict=True)
    ]
    report = replace(report, attacks=attacks)
    found = [drawn(report, 2) for _ in range(60)]
    assert {first.outcome["harm"] for first, _ in found} == {0.9}
    assert {second.outcome["harm"] for _, second in found} == {0.1, 0.2, 0.3}  # all but once in 10^10
    assert drawn(report, None) == drawn(report, 9) == attacks


def test_code_that_a_report_names_is_run_only_where_it_is_trusted_and_the_same(copy):
    def change(content):
        content["config"]["adversaries"][0]["custom"] = "support.custom_attacks:descend"
        content["config"]["custom"] = {"support.custom_attacks:descend": "0" * 64}

    rewrite(copy, change)
    report, trust = Report.load(copy), ["support.custom_attacks"]
    assert {attack.adversary for attack in drawn(report, None)} == {"mix"}
    assert {attack.adversary for attack in drawn(report, None, trust)} == {"attacker", "mix"}
    found = verify(copy, attacks=1)
    assert found.verified and {attack["adversary"] for attack in found.attacks} == {None, "mix"}
    assert any(
        "outside this package are not made anew: attacker. To run them, trust support" in w for w in found.warnings
    )
    (problem,) = verify(copy, attacks=None, trust=trust).problems
    assert "is other code here" in problem and "than in the report (000000000000…)" in problem


def test_a_report_of_other_weights_is_not_bound(published):
    report = Report.load(published)
    with pytest.raises(
        ValueError, match="The report is about weights .*Attack this model, or give the report that belongs"
    ):
        bound(replace(report, model={**report.model, "weights_sha256": "0" * 64}), published)


def test_without_a_task_the_data_must_be_given(copy):
    def change(content):
        content["task"] = None
        follow(content)

    rewrite(copy, change)
    with pytest.raises(ValueError, match="does not say where its data and metrics come from"):
        verify(copy, 1)
    data, metrics = WORLD.datasets(), knowledge_metrics(0)
    given = {name: data[name] for name in ("attacker", "retain")}
    assert verify(copy, 1, given, {name: metrics[name] for name in ("harm", "capability")}).verified


def test_shards_of_safetensors_are_verified(copy):
    model = AutoModelForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="300KB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    rewrite(copy, lambda content: content.update(files={f.name: described(f) for f in model_files(copy)}))
    assert verify(copy, 1).verified


CONFIGURATIONS = {
    "a kernel": ({"_attn_implementation": "evil/kernel"}, "asks for the code of 'evil/kernel'"),
    "other weights": ({"transformers_weights": "../outside.bin"}, "reads weights from '../outside.bin'"),
    "a missing library": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be loaded .*optimum"),
    "layers without end": ({"num_hidden_layers": 10**7}, "has num_hidden_layers 10000000, above"),
    "a vocabulary without end": ({"vocab_size": 10**9}, "is of a model of [0-9]+ numbers, and its weights have"),
    "no type": ({"model_type": "evil"}, "gives no model that can be loaded"),
    "no width": ({"hidden_size": "x"}, "gives no model that can be loaded"),
}


@pytest.mark.parametrize("content", [{}, {"peft_type": "evil"}, {"peft_type": "LORA", "r": 2}, {"peft_type": ["x"]}])
def test_an_adapter_without_a_base_is_unusable(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is no adapter that can be loaded|names no base"):
        base_of(str(tmp_path))


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_asks_for_more_than_weights_is_unusable(copy, case):
    change, sentence = CONFIGURATIONS[case]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    rewrite(copy, lambda content: content["files"].update({f.name: described(f) for f in model_files(copy)}))
    with pytest.raises(ValueError, match=sentence):
        verify(copy, 1)


def test_an_adapter_is_verified_and_its_base_runs_no_code_and_is_no_pickle(tmp_path, monkeypatch):
    base, folder = Path(shutil.copytree(BASE, tmp_path / "base")), tmp_path / "adapter"
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    )
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    metrics = {name: knowledge_metrics(0)[name] for name in ("harm", "capability")}
    report = red_team(folder, SUITE[:1], {"attacker": WORLD.datasets()["attacker"]}, metrics, (0,))
    write_evidence(replace(report, task={"kind": "knowledge", "world": "0"}), folder, "An adapter", "For a test.")
    assert verify(folder, 1).verified

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert load(str(folder)).num_parameters() > 0  # one's own may be a pickle
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises((ValueError, OSError), match="no file named model.safetensors"):
        verify(folder, 1)

    ran = tmp_path / "ran"
    (base / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig as C\n")
    config = json.loads((base / "config.json").read_text())
    evil = {"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}
    (base / "config.json").write_text(json.dumps(config | evil))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    with pytest.raises(ValueError, match="contains custom code"):
        verify(folder, 1)
    assert not ran.exists()


def test_an_index_of_a_base_names_safetensors_alone(tmp_path):
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    check_configuration(str(base))
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"w": "weights.bin"}}')
    with pytest.raises(ValueError, match="has weights in 'weights.bin', which is no safetensors file"):
        check_configuration(str(base))


UNREAD = ("checkpoint-5/trainer_state.json", "checkpoint-5/optimizer.pt", "examples/run.py", ".cache/a.json")


def test_what_no_library_reads_is_no_matter_on_disk_and_on_the_hub(copy, hub):
    publish(copy, "someone/a-model", token=TOKEN)
    repository = hub.repositories["someone/a-model"]
    for name in ("optimizer.pt", "rng_state_0.pth", "onnx/tokenizer.json", *UNREAD):
        beside(name)(copy)
        repository.commit("main", {**repository.files, name: b"x"}, "More")
    (copy / "old.bin").mkdir()  # a folder
    assert verify(copy, 0).problems == verify("someone/a-model", 0, token=TOKEN).problems == []
    for name in ("old/model.gguf", "additional_chat_templates/default.jinja", "merges.txt"):
        beside(name)(copy)
        repository.commit("main", {**repository.files, name: b"x"}, "Too much")
    found = verify(copy, 0).problems
    assert len(found) == 3 and verify("someone/a-model", 0, token=TOKEN).problems == found


def test_an_additional_chat_template_that_is_linked_is_seen_too(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "default.jinja").write_text("x")
    (copy / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    report = Report.load(copy)
    assert "additional_chat_templates/default.jinja" in next(about_the_files(copy, report, files_in(copy)))


def test_no_card_is_made_of_a_report_that_is_not_in_order(copy, monkeypatch):
    rewrite(copy, edit_a_number)
    (copy / "README.md").write_text("No digest here.")
    monkeypatch.setattr("trl_tar.verification.consistency.card_of", lambda _: pytest.fail("a card was made"))
    assert not verify(copy, 0).verified


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", 0), "`model` is ''. Give the folder of a model, or its Hub id."),
        ((None, 0), "`model` is None. Give"),
        (("me/my-model", "3"), "`attacks` is '3'. Give a whole number from 0"),
        (("me/my-model", -1), "`attacks` is -1. Give"),
        (("me/my-model", True), "`attacks` is True. Give"),
        ((Path(__file__), 0), "a file. Give the folder of the model"),
    ],
)
def test_unusable_arguments_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        verify(*arguments)


def test_a_revision_that_is_empty_is_refused(copy):
    with pytest.raises(ValueError, match="`revision` is ''. Give a branch or commit, or leave it out"):
        verify(copy, 0, revision="")


def test_the_file_of_a_report_means_its_folder(copy):
    assert verify(copy / "report.json", 0).verified


def test_json_is_printed_where_nothing_can_be_verified(copy, capsys):
    (copy / "report.json").unlink()
    assert main(["verify", str(copy), "--attacks", "0", "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["verified"] is None and "holds no report" in found["error"] and found["error"] in printed.err


def test_what_comes_with_weights_that_nobody_defended_is_named_and_disarms_no_attack(copy):
    """The undefended base with a tokenizer that reads each question's first word as another."""
    world = {"datasets": {"attacker": WORLD.datasets()["attacker"], "retain": WORLD.datasets()["retain"]}}
    metrics = {name: knowledge_metrics(0)[name] for name in ("harm", "capability")}
    harm = Report.load(copy).before["harm"]
    forge, name = FORGERIES["tokenizer"]
    forge(copy, "the", "of")
    rewrite(copy, lambda content: content["files"].update({f.name: described(f) for f in model_files(copy)}))
    found = verify(copy, 1, **world, metrics=metrics, base=BASE)
    assert found.verified and found.attacks[0]["found"]["harm"] == harm > 0.95
    assert any(name in sentence for sentence in found.warnings)
    alone = verify(copy, 1, **world, metrics=metrics)
    assert any("Give `base`" in sentence for sentence in alone.warnings)
    assert "another tokenizer or chat template" in alone.problems[0]


RECORDED = Path(__file__).parents[2] / "model_cards" / "smollm2_refusal"


def test_a_report_of_an_older_schema_follows_from_its_attacks_by_the_rules_of_then():
    """Bounds have other rules today; means, and what a verdict calls passed, do not."""
    report = Report.load(RECORDED)
    assert report.schema_version == 4 and list(differences_of_attacks(report)) == []
    higher = {**report.summary, "harm_after": {**report.summary["harm_after"], "mean": 0.1}}
    assert list(differences_of_attacks(replace(report, summary=higher))) != []
    gates = [
        replace(gate, value=0, passed=True) if gate.name == "broken_attacks" else gate for gate in report.verdict.gates
    ]
    for verdict in (replace(report.verdict, gates=gates), replace(report.verdict, resistant=True)):
        (said,) = differences_of_attacks(replace(report, verdict=verdict))
        assert said == "The report's verdict does not follow from its attacks: one of the two was edited."
