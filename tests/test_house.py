"""What holds the files together: tests lean on `support` alone, and every name that a docstring refers to is there."""

import ast
import importlib
import re
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.repository import ROOT

import trl_tar


TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = sorted((ROOT / "trl_tar").rglob("*.py"))
REFERENCE = re.compile(r"\[`~?(trl_tar[\w.]*)`\]")


def imported(source: str) -> set[str]:
    """Modules and names that a file imports, also inside a function and in the programs that it holds as strings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            found |= {".".join(names) for names in re.findall(r"(?:from ([\w.]+) )?import (\w+)", node.value)}
    return found


def test_imports_in_programs_are_found():
    assert imported('SCRIPT = """\\nimport os\\nfrom a.b import c\\n"""') == {".os", "a.b.c"}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_of_tests_imports_from_a_test_file(path: Path):
    names = imported(path.read_text(encoding="utf-8"))
    assert {name for name in names if re.search(r"(^|\.)(test_\w+|conftest)\b", name)} == set()


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of the package, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            reduce(getattr, parts[length:], module)
        except AttributeError:
            return False
        return True
    return False


def test_no_module_has_the_name_of_a_public_function():
    """Importing such a module would put it in the function's place."""
    assert [name for name in trl_tar.__all__ if find_spec(f"trl_tar.{name}") is not None] == []
    assert all(callable(getattr(trl_tar, name)) for name in trl_tar.__all__)
    assert trl_tar.__all__ == sorted(trl_tar.__all__)


def test_every_reference_of_a_docstring_is_to_something_that_is_there():
    found = {(path.name, name) for path in SOURCES for name in REFERENCE.findall(path.read_text(encoding="utf-8"))}
    assert found and {(file, name) for file, name in found if not resolves(name)} == set()
