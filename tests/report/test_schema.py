"""The schema of a report is that of its dataclasses: recorded reports load, and keep every digit and their digest."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from trl_tar.fingerprints import digest_of
from trl_tar.report.records import AttackRecord
from trl_tar.report.report import Report
from trl_tar.report.schema import OPTIONAL, Number, read, whole, written


CARDS = Path(__file__).parents[2] / "model_cards"
RECORDED = sorted(CARDS.rglob("report.json"))
SMALLEST = min(RECORDED, key=lambda file: file.stat().st_size)


def at(content, path):
    """What lies in the content under these keys and indices."""
    for key in path:
        content = content[key]
    return content


def leaves(content, path=()):
    """Every number of the content, with the keys and indices that lead to it."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*path, key))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield path, content


def written_again(report: Report, folder: Path) -> dict:
    """What a report's file holds after it was saved again."""
    return json.loads(report.save(folder / "again.json").read_text())


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: str(file.parent.relative_to(CARDS)))
def test_a_recorded_report_is_written_again_as_it_was_and_keeps_its_digest(file, tmp_path):
    content, report = json.loads(file.read_text()), Report.load(file)
    assert report.digest == content["digest"] == digest_of(content)
    assert json.dumps(written_again(report, tmp_path), sort_keys=True) == json.dumps(content, sort_keys=True)


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: str(file.parent.relative_to(CARDS)))
def test_settings_stay_in_the_order_in_which_they_were_recorded(file):
    assert list(Report.load(file).config) == list(json.loads(file.read_text())["config"])


def test_all_recorded_reports_are_looked_at():
    assert len(RECORDED) == 6


def test_every_number_is_written_as_it_was_read(tmp_path):
    """JSON tells 0 from 0.0, and so does the digest: a field that makes a float of a whole number would change both."""
    content = json.loads(SMALLEST.read_text())
    for path, value in leaves(content):
        if value == int(value):
            at(content, path[:-1])[path[-1]] = int(value)
        elif path[0] == "attacks" or "summary" in path:
            at(content, path[:-1])[path[-1]] = 0
    (tmp_path / "report.json").write_text(json.dumps(content))
    found = written_again(Report.load(tmp_path), tmp_path)
    assert digest_of(found) == digest_of(content)
    assert {path: repr(number) for path, number in leaves(found) if path != ("digest",)} == {
        path: repr(number) for path, number in leaves(content)
    }


REQUIRED = {
    "an attack's trajectory": (("attacks", 0), "trajectory"),
    "an attack's error": (("references", "base", "attacks", 0), "error"),
    "the settings": ((), "config"),
    "the standard errors": ((), "standard_errors"),
    "a gate's threshold": (("verdict", "gates", 0), "threshold"),
}


@pytest.mark.parametrize("case", REQUIRED)
def test_a_field_is_in_the_file_although_the_dataclass_has_a_default(case, tmp_path):
    path, name = REQUIRED[case]
    content = json.loads(SMALLEST.read_text())
    del at(content, path)[name]
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"is not whole \({'.'.join(map(str, (*path, name)))}: Field required\)"):
        Report.load(tmp_path)


NO_NUMBERS = {"true": True, "text": "0.5", "a list": [0.5], "no number at all": 10**400}


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_is_no_number_is_refused_everywhere(case, tmp_path):
    content = json.loads(SMALLEST.read_text())
    numbers = [
        path
        for path, _ in leaves(content)
        if path[0] not in ("training", "schema_version") and "adversaries" not in path
    ]
    assert len(numbers) > 500
    for path in numbers[:: len(numbers) // 100]:
        wrong = json.loads(SMALLEST.read_text())
        at(wrong, path[:-1])[path[-1]] = NO_NUMBERS[case]
        (tmp_path / "report.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"is not whole \(" + ".".join(map(str, path))):
            Report.load(tmp_path)


def test_answers_are_in_a_file_of_their_own(tmp_path):
    content = json.loads(SMALLEST.read_text())
    (tmp_path / "report.json").write_text(json.dumps(content | {"questions": None}))
    with pytest.raises(ValueError, match="is not whole .questions: Extra inputs are not permitted"):
        Report.load(tmp_path)


@dataclass(frozen=True)
class Extended(AttackRecord):
    """An attack's record with a field that recorded reports lack."""

    wall_seconds: Number | None = field(default=None, metadata=OPTIONAL)


def test_a_field_that_was_added_is_left_out_where_it_is_not_known(tmp_path):
    schema = TypeAdapter(Annotated[Extended, whole(Extended)])
    old = json.loads(SMALLEST.read_text())["attacks"][0]
    assert read(schema, old).wall_seconds is None and written(read(schema, old)) == old
    new = old | {"wall_seconds": 3}
    assert written(read(schema, new)) == new
    with pytest.raises(ValueError, match="^wall_seconds: Input should be a valid number$"):
        read(schema, old | {"wall_seconds": True})


def many_attacks(content):
    content["attacks"] = [{}] * 500_000


def many_seeds(content):
    content["seeds"] = ["a"] * 1_000_000


def many_names(content):
    content["environment"] = {str(i): 1 for i in range(400_000)}


def many_shares(content):
    content["config"]["contamination"] = {str(i): dict.fromkeys(map(str, range(1000)), "x") for i in range(1000)}


def many_files(content):
    content["files"] = {str(i): {} for i in range(100_000)}


def many_references(content):
    content["references"] = {str(i): {} for i in range(100_000)}


HOSTILE = {
    many_attacks: "is not whole .attacks.0.adversary: Field required",
    many_seeds: "is not whole .seeds.0: Input should be a valid integer",
    many_shares: "is not whole .config.contamination.0.0: Input should be a valid number",
    many_files: "is not whole .files.0.size: Field required",
    many_references: "is not whole .references.0..key.: String should match pattern",
    many_names: "has a dictionary of 400000 names, more than the 100000 of any",
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_file_with_a_million_errors_is_refused_at_the_first(change, tmp_path):
    content = json.loads(SMALLEST.read_text())
    change(content)
    (tmp_path / "report.json").write_text(json.dumps(content))
    start = process_time()
    with pytest.raises(ValueError, match=HOSTILE[change]):
        Report.load(tmp_path)
    assert process_time() - start < 10  # seconds; all errors in words took up to 16, and 3.6 GB
