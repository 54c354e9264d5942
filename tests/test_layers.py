"""The order of the packages, whose imports go down and in no circle, and the sizes of files and functions."""

import ast
import io
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import trl_tar


ROOT = Path(trl_tar.__file__).parent
FLOORS = [  # lowest first; packages and files of one floor do not import each other
    {"distributed", "files", "fingerprints", "interrupted", "losses", "papers", "validation", "version"},
    {"adversaries", "environment"},
    {"models", "optim"},
    {"data"},
    {"evaluation", "simulation"},
    {"report", "testbed"},
    {"tasks", "views"},
    {"hub", "red_teaming"},
    {"leaderboard", "trainers", "verification"},
    {"costs", "pipeline"},
    {"cli"},
    {"evidence"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
OUTSIDE = {"__init__", "__main__"}  # the package's face and `python -m trl_tar` stand above all floors


def imports_of(module: str) -> set[str]:
    """Modules of the package that this one imports: at the top, inside a function, or for its annotations alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        package = module.split(".")[:-1]
        if node.level:
            start = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        elif (node.module or "").split(".")[0] == "trl_tar":
            start = node.module.split(".")[1:]
        else:
            continue
        stem = [part for part in start if part]
        for name in (alias.name for alias in node.names):
            candidates = (".".join([*stem, name]), ".".join(stem), ".".join([*stem, "__init__"]))
            found.update([candidate for candidate in candidates if candidate in MODULES][:1])
    return found - {module}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - OUTSIDE))
def test_a_module_imports_from_lower_floors_alone(module):
    room = module.split(".")[0]
    rooms = {other.split(".")[0] for other in imports_of(module)} - {room}
    assert {other for other in rooms if FLOOR[other] >= FLOOR[room]} == set()


def test_no_two_files_import_each_other():
    TopologicalSorter(
        {module: imports_of(module) for module in MODULES}
    ).prepare()  # raises CycleError, with the circle


def test_nothing_imports_plainly_past_the_check():
    plain = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "trl_tar" for alias in node.names)
    }
    assert plain == set()


def test_no_optional_package_is_imported_before_it_is_used():
    optional = {"lm_eval", "bitsandbytes", "optuna", "playwright"}  # of the extras in pyproject.toml
    found = set()
    for module, path in MODULES.items():
        for node in ast.parse(
            path.read_text(encoding="utf-8")
        ).body:  # not those in functions, or for annotations alone
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {(module, name) for name in names if name.split(".")[0] in optional}
    assert found == set()


def test_the_root_holds_few_files_and_every_folder_is_on_a_floor():
    assert len(list(ROOT.glob("*.py"))) <= 10
    assert {module.split(".")[0] for module in MODULES} - OUTSIDE == set(FLOOR)


MOST_LINES = 400  # of a file
MOST_CODE_LINES = 60  # of a function
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no blank lines, comments or docstrings."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            lines -= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return lines


def lengths_of_functions(source: str) -> dict[str, int]:
    """The number of code lines of every function, its signature and the functions in it included."""
    lines = code_lines(source)
    return {
        f"{node.name}, line {node.lineno}": len(lines & {*range(node.lineno, node.end_lineno + 1)})
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_a_function_is_as_long_as_its_code():
    source = '"""Of a file."""\n\ndef f(\n    x,\n):\n    """One.\n\n    Two."""\n    # three\n\n    y = """\n\n"""\n    return y\n'
    assert lengths_of_functions(source) == {"f, line 3": 3 + 3 + 1}


def test_no_file_and_no_function_is_long():
    sources = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert {module for module, source in sources.items() if len(source.splitlines()) > MOST_LINES} == set()
    long = {
        (module, function, length)
        for module, source in sources.items()
        for function, length in lengths_of_functions(source).items()
        if length > MOST_CODE_LINES
    }
    assert long == set()
