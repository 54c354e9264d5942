"""Who may be taught what the questions ask about: no attacker, and the defender only what `harm` covers."""

import pytest
from datasets import Dataset

from trl_tar import Adversary
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.pipeline.checks import _check_questions
from trl_tar.tasks.from_yaml import covered_entities_of, question_entities_of
from trl_tar.tasks.task import Task


def questions(*entities: str) -> MultipleChoice:
    return MultipleChoice([{"prompt": "a", "choices": [" b", " c"], "answer": 0, "group": e} for e in entities])


METRICS = {
    "harm": questions("covered", "both"),
    "harm_unseen": questions("new", "both"),
    "capability": questions("kept"),
}


def checked(**entities: str) -> None:
    rows = {"forget": "f", "tamper_resistance": "covered", "retain": "r"} | entities
    task = Task(
        "m",
        None,
        {name: Dataset.from_dict({"text": ["t"], "entity": [entity]}) for name, entity in rows.items()},
        METRICS,
        question_entities=question_entities_of(METRICS),
        covered_entities=covered_entities_of(METRICS),
    )
    _check_questions(task, [Adversary("a", "forget")])


def test_the_defender_may_hold_what_harm_alone_asks_about():
    assert covered_entities_of(METRICS) == {"covered"}
    checked()


@pytest.mark.parametrize(
    ("name", "entity"),
    [("forget", "covered"), ("forget", "new"), ("tamper_resistance", "new"), ("retain", "kept"), ("safeguard", "both")],
)
def test_every_other_answer_is_refused(name, entity):
    with pytest.raises(ValueError, match=rf"`data\.{name}` and the questions share 1 entities, for example '{entity}'"):
        checked(**{name: entity})
