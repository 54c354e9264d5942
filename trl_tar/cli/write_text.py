"""`trl-tar write-text`: text of a model's own, to be kept next to D_retain."""

from pathlib import Path

from ..data.self_written import BEGINNINGS, self_written
from ..models.loading import load
from ..models.tokenizers import own_tokenizer


def write_text(
    model: str,
    output: Path,
    num_rows: int = 320,
    max_new_tokens: int = 60,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 0,
    beginnings: Path | None = None,
    excluded: Path | None = None,
) -> None:
    """Writes what [`~trl_tar.data.self_written.self_written`] samples to a file of JSON lines.

    Args:
        model (`str`):
            Folder or Hub id of the writer.
        output (`Path`):
            File to write, with a `prompt`, a `completion` and an `entity` in each line.
        num_rows, max_new_tokens, temperature, top_p, seed:
            As in that function.
        beginnings, excluded (`Path`, *optional*):
            Files with one beginning, and one excluded word, in each line.

    Raises:
        `ValueError`: if a file cannot be read, or the filter lets too little through.
    """
    rows = self_written(
        load(model),
        own_tokenizer(model),
        BEGINNINGS if beginnings is None else _lines(beginnings),
        num_rows,
        max_new_tokens,
        temperature,
        top_p,
        seed,
        () if excluded is None else _lines(excluded),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    rows.to_json(output, lines=True, force_ascii=False)
    print(f"Wrote {len(rows)} rows to {output}.")


def _lines(file: Path) -> list[str]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{str(file)!r} has no line with text. Give one in each line.")
    return lines
