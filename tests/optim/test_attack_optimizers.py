"""The optimizer of an attack."""

import pytest
import torch
from support import tiny

from trl_tar import Adversary
from trl_tar.adversaries.choices import OPTIMIZERS
from trl_tar.optim.attack_optimizers import optimizer_class_and_arguments
from trl_tar.optim.muon import MuonWithAdamW


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_the_optimizers_has_its_case(name):
    if OPTIMIZERS[name].package is not None:
        pytest.importorskip(OPTIMIZERS[name].package.name)
    kind, arguments = optimizer_class_and_arguments(Adversary("a", "forget", optimizer=name, learning_rate=1e-3))
    optimizer = kind([torch.nn.Parameter(torch.zeros(2))], **arguments)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_muon_orthogonalises_matrices_and_steps_embeddings_and_vectors_as_adamw_does():
    torch.manual_seed(0)
    matrix, embedding, vector = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((16, 8), (16, 8), (8,)))
    before, adamw = matrix.detach().clone(), [p.detach().clone() for p in (embedding, vector)]
    by_adamw = torch.optim.AdamW([torch.nn.Parameter(p) for p in adamw], lr=0.1, weight_decay=0.0)
    optimizer = MuonWithAdamW([matrix, embedding, vector], lr=0.1, embeddings=[embedding])
    for _ in range(3):
        for p in (matrix, embedding, vector):
            p.grad = torch.randn_like(p)
        for p, original in zip(by_adamw.param_groups[0]["params"], (embedding, vector), strict=True):
            p.grad = original.grad.clone()
        last = matrix.detach().clone()
        optimizer.step()
        by_adamw.step()
    # 0.2 √max(rows, columns): the root mean square of AdamW's step; torch's five iterations leave singular values near 1
    singular = torch.linalg.svdvals(last - matrix.detach()) / (0.1 * 0.2 * 16**0.5)
    assert singular.min() > 0.5 and singular.max() < 1.3 and not torch.equal(before, matrix)
    for p, expected in zip((embedding, vector), by_adamw.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, expected)


def test_an_attack_by_muon_learns_and_keeps_embeddings_to_adamw():
    adversary = Adversary("m", "forget", optimizer="muon", learning_rate=1e-3)
    model = tiny.llama()
    _, arguments = optimizer_class_and_arguments(adversary, model)
    assert [id(p) for p in arguments["embeddings"]] == [id(model.model.embed_tokens.weight), id(model.lm_head.weight)]
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[5, 6, 7, 8]])}
    optimizer, losses = MuonWithAdamW(model.parameters(), **{**arguments, "lr": 0.05}), []
    for _ in range(8):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
