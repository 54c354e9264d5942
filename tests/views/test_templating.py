"""Text from elsewhere is text in a table, on a page and in a terminal: no link, picture, code or hidden character."""

from types import SimpleNamespace

import pytest

from trl_tar.views.templating import cell, plain, render


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![t](x) [y](z)", "!&#91;t](x) &#91;y](z)"),
        ("[0.10, 0.20](x)", "&#91;0.10, 0.20](x)"),
        ("[0.10, 0.20][x]", "&#91;0.10, 0.20]&#91;x]"),
        ("harm 0.15 [0.10, 0.20], mostly by a", "harm 0.15 [0.10, 0.20], mostly by a"),
        ("`code`", "&#96;code&#96;"),
        ("https://a.b www.a.b", "https&#58;//a.b www&#46;a.b"),
        ("<img>|&\\", "&lt;img>\\|&amp;&#92;"),
        ("a\u202eb\u200bc\nd\x1b[0m", "a b c d &#91;0m"),
    ],
)
def test_a_cell_holds_text_alone(text, shown):
    assert cell(text) == shown


def test_a_line_has_no_invisible_characters():
    assert plain("a\u202eb\u2066\ufeffc\x07") == "a b c"


def test_a_page_has_no_invisible_characters():
    nothing = {"differences": [], "notes": [], "unreadable": {}, "common": 0, "only_some_in_common": False}
    comparison = SimpleNamespace(order="a\u202eb", **nothing)
    page = render(
        "leaderboard.html.jinja",
        escape=True,
        title="a\u202e\u200bb",
        comparison=comparison,
        rows=[],
        labels=[],
        has_unseen=False,
    )
    assert "\u202e" not in page and "\u200b" not in page and "<h1>a  b</h1>" in page
