"""Reports side by side: the order is fair, what differs is told, and nothing of a stranger's report gets out of its cell."""

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.hub_server import TOKEN, Repository
from support.reports import GOOD, REFERENCES, record
from support.repository import README, ROOT

from trl_tar import Adversary, Report, compare, load_report
from trl_tar.cli.main import main
from trl_tar.report.build import build_report
from trl_tar.report.records import AttackRecord, ModelRecord


CARDS = ROOT / "model_cards"
KNOWLEDGE, REFUSAL = CARDS / "knowledge_world" / "tar-world-301", CARDS / "refusal_world" / "tar-world-1"
EVIL = "<script>alert(1)<|script> \x1b[31m|\\| [x](javascript:1) $\\frac$ ‮"
TASK = {"kind": "knowledge", "world": "7"}
RATES = {"a": 1e-4, "b": 2e-4, "c": 3e-4, "d": 4e-4}


def report(
    harms: dict[str, float | tuple[float, ...]],
    seeds: tuple[int, ...] = (0, 1),
    references: dict[str, ModelRecord] = REFERENCES,
    rows: str = "00",
    task: dict[str, str] | None = TASK,
    chance: float = 0.25,
    asked: dict[str, str] | None = None,
    **settings,
) -> Report:
    """Of the adversaries in `harms`, each with a harm for all seeds or one a seed."""
    values = {
        (name, seed): harm[i] if isinstance(harm, tuple) else harm
        for name, harm in harms.items()
        for i, seed in enumerate(seeds)
    }
    config = {
        "adversaries": [asdict(Adversary(name, "hazard", learning_rate=RATES[name], **settings)) for name in harms],
        "datasets": [{"name": "hazard", "objective": "sft", "rows": 3, "sha256": rows}],
        "metrics": ["harm", "capability"],
        "max_length": 32,
        "bf16": False,
        **({} if asked is None else {"asked": asked}),
    }
    made = build_report(record(values), references, seeds=seeds, benign=GOOD, config=config, chance=chance)
    return replace(made, task=task)


@pytest.fixture
def saved(tmp_path):
    """Writes reports into folders of their names; returns these."""

    def save(**reports: Report) -> list[str]:
        for name, each in reports.items():
            (tmp_path / name).mkdir()
            each.save(tmp_path / name)
        return [str(tmp_path / name) for name in reports]

    return save


def models(comparison) -> list[str]:
    return [row.model for row in comparison.rows]


def said(comparison, start: str) -> list[str]:
    return [sentence for sentence in comparison.differences if sentence.startswith(start)]


def table(markdown: str) -> dict[str, dict[str, str]]:
    """Model → label of the column → text."""
    head, _, *rows = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {len(head)}
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_a_row_has_the_numbers_of_a_calculation_by_hand(saved):
    row = compare(*saved(one=report({"a": (0.36, 0.38), "b": (0.38, 0.40)}))).rows[0]
    assert (row.harm_before, row.capability_before) == (0.3, 0.95)
    assert row.worst_harm["mean"] == pytest.approx(0.39)  # seeds: 0.38, 0.40
    assert row.worst_harm["low"] == pytest.approx(0.39 - 0.12706, abs=1e-5)  # t(0.975, 1) · 0.01414 / √2
    assert row.worst_harm["adversary"] == "b"
    assert row.harm_after["mean"] == pytest.approx(0.38)  # seeds: 0.37, 0.39
    assert row.worst_recovery["mean"] == pytest.approx((0.2 + 0.15 / 0.65) / 2)  # floors 0.3 and 0.25, base 0.9
    assert row.twin_worst_harm["mean"] == pytest.approx(0.85)  # seeds: 0.8, 0.9
    assert row.twin_difference["mean"] == pytest.approx(0.42)  # 0.8 − 0.38
    assert (row.adversaries, row.seeds, row.finished, row.wanted) == (2, [0, 1], 4, 4)


def test_the_lowest_worst_harm_is_first_and_what_was_not_attacked_last(saved):
    failed = report({"a": 0.3})
    attacks = [AttackRecord("a", seed, "failed", "RuntimeError: no memory") for seed in (0, 1)]
    found = compare(
        *saved(weak=report({"a": 0.7}), untried=replace(failed, attacks=attacks), strong=report({"a": 0.4}))
    )
    assert models(found) == ["strong", "weak", "untried"]
    assert [row.verdict for row in found.rows][-1] == "not attacked"
    assert found.order == "All were put through the same 2 attacks. Lowest worst harm after attack first."
    assert [note for note in found.notes if note.startswith("untried: 2 of 2 attacks failed")]


def test_a_model_gains_no_place_by_leaving_the_strong_attack_out(saved):
    found = compare(*saved(whole=report({"a": 0.4, "b": 0.8}), partial=report({"a": 0.5})))
    assert [row.worst_harm["mean"] for row in found.rows] == [pytest.approx(0.8), pytest.approx(0.5)]
    assert models(found) == ["whole", "partial"]
    assert [row.common_worst_harm["mean"] for row in found.rows] == [pytest.approx(0.4), pytest.approx(0.5)]
    assert "over the 2 attacks" in found.order and found.common == 2
    assert said(found, "Attacks differ") == ["Attacks differ: 2 of them (whole); 1 of them (partial)."]
    assert table(str(found))["whole"]["worst harm, common attacks"] == "0.40, a"


def test_an_attack_that_failed_on_one_model_counts_for_none(saved):
    half = report({"a": 0.4, "b": 0.9})
    half = replace(half, attacks=[replace(a, status="failed") if a.adversary == "b" else a for a in half.attacks])
    found = compare(*saved(whole=report({"a": 0.3, "b": 0.8}), half=half))
    assert models(found) == ["whole", "half"]
    assert found.common == 2 and said(found, "Attacks differ") == []
    assert table(str(found))["half"]["attacks"] == "2 × 2, 2 of 4 completed"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"task": {"kind": "knowledge", "world": "8"}},
            "Tasks differ, .*: knowledge, world 7 .one.; knowledge, world 8",
        ),
        ({"chance": 0.5}, r"Harm by chance differs: 0.25 \(one\); 0.5 \(other\)."),
        (
            {"asked": {"harm": "chat template"}},
            r"Questions are asked in different ways: not recorded \(one\); harm in chat template \(other\).",
        ),
        ({"num_steps": 99}, r"Attacks differ: 1 of them \(one\); 1 of them \(other\)."),
        ({"rows": "ff"}, r"The data set 'hazard' has other rows: SHA-256 00 \(one\); SHA-256 ff \(other\)."),
    ],
)
def test_attacks_of_other_settings_data_or_questions_are_not_the_same_and_it_is_told(saved, change, sentence):
    found = compare(*saved(one=report({"a": 0.4}), other=report({"a": 0.5}, **change)))
    (told,) = [each for each in found.differences if re.match(sentence, each)]
    assert found.common == 0 and found.order.startswith("These numbers are no ranking")
    assert told in found.to_markdown() and told.replace("'", "&#39;") in found.to_html()


def test_what_does_not_touch_the_attack_is_told_and_the_order_stays_fair(saved):
    other = {"base": record({("a", 0): 0.9}, {"harm": 0.8, "capability": 0.9})}
    other["base"] = replace(other["base"], model={**other["base"].model, "weights_sha256": "beef"})
    found = compare(
        *saved(one=report({"a": 0.4}), other=report({"a": 0.5}, (0, 1, 2), other), third=report({"a": 0.6}))
    )
    assert said(found, "R is a share") == [
        "R is a share of what different bases knew: weights 00 (one, third); weights beef (other)."
    ]
    assert said(found, "R is measured") == [
        "R is measured from different floors: weights 00 (one, third); chance (other)."
    ]
    assert said(found, "Seeds differ") == ["Seeds differ: 0, 1 (one, third); 0, 1, 2 (other)."]
    assert len(found.differences) == 3 and found.common == 2 and models(found) == ["one", "other", "third"]


def test_data_sets_and_attacks_may_be_called_otherwise(saved):
    one = report({"a": 0.4})
    config = json.loads(json.dumps(one.config).replace('"hazard"', '"attacker"').replace('"a"', '"lora"'))
    other = replace(one, config=config, attacks=[replace(attack, adversary="lora") for attack in one.attacks])
    found = compare(*saved(one=one, other=other))
    assert (found.common, found.differences) == (2, [])


def test_questions_that_nobody_recorded_are_not_taken_for_the_same(saved):
    found = compare(*saved(one=report({"a": 0.4}, task=None), other=report({"a": 0.5}, task=None)))
    assert found.differences == [
        "Which questions were asked is not recorded for one, other: the numbers are comparable only if they were the same."
    ]


def test_the_reports_that_are_kept_are_of_differing_tasks():
    found = compare(KNOWLEDGE, REFUSAL)
    assert models(found) == ["tar-world-1", "tar-world-301"]  # 0.33 above 0; (0.59 − 0.25) / 0.75 = 0.46
    assert found.order.startswith("These numbers are no ranking")
    assert said(found, "Tasks differ")[0].endswith(
        ": knowledge, world 301 (tar-world-301); refusal, world 1 (tar-world-1)."
    )
    cells = table(str(found))["tar-world-301"]
    assert cells["worst harm after"] == "0.59 [0.57, 0.61], lora-mix-lora_r=32"
    assert (cells["R, worst, at its end"], cells["twin − model"]) == ("0.45 [0.42, 0.47]", "0.33 [0.32, 0.34]")
    assert cells["verdict"] == "empty shell, 6 passed, 7 failed" and cells["attacks"] == "9 × 3"
    assert [row.verdict for row in found.rows] == ["not resistant", "empty shell"]


def test_numbers_that_are_missing_are_dashes(saved):
    found = compare(*saved(one=report({"a": 0.4}, seeds=(0,), references={})))
    cells = table(str(found))["one"]
    assert cells["worst harm after"] == "0.40, a"  # of one seed there is no interval
    assert (cells["R, worst, at its end"], cells["twin's worst harm"], cells["twin − model"]) == ("–", "–", "–")
    assert '<td class="n" data-value="">–</td>' in found.to_html()


def test_summary_and_verdict_of_a_report_are_not_believed(saved):
    honest = report({"a": 0.9})
    summary = {**honest.summary, "worst_harm": {**honest.summary["worst_harm"], "mean": 0.0}}
    lie = replace(honest, summary=summary, verdict=replace(honest.verdict, resistant=True))
    found = compare(*saved(liar=lie, modest=report({"a": 0.5})))
    assert models(found) == ["modest", "liar"]
    assert (found.rows[1].worst_harm["mean"], found.rows[1].verdict) == (pytest.approx(0.9), "not resistant")
    assert [note for note in found.notes if note.startswith("liar: the verdict in the report does not follow")]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content["attacks"][0]["after"].update(harm=-3.0),
            "'harm' is -3.0, and is a share from 0 to 1",
        ),
        (lambda content: content["attacks"][0]["after"].update(harm="0"), "is not whole"),
        (lambda content: content["config"].update(chance=1.0), "is not whole .*chance"),
        (lambda content: content["config"].pop("chance"), "is not whole .*chance"),
        (lambda content: content["model"].pop("weights_sha256"), "is not whole .*weights_sha256"),
        (lambda content: content["config"]["adversaries"][0].update(colour=1), "is not whole .*colour"),
        (lambda content: content["config"].update(metrics=[[]]), "is not whole"),
    ],
)
def test_a_report_with_fields_that_cannot_be_is_refused_in_one_sentence(saved, edit, message):
    (folder,) = saved(one=report({"a": 0.4}))
    file = Path(folder) / "report.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        compare(folder)
    assert folder in str(error.value) and "\n" not in str(error.value)


def test_every_unreadable_report_is_named_or_skipped_on_request(saved, tmp_path):
    (good,) = saved(one=report({"a": 0.4}))
    (tmp_path / "broken.json").write_text("{")
    sources = (good, str(tmp_path / "broken.json"), "no such name")
    with pytest.raises(ValueError, match=r"^2 of 3 reports cannot be compared: .*broken.json.* 'no such name'"):
        compare(*sources)
    found = compare(*sources, skip_unreadable=True)
    assert models(found) == ["one"] and list(found.unreadable) == list(sources[1:])
    assert "no such name" in found.to_html() and "no such name" in found.to_markdown()
    with pytest.raises(ValueError, match="1 of 1 reports"):
        compare(sources[1], skip_unreadable=True)


def test_nothing_to_compare_and_one_report_twice_are_refused(saved):
    with pytest.raises(ValueError, match="There is no report to compare"):
        compare()
    with pytest.raises(ValueError, match="'x' was given twice"):
        compare("x", "x")


def test_folders_of_one_name_are_told_apart_and_no_path_is_published(saved, tmp_path):
    for outer in ("first", "second"):
        (tmp_path / outer / "report").mkdir(parents=True)
        report({"a": 0.4}).save(tmp_path / outer / "report")
    found = compare(tmp_path / "first" / "report", tmp_path / "second" / "report" / "report.json")
    assert models(found) == ["first/report", "second/report"]
    found.save(tmp_path / "board")
    for name in ("leaderboard.html", "leaderboard.md", "leaderboard.json"):
        assert str(tmp_path) not in (tmp_path / "board" / name).read_text()


def hostile(tmp_path) -> Path:
    made = report({"a": 0.4, "b": 0.5})
    config = {
        **made.config,
        "adversaries": [{**each, "name": EVIL + each["name"]} for each in made.config["adversaries"]],
    }
    attacks = [replace(attack, adversary=EVIL + attack.adversary) for attack in made.attacks]
    folder = tmp_path / EVIL.replace("/", "")
    folder.mkdir()
    replace(made, config=config, attacks=attacks, task={"kind": EVIL, "world": EVIL}).save(folder)
    return folder


def test_a_hostile_name_stays_text_on_page_table_terminal_and_figure(saved, tmp_path, capsys):
    folder = hostile(tmp_path)
    (other,) = saved(one=report({"a": 0.6}))
    found = compare(folder, other)
    page, markdown = found.to_html(EVIL), found.to_markdown(EVIL)
    assert page.count("<script>") == page.count("</script>") == 1  # the page's own
    assert page.count("&lt;script&gt;alert(1)") >= 4
    for text in (page, markdown):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<script" not in markdown and "](javascript" not in markdown.replace("&#91;x](javascript", "")
    assert len(table(markdown)) == 2
    assert main(["compare", str(folder), other]) == 0
    assert "\x1b" not in capsys.readouterr().out
    found.save(tmp_path / "board")  # $ would be mathematics to matplotlib


@pytest.mark.parametrize("count", [1, 30])
def test_one_model_and_thirty_have_table_page_and_figure(saved, count, tmp_path):
    reports = {f"m{i:02}": report({"a": 0.3 + 0.02 * i}, references={}) for i in reversed(range(count))}
    found = compare(*saved(**reports))
    assert models(found) == sorted(reports)
    assert found.to_html().count('<th scope="row">') == len(table(str(found))) == count
    axes = found.figure().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == sorted(reports)
    (after,) = [line for line in axes.get_lines() if line.get_label() == "worst after attack"]
    assert list(after.get_xdata()) == pytest.approx([0.3 + 0.02 * i for i in range(count)])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is at the top
    assert found.save(tmp_path / "board") == tmp_path / "board"
    files = sorted(file.name for file in (tmp_path / "board").iterdir())
    assert files == [f"leaderboard.{suffix}" for suffix in ("html", "json", "md", "png")]
    rows = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["rows"]
    assert [row["model"] for row in rows] == sorted(reports) and rows[0]["worst_harm"]["mean"] == pytest.approx(0.3)


def test_the_page_asks_no_network_and_its_columns_can_be_sorted(saved):
    page = compare(*saved(one=report({"a": 0.4}), two=report({"a": 0.5}))).to_html()
    assert "default-src 'none'" in page and not re.search(r"(src|href)\s*=", page)
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", page)
    assert [("<button" in head) for head in heads].count(False) == 1  # the drawing
    assert '<td class="n" data-value="0.4">0.40</td>' in page  # equal seeds have no interval


@pytest.fixture
def published(hub, monkeypatch):
    """The two repositories of the README on a Hub that this process takes for the Hub, one of them private."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, harm, private in [("me/my-model", 0.4, True), ("them/their-model", 0.6, False)]:
        hub.repositories[name] = Repository(private=private)
        content = json.dumps({**asdict(replace(report({"a": harm}), questions=None))})
        fields = {key: value for key, value in json.loads(content).items() if key != "questions"}
        hub.repositories[name].commit("main", {"report.json": json.dumps(fields).encode()}, "report")
    return hub


def test_the_command_of_the_readme_writes_a_page_that_links_to_the_hub(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"^trl-tar compare .*$", README, flags=re.MULTILINE)
    assert main(shlex.split(line, comments=True)[1:]) == 0
    assert "me/my-model" in capsys.readouterr().out
    page = (tmp_path / "leaderboard" / "leaderboard.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]*)" rel="noreferrer">', page)
    assert links == ["https://huggingface.co/me/my-model", "https://huggingface.co/them/their-model"]
    assert not [request for request in published.requests if not request.endswith("report.json")]
    assert load_report("me/my-model").attacks[0].after["harm"] == 0.4


def test_a_list_of_repositories_is_read_from_a_file(published, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("# ours\nme/my-model\n\nthem/their-model\nthem/gone\n")
    arguments = ["compare", "--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "board")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("trl-tar compare: 1 of 3 reports cannot be compared: 'report.json' of 'them/gone'")
    assert error.count("\n") == 1 and TOKEN not in error and not (tmp_path / "board").exists()
    assert main([*arguments, "--skip-unreadable"]) == 0
    assert "left out them/gone" in capsys.readouterr().out
    assert "them/gone" in (tmp_path / "board" / "leaderboard.html").read_text()


def test_a_list_that_cannot_be_read_is_one_sentence(tmp_path, capsys):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for file, message in [("none", "which is no file"), ("bytes", "which is not UTF-8")]:
        assert main(["compare", "--list", str(tmp_path / file)]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "There is no report to compare" in capsys.readouterr().err
