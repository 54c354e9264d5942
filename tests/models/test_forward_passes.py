"""Modes of modules are put back one by one."""

from support.simulated import plain

from trl_tar.models.forward_passes import in_eval_mode


def test_eval_mode_gives_each_module_its_own_mode_back():
    model = plain().train()
    model.transformer.h[0].eval()
    before = {m: m.training for m in model.modules()}
    with in_eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert before == {m: m.training for m in model.modules()}
