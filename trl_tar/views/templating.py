"""Values into templates."""

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, *, escape: bool = False, **values: Any) -> str:
    """A template of `templates/` with its values; `escape` for HTML, the filter `cell` for Markdown."""
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
    """Text on one line: of control and invisible characters, which terminals obey and readers miss, a space is left."""
    visible = (" " if unicodedata.category(each).startswith("C") else each for each in str(text))
    return " ".join("".join(visible).split())


def cell(text: object) -> str:
    """Text that stays within its cell of a Markdown table, and is no HTML."""
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "&#92;")
    return escaped.replace("|", "\\|")
