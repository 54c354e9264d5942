"""The pages of a report: whole, safe, and readable with no network."""

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
from support.reports import REFERENCES, attack, harms, record

from trl_tar import Adversary
from trl_tar.adversaries.in_words import in_words
from trl_tar.cli.report import report as report_command
from trl_tar.report.build import build_report
from trl_tar.report.records import AttackRecord, ModelRecord
from trl_tar.report.report import SCHEMA_VERSION, Report
from trl_tar.report.verdict import GATES, GateResult, judge
from trl_tar.views.card import model_card
from trl_tar.views.page import attack_rows, curves, report_page, report_summary, write_pages
from trl_tar.views.words import attack_sentence, gate_in_words, told


EVIL = "</script><img src=x onerror=alert(1)>|{{ 7 * 7 }}\n# heading"


SHARE = {"mean": 0.95, "low": 0.9, "high": 1.0, "n": 2}
BENIGN = {
    "trainability": SHARE,
    "capability_ratio": SHARE,
    "num_steps": 10,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "base": [],
    "model": [],
}
ERROR = "RuntimeError: no memory"


def report(model: ModelRecord | None = None, references=REFERENCES, benign=BENIGN, **config) -> Report:
    model = model or record(harms((0.36, 0.38), (0.38, 0.4)))
    return build_report(model, references, seeds=[0, 1], benign=benign, config={"adversaries": [], **config})


def with_attacks(*attacks: AttackRecord, **changes) -> ModelRecord:
    return replace(record({}), attacks=list(attacks), **changes)


def hostile() -> Report:
    adversary = asdict(Adversary(EVIL, mixture={EVIL: 1.0}))
    data = {"name": EVIL, "objective": EVIL, "rows": 1, "sha256": EVIL}
    attacks = [replace(attack(EVIL, 0, 0.4), error=EVIL)]
    model = with_attacks(*attacks, model={**record({}).model, "id": EVIL}, zero_step={EVIL: 0.1})
    made = report(model, adversaries=[adversary], datasets=[data], metrics=[EVIL])
    return replace(made, environment={EVIL: EVIL})


def without_plotly(page: str) -> str:
    return page[page.index("<body>") :]


def test_every_attack_is_in_the_table_strongest_first():
    made = report()
    page = without_plotly(report_page(made, "a model"))
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th><td class=\"n\">(\d)</td>", page)
    assert sorted(rows) == sorted((a.adversary, str(a.seed)) for a in made.attacks)
    harm = {(a.adversary, str(a.seed)): a.after["harm"] for a in made.attacks}
    assert [harm[row] for row in rows] == sorted(harm.values(), reverse=True)


def test_an_attack_that_failed_is_in_the_table_with_its_reason():
    made = report(with_attacks(AttackRecord("a", 0, "failed", ERROR), attack("a", 1, 0.4)))
    row = attack_rows(made)[0]
    assert (row["harm"], row["recovery"], row["broken"]) == (None, None, "–")
    assert row["status"] == "failed: RuntimeError: no memory"
    assert "no memory" in report_page(made, "a model")


def test_a_row_says_when_the_attack_broke_the_model():
    made = report(record(harms((0.8, 0.8), (0.3, 0.3))))  # floor 0.3, base 0.9: R = 0.83 at steps 10 and 20
    assert [row["broken"] for row in attack_rows(made)] == ["10", "10", "not broken", "not broken"]
    without_base = report(references={"twin": REFERENCES["twin"]})
    assert {row["broken"] for row in attack_rows(without_base)} == {"–"}


def test_a_row_says_of_an_attack_all_that_the_card_says():
    a = Adversary("a", mixture={"hazard": 1.0, "retain": 3.0}, lora_r=4, quantization="nf4", lr_scheduler="cosine")
    made = report(adversaries=[asdict(a)])
    row, *_ = (row for row in attack_rows(made) if row["attack"] == "a")
    said = asdict(in_words(a))
    assert {name: row[name] for name in said} == said
    assert said["data"] == "25 % hazard + 75 % retain" and "base in nf4, cosine" in said["method"]
    assert "| a | 0 | 25 % hazard + 75 % retain | SFT, LoRA r=4, base in nf4, cosine |" in report_summary(made, "m")
    undescribed, *_ = (row for row in attack_rows(made) if row["attack"] == "b")
    assert {undescribed[name] for name in said} == {"–"}


def test_means_are_those_of_the_summary_where_a_budget_left_attacks_out():
    # a: 0.2 and 0.4, b: 0.9 and not made, so 0.6 over adversaries; over seeds it would be (0.55 + 0.4) / 2
    attacks = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.9}
    made = report(record(attacks), adversaries=[asdict(Adversary(name, "hazard")) for name in "abc"])
    assert made.summary["harm_after"]["mean"] == pytest.approx(0.6)
    assert "| model | 0.30 | 0.60 |" in report_summary(made, "a model")
    whole = curves(made)["attacks"][0]["curves"]["model"]["harm"]
    assert whole[-1] == [20, pytest.approx(0.6), None, None]


def test_the_sentence_on_attacks_counts_those_that_a_budget_left_out():
    attacks = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.9}
    made = report(record(attacks), adversaries=[asdict(Adversary(name, "hazard")) for name in "abc"])
    assert attack_sentence(made) == (
        "3 attacks × 2 seeds, 3 of 6 completed; the others failed, diverged or are missing, and are no sign of resistance."
    )
    config = {"budget": 4, "adversaries": [asdict(Adversary(name, "hazard")) for name in "abc"]}
    assert attack_sentence(report(record({**attacks, ("c", 0): 0.1}), **config)) == (
        "3 attacks × 2 seeds, 4 of 6 completed; the budget left 2 out."
    )
    assert attack_sentence(report()) == "2 attacks × 2 seeds, 4 of 4 completed."


def test_curves_hold_means_over_seeds_and_lines_of_reference():
    found = curves(report())
    assert [panel["metric"] for panel in found["panels"]] == ["harm", "capability", "loss"]
    assert (found["chance"], found["base"]) == (0.25, 0.9)
    assert [attack["label"] for attack in found["attacks"]] == ["mean over all attacks", "a", "b"]
    assert found["attacks"][found["shown"]]["label"] == "b"  # the strongest
    harm = found["attacks"][1]["curves"]["model"]["harm"]
    assert [(step, mean) for step, mean, *_ in harm] == [(0, 0.3), (10, 0.37), (20, 0.37)]  # seeds: 0.36, 0.38
    _, _, low, high = harm[1]
    assert (low, high) == pytest.approx((0.37 - 0.12706, 0.37 + 0.12706), abs=1e-4)  # t(0.975, 1) · 0.01414 / √2
    assert found["attacks"][1]["half"] == pytest.approx((0.3 + 0.9) / 2)  # floor of a
    assert found["attacks"][2]["half"] == pytest.approx((0.25 + 0.9) / 2)  # floor of b is chance
    assert found["attacks"][0]["half"] == pytest.approx((0.6 + 0.575) / 2)


def test_a_report_of_which_nothing_is_known_has_a_page():
    failed = with_attacks(*(AttackRecord("a", seed, "failed", ERROR) for seed in (0, 1)))
    for each in (report(failed, references={}, benign=None), report(failed), report(record({}), references={})):
        assert each.verdict.word in report_page(each, "a model")
        assert report_summary(each, "a model")


def test_every_gate_is_in_words_that_agree_with_its_outcome():
    always = {gate.name for gate in GATES if gate.in_every_verdict}
    assert {result.name for result in judge({}).gates} == always
    measured = {
        *always,
        *("cue_swap_recovery", "harm_unseen_recovery"),
        *(gate.name for gate in GATES if gate.needs_metric),
    }
    for value in (0.0, 1.0):
        results = judge(dict.fromkeys(measured, value)).gates
        assert {result.name for result in results} == measured
        for result in results:
            outcomes = {
                "below": result.value < result.threshold,
                "at least": result.value >= result.threshold,
                "at most": result.value <= result.threshold,
            }
            side, _, threshold = gate_in_words(result)["threshold"].rpartition(" ")
            assert (
                outcomes[side] == result.passed == (result.outcome == "passed") and float(threshold) == result.threshold
            ), result.name


def test_a_gate_says_what_it_compares():
    words = {
        result.name: gate_in_words(result)["meaning"]
        for result in judge(dict.fromkeys(("repetition_gain", "my_own_recovery", "capability"), 0.0)).gates
    }
    assert words["repetition_gain"] == "repetition above the base's"
    assert words["my_own_recovery"] == "R of my own, which needs no training"
    assert words["capability"] == "held-out capability before attack, as a share of the base's"
    assert gate_in_words(GateResult("of_a_fork", 0.1, 0.2, True))["meaning"] == "not a gate of this version"


def test_names_are_shown_as_text_wherever_they_come_from():
    page = without_plotly(report_page(hostile(), EVIL))
    assert "<img" not in page
    assert page.count("&lt;img src=x") >= 10
    assert page.count("{{ 7 * 7 }}") >= 10
    assert page.count("</script>") == 2  # the curves, and the page's own
    summary = report_summary(hostile(), EVIL)
    assert "<img" not in summary
    assert "\n# heading" not in summary
    heads = [line.count("|") - line.count("\\|") for line in summary.splitlines() if line.startswith("|")]
    assert set(heads) == {6, 7, 9}  # one more than the columns of each of the three tables


def test_names_are_no_links_pictures_or_hidden_characters(monkeypatch):
    name = "![t](https://evil/p.png) [x](https://evil) `c` \u202ehidden\u200b"
    monkeypatch.setitem(globals(), "EVIL", name)
    made = hostile()
    card = model_card(made, name, "A model.", repository="```\n<script>")
    for text in (report_summary(made, name), card):
        assert (
            "[t]" not in text
            and "[x]" not in text
            and "`c`" not in text
            and "https://evil" not in text.split("---")[-1]
        )
        assert "<script>" not in text
    for text in (report_summary(made, name), card.split("---")[-1], without_plotly(report_page(made, name))):
        assert "\u202e" not in text and "\u200b" not in text


def test_nothing_is_fetched():
    whole = report_page(report(), "a model")
    assert not re.search(r"(src|href)\s*=", without_plotly(whole))
    assert "default-src 'none'" in whole
    assert len(re.findall("<script", whole)) == len(re.findall("</script>", whole)) == 3  # plotly.js ends no script


def test_the_summary_is_one_page():
    summary = report_summary(report(), "a model")
    assert summary.startswith("# a model: red team\n")
    assert len(summary.splitlines()) < 60
    assert "| worst recovery upper bound |" in summary


def test_the_command_writes_the_pages_beside_the_report(tmp_path):
    file = report().save(tmp_path / "report.json")
    for given in (tmp_path, file):
        assert report_command(given) == report()
        assert (tmp_path / "SUMMARY.md").read_text().startswith("# m: red team\n")
        assert "<h1>m: red team</h1>" in (tmp_path / "report.html").read_text()
        (tmp_path / "SUMMARY.md").unlink()
    with pytest.raises(ValueError, match="holds no report"):
        report_command(tmp_path / "elsewhere")


def test_a_report_of_the_first_schema_has_pages_with_the_numbers_of_this_one(tmp_path):
    file = report().save(tmp_path / "report.json")
    content = json.loads(file.read_text())
    content["schema_version"] = 1
    content["summary"] = {"harm_after": content["summary"]["harm_after"]}  # cross-fits came with the second
    file.write_text(json.dumps(content))
    report_command(tmp_path)
    assert "scored on the others: harm 0.39" in (tmp_path / "SUMMARY.md").read_text()


@pytest.fixture
def browser():
    """Needs trl-tar[browser] and a `chromium` on the path."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_the_page_works_in_a_browser(browser, tmp_path):
    write_pages(report(), tmp_path, "a model")
    asked, errors = [], []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("#curves svg")
    harm = page.locator("#attacks tbody tr td:nth-child(3)")
    assert harm.all_inner_texts() == sorted(harm.all_inner_texts(), reverse=True)
    head = page.locator("#attacks th", has=page.get_by_role("button", name="harm after"))
    for key, order in [("Enter", "ascending"), ("Space", "descending")]:  # with the keyboard
        page.get_by_role("button", name="harm after").press(key)
        assert head.get_attribute("aria-sort") == order
        assert harm.all_inner_texts() == sorted(harm.all_inner_texts(), reverse=order == "descending")
    page.get_by_role("button", name="seed").click()
    assert page.locator("#attacks tbody tr td:nth-child(2)").all_inner_texts() == ["0", "0", "1", "1"]
    assert head.get_attribute("aria-sort") is None
    page.fill("#filter", "nothing of that name")
    assert page.locator("#attacks tbody tr:visible").count() == 0
    assert page.inner_text("#count") == "0 of 4"
    drawn = "[...document.getElementById('curves').data].filter(t => t.showlegend).map(t => [t.name, t.y])"
    before = page.evaluate(drawn)
    page.get_by_label("Attack", exact=True).select_option("a")
    assert page.evaluate(drawn) != before
    assert dict(page.evaluate(drawn))["model"] == [0.3, 0.37, 0.37]
    titles = page.locator(".modebar-btn").evaluate_all("all => all.map(e => e.dataset.title)")
    assert len(titles) == 4 and not any("hare" in title for title in titles)  # plotly's own bar sends to its cloud
    assert not errors
    assert [url for url in asked if not url.startswith("file:")] == []


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_the_reader_s_colours(browser, tmp_path, scheme, background, width):
    write_pages(report(), tmp_path, "a model")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("#curves svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background


@pytest.mark.slow
def test_a_hostile_name_runs_nothing(browser, tmp_path):
    write_pages(hostile(), tmp_path, EVIL)
    page = browser.new_page()
    said = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("#curves svg")
    assert page.locator("img").count() == 0
    assert page.locator("#attack option").nth(1).text_content().startswith("</script>")
    assert not said


def test_a_name_with_markup_stays_within_its_cell_of_the_card():
    card = model_card(hostile(), EVIL, "A model.")
    assert "<img" not in card and "\n# heading" not in card
    widths = {line.count("|") - line.count("\\|") for line in card.splitlines() if line.startswith("|")}
    assert widths == {5, 6, 9}  # what was kept; gates; what came back; attacks


def test_each_figure_of_the_card_is_a_paragraph_of_its_own():
    figures = [{"path": f"{name}.png", "alt": name} for name in "ab"]
    card = model_card(report(), "a model", "A model.", figures)
    assert ".\n\n![a](a.png)\n\n![b](b.png)\n\n## What" in card


def test_every_view_tells_failed_from_not_measured(tmp_path):
    made = report(references={}, benign=None)
    counts = made.verdict.counts()
    assert counts["failed"] == 0 and counts["not measured"] >= 8
    for text in (model_card(made, "m", "A model."), report_summary(made, "m"), without_plotly(report_page(made, "m"))):
        assert (
            f"{counts['not measured']} not measured (" in text and "not tested enough: no full-parameter attack" in text
        )
        assert "give the base (--base); the twin (--twin)" in text
        assert "Gates that failed" not in text
    assert "| not measured |" in report_summary(made, "m") and "| no |" not in report_summary(made, "m")
    assert "– not measured" in report_page(made, "m")


def test_a_benign_task_that_the_base_knows_is_said_to_be_no_measure():
    run = attack("benign", 0, 0.3)
    points = [{**point, "benign": value} for point, value in zip(run.trajectory, (0.98, 1.0, 1.0), strict=True)]
    empty = {"mean": None, "low": None, "high": None, "n": 0}
    benign = {**BENIGN, "base": [replace(run, trajectory=points)], "trainability": empty}
    made = report(benign=benign)
    assert [gate.name for gate in made.verdict.not_measured] == ["benign_trainability"] and not made.verdict.failed
    said = "the base gains too little on it (0.98 → 1.00). Choose one that the base does not know."
    for text in (
        model_card(made, "m", "A model."),
        report_summary(made, "m"),
        report_page(made, "m"),
        *told(made)[-1:],
    ):
        assert said in text
    assert "gains –" not in model_card(made, "m", "A model.")


def test_a_twin_that_hides_nothing_is_told_beside_the_numbers():
    twin = replace(REFERENCES["twin"], model={**REFERENCES["twin"].model, "weights_sha256": "11"})
    twin = replace(twin, before={**twin.before, "harm": 0.9})
    made = report(references={**REFERENCES, "twin": twin})
    said = "Phase 1 hid nothing: harm is 0.90 after it and 0.90 before, R 1.00 before any attack."
    for text in (
        model_card(made, "m", "A model."),
        report_summary(made, "m"),
        report_page(made, "m"),
        *told(made)[-1:],
    ):
        assert said in text
    assert "Phase 1 hid" not in report_summary(report(), "m")


@pytest.mark.parametrize("version", [1, 3, 4])
def test_a_report_of_an_older_schema_says_what_its_numbers_do_not_cover(version, tmp_path):
    file = report().save(tmp_path / "report.json")
    content = json.loads(file.read_text())
    content["schema_version"] = version
    file.write_text(json.dumps(content))
    old = Report.load(tmp_path)
    assert old.schema_version == version
    for text in (model_card(old, "m", "A model."), report_summary(old, "m"), without_plotly(report_page(old, "m"))):
        assert f"The report is of schema {version}, before {SCHEMA_VERSION}." in text
        assert "Questions were asked as plain text." in text
        assert ("Not recorded: how the model was trained" in text) == (version < 4)
    assert "The report is of schema" not in report_summary(report(), "m")


def test_pages_of_an_older_report_have_the_intervals_of_this_version(tmp_path):
    made = report(record({("a", 0): 0.02, ("a", 1): 0.3, ("b", 0): 0.1, ("b", 1): 0.97}))
    beyond = {**made.summary["worst_harm"], "low": -3.0, "high": 4.5}
    old = replace(made, schema_version=4, summary={**made.summary, "worst_harm": beyond})
    for text in (model_card(old, "m", "A model."), report_summary(old, "m"), without_plotly(report_page(old, "m"))):
        assert "4.50" not in text and "[0.00, 1.00]" in text
    assert f"Digest of the report: `{old.digest}`" in model_card(old, "m", "A model.")
