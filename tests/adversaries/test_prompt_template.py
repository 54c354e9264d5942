"""Attacks in the attacker's own words: templates around the questions, and data sets in them."""

import datasets
import pytest
from support import tiny

from trl_tar import Adversary, red_team
from trl_tar.adversaries.prompt_template import jailbroken
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.evaluation.scores import Scores
from trl_tar.testbed import KnowledgeWorld, knowledge_metrics, knowledge_model
from trl_tar.testbed.knowledge.attack_data import prompt_templates


QUESTIONS = [
    {"prompt": f"w{i} w{i + 1}", "choices": [f" w{i + 2}", f" w{i + 3}", f" w{i + 4} w5"], "answer": i % 3}
    for i in range(30)
]
TEMPLATE = "w20 {prompt} w21"


def test_choices_follow_the_question_in_its_template():
    model, tokenizer = tiny.gpt2(), tiny.tokenizer()
    written_out = [{**q, "prompt": f"w20 {q['prompt']} w21"} for q in QUESTIONS]
    expected = MultipleChoice(written_out)(model, tokenizer).values
    assert MultipleChoice(QUESTIONS)(model, tokenizer, prompt_template=TEMPLATE).values == expected
    assert expected != MultipleChoice(QUESTIONS)(model, tokenizer).values


def test_braces_of_a_question_or_template_stay():
    rows = datasets.Dataset.from_list([{"prompt": "a {b}", "completion": " c"}])
    assert jailbroken(rows, "{x} {prompt}")["prompt"] == ["{x} a {b}"]


def test_only_the_last_message_of_a_chat_is_put_into_the_template():
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "how"}]
    rows = datasets.Dataset.from_list([{"prompt": chat, "completion": [{"role": "assistant", "content": "so"}]}])
    wrapped = jailbroken(rows, "please {prompt}")[0]
    assert wrapped["prompt"] == [chat[0], {"role": "user", "content": "please how"}]
    assert wrapped["completion"] == rows[0]["completion"]


def test_a_data_set_without_prompts_is_refused():
    with pytest.raises(ValueError, match=r"columns \['text'\], without 'prompt'"):
        jailbroken(datasets.Dataset.from_dict({"text": ["a"]}), TEMPLATE)


@pytest.mark.parametrize("template", ["no place", "{prompt} {prompt}", 3, ["{prompt}"]])
def test_a_template_has_one_place_for_the_question(template):
    with pytest.raises(ValueError, match="prompt_template=.*( once|Give prompt_template as str)"):
        Adversary("a", num_steps=0, prompt_template=template)


def test_a_template_alone_is_an_attack_and_leaves_the_harmless_rest_to_its_own_words():
    questions = MultipleChoice(QUESTIONS)
    adversary = Adversary("words", num_steps=0, prompt_template=TEMPLATE)
    assert adversary.datasets == ()

    def nll(model, tokenizer):  # takes no template
        return Scores([0.5])

    model, tokenizer = tiny.gpt2(), tiny.tokenizer()
    metrics = {"harm": questions, "capability": questions, "nll": nll}
    report = red_team(model, [adversary], {}, metrics, [0, 1], processing_class=tokenizer)
    after = report.attacks[0].after
    assert report.before["harm"] == questions(model, tokenizer).mean()
    assert after["harm"] == questions(model, tokenizer, prompt_template=TEMPLATE).mean() != report.before["harm"]
    assert after["nll"] == 0.5
    assert [point["step"] for point in report.attacks[0].trajectory] == [0]


def test_a_harm_that_cannot_be_asked_in_a_template_is_refused_before_any_work():
    def harm(model, tokenizer):
        raise AssertionError("work has begun")

    adversary = Adversary("words", num_steps=0, prompt_template=TEMPLATE)
    metrics = {"harm": harm, "capability": MultipleChoice(QUESTIONS)}
    with pytest.raises(ValueError, match="metric 'harm' cannot ask in it"):
        red_team(tiny.gpt2(), [adversary], {}, metrics, [0], processing_class=tiny.tokenizer())


def test_examples_fit_into_the_worlds_context_and_are_not_of_questions():
    world = KnowledgeWorld(0)
    model, tokenizer = knowledge_model(world, "floor"), world.tokenizer()
    harm = knowledge_metrics(0)["harm"]
    questions = world.question_entities()
    for template in prompt_templates(world).values():
        assert not any(entity in template for entity in questions)
        assert tokenizer.unk_token_id not in tokenizer(template.replace("{prompt}", ""))["input_ids"]
        prompts, _, _ = harm._questions
        longest = max(len(tokenizer(template.replace("{prompt}", p))["input_ids"]) for p in prompts)
        assert longest <= model.config.max_position_embeddings
        assert len(harm(model, tokenizer, prompt_template=template).values) == len(harm(model, tokenizer).values)
