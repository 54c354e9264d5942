"""The files of the repository that tests look at, and the numbers that its READMEs say."""

import re
from pathlib import Path


ROOT = Path(__file__).parents[2]
READMES = [ROOT / folder / "README.md" for folder in (".", "examples", "model_cards", "recipes", "tests/benchmarks")]
README, *OTHERS = (file.read_text(encoding="utf-8").replace("−", "-") for file in READMES)
TEXT = "\n".join([README, *OTHERS])
PROSE = " ".join(TEXT.split())  # however its lines are wrapped


def part(start: str, end: str) -> str:
    """The READMEs between two phrases, the first included, with its lines as they are."""
    patterns = [r"\s+".join(map(re.escape, phrase.split())) for phrase in (start, end)]
    return re.search(f"({patterns[0]}.*?){patterns[1]}", TEXT, re.DOTALL)[1]


def says(text: str, *values: float) -> bool:
    """Whether the values, with two decimals each, follow one another among the numbers of the text."""
    numbers = " ".join(re.findall(r"-?\d+\.\d+", text))
    return f" {' '.join(f'{value:.2f}' for value in values)} " in f" {numbers} "


def rows(text: str, *names: str) -> list[list[str]]:
    """Cells after the first of the table rows that begin with these names, in their order in the text."""
    lines = [line for line in text.splitlines() if line.startswith(tuple(f"| {name}" for name in names))]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
