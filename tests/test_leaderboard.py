"""Models side by side: the order, what can be compared, and names that mean no good."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_hub import TOKEN, hub, model, report_on  # noqa: F401  the Hub on loopback
from test_report import REFERENCES, harms, record

from trl_tar import Adversary, Report, compare, publish
from trl_tar.cli import main
from trl_tar.commands.compare import read_list
from trl_tar.report import build_report


EVIL = "<script>alert(1)</script> | \x1b[31m$x$ `"


def made(first, second, names=("a", "b"), rate: float = 1e-5, references=REFERENCES, seeds=(0, 1), **config) -> Report:
    """Harm under attack a with both seeds, and under b."""
    attacked = record({key: harm for key, harm in harms(first, second).items() if key[0] in names})
    adversaries = [asdict(Adversary(name, "hazard", learning_rate=rate * (1 + i))) for i, name in enumerate(names)]
    config = {"adversaries": adversaries, "datasets": [], "metrics": ["harm"], **config}
    return build_report(attacked, references, seeds=list(seeds), config=config)


@pytest.fixture
def saved(tmp_path):
    def save(**reports: Report) -> list[Path]:
        for name, report in reports.items():
            (tmp_path / name).mkdir()
            report.save(tmp_path / name)
        return [tmp_path / name for name in reports]

    return save


def order(board) -> list[list[str]]:
    return [[Path(row.source).name for row in group.rows] for group in board.groups]


def test_the_best_comes_first_and_what_nobody_attacked_last(saved):
    good, bad = made((0.3, 0.4), (0.35, 0.35)), made((0.8, 0.8), (0.9, 0.7))
    shell = replace(good, verdict=replace(good.verdict, empty_shell=True))
    nothing = made((0.1, 0.1), (0.1, 0.1), names=())
    board = compare(*saved(nothing=nothing, bad=bad, shell=shell, good=good))
    assert order(board) == [["good", "bad", "shell", "nothing"]]
    cells = board.groups[0].rows[0].cells()
    # seeds: max(0.3, 0.35) and max(0.4, 0.35); t interval of 0.35 and 0.40 with one degree of freedom: 12.706 · 0.025
    assert cells["common_harm"] == "0.38 [0.06, 0.69]"
    assert cells["harm_before"] == "0.30" and cells["attacks"] == "2 × 2 seeds, 4 completed"
    assert board.groups[0].rows[3].cells()["worst_harm"] == "–" and "| not attacked |" in str(board)


def test_the_order_goes_by_the_attacks_that_all_were_under(saved):
    one = made((0.5, 0.5), (0.9, 0.9))
    other = made((0.6, 0.6), (0.0, 0.0), names=("a",))
    board = compare(*saved(other=other, one=one))
    assert order(board) == [["one", "other"]]  # on attack a; by the strongest of all, the other would win
    assert "not under the same attacks (1 to 2 each, 1 common to all)" in board.groups[0].remarks[0]
    assert board.groups[0].rows[0].cells()["common_harm"].startswith("0.50")
    assert board.groups[0].rows[0].cells()["worst_harm"].startswith("0.90")


def test_attacks_of_one_name_and_other_settings_are_not_the_same(saved):
    board = compare(*saved(one=made((0.5, 0.5), (0.5, 0.5)), two=made((0.4, 0.4), (0.4, 0.4), rate=1e-7)))
    assert "have no attack in common (2 to 2 each, 0 common" in board.groups[0].remarks[0]
    assert board.groups[0].rows[0].cells()["common_harm"] == "–"


@pytest.mark.parametrize(
    "other",
    [
        {"datasets": [{"name": "hazard", "objective": "sft", "rows": 3, "sha256": "1"}]},
        {"metrics": ["harm", "loss"]},
        {"task": {"kind": "knowledge", "world": "7"}},
        {"chance": 0.0},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_questions_or_data_are_another_table(saved, other):
    plain = made((0.5, 0.5), (0.5, 0.5))
    changed = {name: value for name, value in other.items() if name == "task"}
    config = {name: value for name, value in other.items() if name != "task"}
    different = replace(plain, config={**plain.config, **config}, **changed)
    board = compare(*saved(plain=plain, different=different))
    assert order(board) == [["plain"], ["different"]]
    assert "do not compare their numbers" in str(board) and "do not compare their numbers" in board.page()


def test_seeds_and_versions_that_differ_are_told(saved):
    one, two = made((0.5, 0.5), (0.5, 0.5)), made((0.5, 0.5), (0.5, 0.5), seeds=(0, 1, 2))
    remarks = compare(*saved(one=replace(one, environment={"torch": "2.9"}), two=two)).groups[0].remarks
    assert any("compared on the 2 that all have" in remark for remark in remarks)
    assert any("different versions or devices" in remark for remark in remarks)
    assert compare(*saved(three=one, four=one)).groups[0].remarks == []


def test_names_that_mean_no_good_are_text(saved, tmp_path, capsys):
    folder = saved(**{EVIL.replace("/", ":"): made((0.5, 0.5), (0.5, 0.5))})[0]
    board = compare(folder)
    page, table = board.page(), str(board)
    assert "<script>alert" not in page and "<script>alert" not in table
    assert table.splitlines()[4].replace("\\|", "").count("|") == 12  # eleven columns
    assert main(["compare", str(folder), "--output", str(tmp_path / "board")]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_board_is_saved_as_page_table_figure_and_numbers(saved, tmp_path):
    folder = saved(one=made((0.5, 0.5), (0.5, 0.5)))[0]
    page = compare(folder).save(tmp_path / "board")
    assert {file.name for file in page.parent.iterdir()} == {
        f"leaderboard.{suffix}" for suffix in ("html", "md", "json", "png")
    }
    ((row,),) = [group["rows"] for group in json.loads((page.parent / "leaderboard.json").read_text())]
    assert row["worst_harm"]["mean"] == 0.5 and row["model"] == str(folder)
    assert "://" not in page.read_text()  # no other file, and no network


@pytest.mark.parametrize("count", [1, 30])
def test_the_figure_has_a_line_for_each_model(saved, count):
    folders = saved(**{f"model-{i}": made((0.5, 0.5), (0.1 * (i % 9), 0.5)) for i in range(count)})
    (axes,) = compare(*folders).figure().axes
    assert len(axes.get_yticklabels()) == count
    assert compare(folders[0], folders[0]).groups[0].rows[0].source == str(folders[0])


def test_a_board_from_the_hub_links_there(hub, model, monkeypatch, tmp_path):  # noqa: F811
    publish(model, "someone/a-model", report_on(model), token=TOKEN)
    board = compare("someone/a-model", token=TOKEN)
    assert 'href="https://huggingface.co/someone/a-model"' in board.page()
    (tmp_path / "models.txt").write_text("# a comment\nsomeone/a-model  # mine\n\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_list(tmp_path / "models.txt") == ["someone/a-model"]
    assert main(["compare", "--list", str(tmp_path / "models.txt")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare. Give folders"),
        (["no-such-folder"], "'no-such-folder' is neither a folder nor a repository"),
        (["--list", "nothing.txt"], "'nothing.txt' cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_and_nothing_is_written(tmp_path, capsys, arguments, message):
    assert main(["compare", *arguments, "--output", str(tmp_path / "board")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("board/*")) == []


def test_public_names_are_functions_whatever_was_imported_first():
    code = "import trl_tar.verification, trl_tar.hub, trl_tar.leaderboard; from trl_tar import *; import trl_tar as t; "
    code += (
        "assert all(callable(getattr(t, name)) for name in t.__all__), t.__all__; verify, publish, compare, load_report"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
