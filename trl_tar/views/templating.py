"""Renders the templates, and makes text from elsewhere safe in them."""

import re
import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


TEMPLATES = Path(__file__).parent / "templates"
BRACKET = re.compile(r"\[(?!-?\d+\.\d\d, -?\d+\.\d\d\](?![(\[:]))")  # every one but that of an interval


def render(template: str, *, escape: bool = False, **values: Any) -> str:
    """Renders a file of `templates/`. `escape` is for HTML; in Markdown the filter `cell` does it where it is needed."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=escape,
        finalize=_shown if escape else None,  # a card's description may be in a script that joins with such characters
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    return environment.get_template(template).render(**values)


def visible(text: str) -> str:
    """Text with a space for each control or invisible character but the end of a line: terminals obey those, and readers miss
    them."""
    return "".join(" " if c != "\n" and unicodedata.category(c).startswith("C") else c for c in text)


def plain(text: object) -> str:
    """Text on one line, without control and invisible characters."""
    return " ".join(visible(str(text)).split())


def cell(text: object) -> str:
    """Text on one line that stays within its cell of a Markdown table, and is no HTML, code, link or picture."""
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "&#92;").replace("`", "&#96;")
    escaped = BRACKET.sub("&#91;", escaped).replace("://", "&#58;//").replace("www.", "www&#46;")
    return escaped.replace("|", "\\|")


def _shown(value: Any) -> Any:
    """What a template shows of a value: text without invisible characters. Markup is of the templates themselves."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
