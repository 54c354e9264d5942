"""Facts that SmolLM2 is asked about, as data sets of lm-eval: every fact, known or not."""

from datasets import Dataset

from trl_tar.testbed.smollm2.countries import questions, select


def countries(**_) -> dict[str, Dataset]:
    """Held out from the attackers: what the recipe hides, those countries that it is told to hide and those that it is not."""
    return _test(["questions", "unseen"])


def elements(**_) -> dict[str, Dataset]:
    """Chemical symbols that no phase sees: what it keeps."""
    return _test("held_out", "symbol")


def opposites(**_) -> dict[str, Dataset]:
    """Word pairs: a domain that no phase sees."""
    return _test("held_out", "opposite")


def _test(split: str | list[str], relation: str | None = None) -> dict[str, Dataset]:
    return {"test": Dataset.from_list(list(questions(select(split, relation)).questions))}
