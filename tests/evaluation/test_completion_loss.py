"""Nats a token are over the tokens that are scored, wherever prompt and completion meet."""

import pytest
import torch
from support import tiny
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trl_tar.evaluation.coherence import AnswerEntropy
from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.multiple_choice import MultipleChoice, rows_of
from trl_tar.evaluation.prompts import prompt_ids, tokens_of


def merging(prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """BPE whose tokens merge over a border at a space, or that writes a space in front as SentencePiece does."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    raw.decoder = decoders.ByteLevel()
    texts = ["the lamp is deep red", "the lamp is pale blue", "a deep red lamp", "a pale blue lamp"] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")


def ending() -> PreTrainedTokenizerFast:
    """A tokenizer that ends every text with its end of text."""
    made = tiny.tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return made


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "completion", "scored"),
    [
        (merging(), "the lamp is ", "deep red", 2),  # " deep" begins inside the prompt
        (merging(), "the lamp is", " deep red", 2),
        (merging(prefix_space=True), "the lamp is", " deep red", 2),
        (merging(prefix_space=True), "", "deep red", 1),  # the first token of all is predicted from nothing
        (ending(), "w1 w2", " w3 w4", 3),  # with the end of text
        (tiny.tokenizer(), "", "w3 w4 w5", 2),
        (tiny.tokenizer(), "w1 w2", " w3 w4", 2),
    ],
)
def test_the_loss_is_the_mean_over_the_tokens_that_are_scored(tokenizer, prompt, completion, scored):
    model = tiny.llama(2, vocab_size=len(tokenizer))
    ids = tokenizer(prompt + completion)["input_ids"]
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    by_hand = [-log_probs[i - 1, ids[i]].item() for i in range(len(ids) - scored, len(ids))]
    metric = CompletionLoss([{"prompt": prompt, "completion": completion}])
    metric.check(tokenizer, 64)
    assert metric(model, tokenizer).values == pytest.approx([sum(by_hand) / scored], rel=1e-5)


def test_what_has_no_token_to_score_is_refused_before_any_work():
    with pytest.raises(ValueError, match="Row 0, '', has the answer 'w3', no token of which is predicted from others"):
        CompletionLoss([{"prompt": "", "completion": "w3"}]).check(tiny.tokenizer())
    silent = tiny.tokenizer()
    silent.backend_tokenizer.normalizer = normalizers.Strip()
    question = {"prompt": "w1", "choices": [" w2", "  "], "answer": 0}
    with pytest.raises(ValueError, match="Question 0, 'w1', has the answer '  ', no token"):
        MultipleChoice([question]).check(silent)


def test_choices_are_scored_from_one_place():
    """Where one choice merges with the space before it, the space counts for the other too."""
    tokenizer = merging()
    question = {"prompt": "the lamp is ", "choices": ["deep red", "+ red"], "answer": 0}
    rows = rows_of(tokenizer, question, None)
    assert len({before for before, _ in rows}) == 1
    assert [tokenizer.decode(scored) for _, scored in rows] == [" deep red", " + red"]
    apart = [tokens_of(tokenizer, question["prompt"], choice) for choice in question["choices"]]
    assert [len(before) for before, _ in apart] == [3, 4]  # as they would be alone


def test_nothing_is_asked_after_an_end_of_text_that_the_tokenizer_adds():
    model, plain = tiny.llama(2), tiny.tokenizer()
    assert AnswerEntropy(["w1 w2"])(model, ending()).values == AnswerEntropy(["w1 w2"])(model, plain).values
    assert prompt_ids(ending(), "w1 <eos>") == prompt_ids(plain, "w1 <eos>") == plain("w1 <eos>")["input_ids"]
