"""The bridge to lm-eval: the same answers as our own multiple choice, on a task of one's own and no network."""

import json

import pytest
import yaml

from trl_tar.evaluation.lm_eval import LMEvalTask
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.testbed import KnowledgeWorld, knowledge_model, knowledge_questions


pytest.importorskip("lm_eval")
WORLD = KnowledgeWorld(0)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Folder of a task, and its questions."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = knowledge_questions(WORLD)["harm"][:24]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    described = {
        "task": "invented_facts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(folder / "questions.jsonl")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "invented_facts.yaml").write_text(yaml.safe_dump(described))
    return str(folder), questions


@pytest.mark.parametrize("kind", ["base", "floor"])
def test_answers_are_those_of_our_own_multiple_choice(task, kind, capfd):
    folder, questions = task
    model = knowledge_model(WORLD, kind).eval()
    scores = LMEvalTask("invented_facts", include_path=folder)(model, WORLD.tokenizer())
    assert scores.values == MultipleChoice(questions)(model, WORLD.tokenizer()).values
    assert scores.groups[:2] == ["invented_facts/0", "invented_facts/1"]
    assert "Running" not in capfd.readouterr().err


def test_a_limit_is_kept(task):
    scores = LMEvalTask("invented_facts", limit=5, include_path=task[0])(knowledge_model(WORLD), WORLD.tokenizer())
    assert len(scores.values) == 5


def test_what_lm_eval_does_not_have_is_one_sentence(task):
    model, tokenizer = knowledge_model(WORLD), WORLD.tokenizer()
    with pytest.raises(ValueError, match="lm-eval has no task 'no_such_task'. List those"):
        LMEvalTask("no_such_task").check(tokenizer)
    with pytest.raises(ValueError, match="lm-eval has no task 'no_such_task'. List those"):
        LMEvalTask("no_such_task")(model, tokenizer)
    LMEvalTask("invented_facts", include_path=task[0]).check(tokenizer)
    with pytest.raises(ValueError, match=r"has \['acc'\], without 'f1'. Name one"):
        LMEvalTask("invented_facts", "f1", include_path=task[0])(model, tokenizer)
    with pytest.raises(ValueError, match="'wmdp_bio' of lm-eval cannot be loaded .*in the cache, or within reach"):
        LMEvalTask("wmdp_bio").check(tokenizer)
    with pytest.raises(ValueError, match="'wmdp_bio' of lm-eval cannot be loaded .*in the cache, or within reach"):
        LMEvalTask("wmdp_bio")(model, tokenizer)
