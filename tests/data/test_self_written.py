"""Text that a model writes itself: the same by seed, without the hazard's words, in whole sentences."""

import json

import pytest
import torch
from support import tiny
from support.attacks import TOKENIZER, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trl_tar.cli.write_text import write_text
from trl_tar.data import self_written as module
from trl_tar.data.self_written import SELF_WRITTEN, self_written


BEGINNINGS = ("the", "they say", "as we")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights, which writes words of the world in any order."""
    path = tmp_path_factory.mktemp("writer")
    tiny_model().save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def writer(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def written(writer, **changes):
    settings = {"beginnings": BEGINNINGS, "num_rows": 12, "max_new_tokens": 6, "batch_size": 6, **changes}
    return self_written(*writer, **settings)


def test_the_seed_alone_decides_the_rows(writer):
    torch.manual_seed(1)
    first = written(writer)
    state = torch.get_rng_state()
    again, other = written(writer), written(writer, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.to_list() == again.to_list() != other.to_list()


def test_rows_are_prompts_in_turn_with_completions(writer):
    rows = written(writer)
    assert len(rows) == 12 and rows.column_names == ["prompt", "completion", "entity"]
    assert set(rows["prompt"]) == set(BEGINNINGS) and set(rows["entity"]) == {SELF_WRITTEN}
    assert all(text.strip() for text in rows["completion"])


def test_a_text_with_an_excluded_word_is_drawn_again(writer):
    free = written(writer, num_rows=48)
    words = {text.split()[0] for text in free["completion"][:24]} - set(" ".join(BEGINNINGS).split())
    rows = written(writer, num_rows=48, excluded=[word.upper() for word in words])
    assert len(words) > 10 and len(rows) == 48
    assert not any(words & set(text.split()) for text in rows["completion"])


def test_a_filter_that_lets_nothing_through_is_an_error(writer):
    with pytest.raises(ValueError, match=r"Of 60 texts that the model wrote, 0 are neither empty nor hold"):
        written(writer, num_rows=3, excluded=BEGINNINGS)


@pytest.mark.parametrize(
    ("text", "found"),
    [("of France, too", True), ("the FRENCH", True), ("Frenchs", True), ("Frenchman", False), ("a new york", True)],
)
def test_excluded_words_are_whole_words_in_any_case(text, found):
    assert bool(module._any_of(["France", "French", "New York"]).search(text)) == found


def test_a_text_that_is_cut_ends_with_a_whole_sentence():
    words = ["a", "One.", "Two.", "Thr", "b", "no", "end", "here", "c", "Whole.", "And"]
    names = ["<pad>", "<eos>", "<unk>", *words]  # in the places that the tiny model's words have
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    model = tiny.saying(" ".join(tiny.VOCABULARY[3 : len(names)]))
    texts = module._sampled(model, tokenizer, ["a", "b", "c"], 3, 1e-3, 0.95)
    assert texts == ["One. Two.", "no end here", "Whole. And"]


def test_the_command_writes_the_function_s_rows(writer, folder, tmp_path):
    (tmp_path / "beginnings.txt").write_text("\n".join(BEGINNINGS))
    write_text(
        str(folder),
        tmp_path / "new" / "own.jsonl",
        num_rows=4,
        max_new_tokens=6,
        beginnings=tmp_path / "beginnings.txt",
    )
    lines = [json.loads(line) for line in (tmp_path / "new" / "own.jsonl").read_text().splitlines()]
    assert lines == self_written(*writer, BEGINNINGS, 4, 6).to_list()


def test_a_file_of_beginnings_without_a_line_is_an_error(folder, tmp_path):
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="has no line with text"):
        write_text(str(folder), tmp_path / "x.jsonl", beginnings=tmp_path / "none.txt")
