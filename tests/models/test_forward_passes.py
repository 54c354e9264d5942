"""Modes of modules are put back one by one; logits at labels are those of the whole pass."""

import pytest
import torch
from support import tiny
from support.simulated import plain
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from trl_tar.losses import IGNORED, language_modeling_loss, sequence_log_probs
from trl_tar.models.forward_passes import (
    POSITIONS,
    add_positions,
    at_labels,
    head_at_labels,
    in_eval_mode,
    labelled_logits,
    next_token_logits,
)


def test_eval_mode_gives_each_module_its_own_mode_back():
    model = plain().train()
    model.transformer.h[0].eval()
    before = {m: m.training for m in model.modules()}
    with in_eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert before == {m: m.training for m in model.modules()}


def gemma2() -> Gemma2ForCausalLM:
    """A model that caps its logits after the head, which is tied."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=29, final_logit_softcapping=0.1, pad_token_id=0, **sizes, **heads))


def a_batch() -> dict[str, torch.Tensor]:
    """Rows of 9, 7 and 4 tokens: with labels at the end, in two places and at one token."""
    mask = (torch.arange(9) < torch.tensor([9, 7, 4])[:, None]).long()
    ids = mask * torch.randint(5, 29, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, IGNORED)
    for row, positions in enumerate([[6, 7, 8], [1, 5], [3]]):
        labels[row, positions] = ids[row, positions]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("build", [tiny.llama, plain, gemma2])
@pytest.mark.parametrize("row_wise", [False, True])
def test_logits_at_labels_have_the_loss_and_gradient_of_the_whole_pass(build, row_wise):
    model, batch = build().double(), a_batch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, arguments, logits: seen.append(logits.shape[1]))

    def values() -> list[torch.Tensor]:
        logits, labels = labelled_logits(model, batch)
        if row_wise:
            loss = (sequence_log_probs(logits, labels) * torch.tensor([1.0, 2.0, -1.0]).double()).sum()
        else:
            loss, count = language_modeling_loss(logits, labels)
            assert count == 6
        return [loss, *torch.autograd.grad(loss, parameters)]

    whole = values()
    add_positions(batch)
    assert batch[POSITIONS].tolist() == [[5, 6, 7, 0], [0, 4, 1, 0], [2, 0, 1, 0]]
    for found, expected in zip(values(), whole, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-13)
    with head_at_labels(model, a_batch()):
        next_token_logits(model, batch)
    assert seen == [9, 4, 9]  # positions that the head saw


def test_head_that_is_no_module_gives_the_same_logits():
    class Headless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain().double()

        def get_output_embeddings(self):
            return None

        def forward(self, **arguments):
            return self.inner(**arguments)

    model, batch = Headless(), a_batch()
    with torch.no_grad():
        whole = next_token_logits(model, batch)
        add_positions(batch)
        logits, labels = labelled_logits(model, batch)
    for row in range(3):
        for place, position in enumerate(batch[POSITIONS][row, :-1].tolist()):
            assert torch.equal(logits[row, place], whole[row, position])
            assert labels[row, place + 1] == batch["labels"][row, position + 1]


def test_batch_whose_every_token_has_a_label_is_read_whole():
    batch = a_batch()
    batch["labels"] = batch["input_ids"].clone()
    add_positions(batch)
    assert POSITIONS not in batch
    model = tiny.llama().double()
    with head_at_labels(model, batch):
        logits = next_token_logits(model, batch)
    assert at_labels(logits, batch) == (logits, batch["labels"])
