"""Renders the templates, and makes text from elsewhere safe in them."""

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, *, escape: bool = False, **values: Any) -> str:
    """Renders a file of `templates/`. `escape` is for HTML; in Markdown the filter `cell` does it where it is needed."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=escape,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    return environment.get_template(template).render(**values)


def plain(text: object) -> str:
    """Text on one line, with a space for each control or invisible character: terminals obey those, and readers miss them."""
    visible = (" " if unicodedata.category(character).startswith("C") else character for character in str(text))
    return " ".join("".join(visible).split())


def cell(text: object) -> str:
    """Text on one line that stays within its cell of a Markdown table, and is no HTML."""
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "&#92;")
    return escaped.replace("|", "\\|")
