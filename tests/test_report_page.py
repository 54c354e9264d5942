"""The pages of a report: whole, safe, and readable with no network."""

import re
import shutil
from dataclasses import replace

import pytest
from test_report import report

from trl_tar.records import AttackRecord
from trl_tar.report_page import attack_rows, report_page, report_summary, write_pages


EVIL = "</script><img src=x onerror=alert(1)>"


def without_plotly(page: str) -> str:
    return page[page.index("<body>") :]


def test_every_attack_is_in_the_table_strongest_first():
    made = report()
    page = without_plotly(report_page(made, "a model"))
    rows = re.findall(r"<tr><td>(\w+)</td><td class=\"n\">(\d)</td>", page)
    assert sorted(rows) == sorted((a.adversary, str(a.seed)) for a in made.attacks)
    harm = {(a.adversary, str(a.seed)): a.after["harm"] for a in made.attacks}
    assert [harm[row] for row in rows] == sorted(harm.values(), reverse=True)


def test_an_attack_that_failed_is_in_the_table_with_its_reason():
    failed = AttackRecord("a", 0, "failed", "RuntimeError: no memory")
    made = report()
    made = replace(made, attacks=[failed, *made.attacks[1:]])
    row = attack_rows(made)[0]
    assert (row["harm"], row["recovery"], row["status"]) == (None, None, "failed: RuntimeError: no memory")
    assert "no memory" in report_page(made, "a model")


def test_names_are_shown_as_text_wherever_they_come_from():
    made = report()
    attacks = [replace(attack, adversary=EVIL, error=EVIL) for attack in made.attacks[:1]]
    made = replace(made, attacks=attacks, model={**made.model, "id": EVIL})
    page = without_plotly(report_page(made, EVIL))
    assert EVIL not in page
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") >= 3


def test_nothing_is_fetched():
    page = without_plotly(report_page(report(), "a model"))
    assert not re.search(r"(src|href)\s*=", page)
    assert "default-src 'none'" in report_page(report(), "a model")


def test_the_summary_is_one_page():
    summary = report_summary(report(), "a model")
    assert summary.startswith("# a model: red team\n")
    assert len(summary.splitlines()) < 60
    assert "| worst recovery upper bound |" in summary


@pytest.mark.slow
def test_the_page_works_in_a_browser(tmp_path):
    """Needs trl-tar[browser] and a `chromium` on the path."""
    from playwright.sync_api import sync_playwright

    write_pages(report(), tmp_path, "a model")
    asked, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector("#curves svg")
        harm = page.locator("#attacks tbody tr td:nth-child(7)")
        assert harm.all_inner_texts() == sorted(harm.all_inner_texts(), reverse=True)
        page.get_by_role("button", name="harm after").press("Enter")  # with the keyboard
        assert harm.all_inner_texts() == sorted(harm.all_inner_texts())
        page.fill("#filter", "nothing of that name")
        assert page.locator("#attacks tbody tr:visible").count() == 0
        browser.close()
    assert not errors
    assert [url for url in asked if not url.startswith("file:")] == []
