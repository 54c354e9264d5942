"""The linear probe: reads what is there, and chance where there is nothing."""

import pytest
import torch

from trl_tar.evaluation.linear_probe import LinearProbe
from trl_tar.testbed import KnowledgeWorld, knowledge_model, knowledge_zero_step_attacks


WORLD = KnowledgeWorld(0)
PROBE = knowledge_zero_step_attacks(0)["linear_probe"]


def test_reads_the_base_and_not_a_model_that_never_knew():
    tokenizer = WORLD.tokenizer()
    base, floor = (PROBE(knowledge_model(WORLD, kind), tokenizer) for kind in ("base", "floor"))
    assert base.mean() > 0.9
    assert 0.2 < floor.mean() < 0.32
    assert set(base.groups) == {fact.entity for fact in WORLD.select("hazard", "questions")}


def test_questions_are_of_other_entities_than_the_fit():
    probe = PROBE._probe
    entities = [{q["group"] for q in part} for part in (probe.train, probe.validation, probe.questions)]
    assert not entities[0] & entities[1]
    assert not entities[0] & entities[2]
    assert not entities[1] & entities[2]


def test_a_broken_model_has_no_score():
    model = knowledge_model(WORLD)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    scores = PROBE(model, WORLD.tokenizer())
    assert torch.tensor(scores.values).isnan().all()


def test_the_representation_tells_question_sets_apart():
    question = {"prompt": "a", "choices": [" b", " c"], "answer": 0}
    assert repr(LinearProbe([question], [question], [question])) != repr(
        LinearProbe([question] * 2, [question], [question])
    )
    with pytest.raises(ValueError, match="answer=7"):
        LinearProbe([question], [question], [{**question, "answer": 7}])
