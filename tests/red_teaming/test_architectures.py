"""The red team on architectures that differ from Llama: attacked, or refused in a sentence."""

import pytest
from datasets import Dataset
from support import tiny
from support.architectures import tiny_model
from support.sentences import one_sentence

from trl_tar import Adversary, red_team
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.report.report import Report


QUESTIONS = MultipleChoice(
    [{"prompt": f"w{i} w{i + 1}", "choices": [" w3", " w4 w5"], "answer": i % 2, "group": str(i)} for i in range(4)],
    chat=False,
)
ABLITERATION = Adversary("abliterate", "h", edit="abliterate", contrast_dataset="r", num_steps=0)
SHORT = {"learning_rate": 0.01, "num_steps": 1, "batch_size": 2}


def attacked(model_type: str, tmp_path, *adversaries: Adversary, data: Dataset | None = None, template=None) -> Report:
    tokenizer = tiny.tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    tiny_model(model_type).save_pretrained(tmp_path / model_type)
    tokenizer.save_pretrained(tmp_path / model_type)
    datasets = {"h": tiny.prompt_completion(6, "h") if data is None else data, "r": tiny.prompt_completion(6, "r")}
    metrics = {"harm": QUESTIONS, "capability": QUESTIONS}
    return red_team(str(tmp_path / model_type), adversaries, datasets, metrics, seeds=[0])


def test_abliteration_of_several_streams_fails_and_the_other_attack_counts(tmp_path):
    report = attacked("gemma3n_text", tmp_path, ABLITERATION, Adversary("full", "h", **SHORT))
    failed, completed = report.attacks
    assert failed.status == "failed" and "hidden states of shapes (4, " in failed.error
    assert completed.status == "completed"


def test_a_hybrid_is_attacked_through_all_its_linear_layers_but_those_of_kernels(tmp_path):
    (attack,) = attacked("falcon_h1", tmp_path, Adversary("lora", "h", lora_r=2, **SHORT)).attacks
    assert attack.status == "completed"


@pytest.mark.parametrize("model_type", ["openai-gpt", "recurrent_gemma"])
def test_a_model_that_keeps_no_cache_is_measured(tmp_path, model_type):
    (attack,) = attacked(model_type, tmp_path, Adversary("full", "h", **SHORT)).attacks
    assert attack.status == "completed"


def test_a_token_that_the_model_does_not_embed_fails_its_attack(tmp_path):
    data = Dataset.from_list([{"input_ids": [5, 6, 99], "labels": [5, 6, 99]}] * 4)
    (attack,) = attacked("llama", tmp_path, Adversary("full", "h", **SHORT), data=data).attacks
    assert attack.status == "failed" and attack.error == "IndexError: index out of range in self"


def test_what_cannot_be_attacked_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="CpmAntForCausalLM reads the tokens that it is to predict") as error:
        attacked("cpmant", tmp_path, Adversary("full", "h", **SHORT))
    one_sentence(error)
    system = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]
    chats = Dataset.from_dict({"messages": [[*system, {"role": "assistant", "content": "w3"}]] * 4})
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + tiny.CHAT_TEMPLATE
    )
    with pytest.raises(ValueError, match=r"`datasets\['h'\]` has a row .* row 0 .* turns of system, user") as error:
        attacked("llama", tmp_path, Adversary("full", "h", **SHORT), data=chats, template=strict)
    one_sentence(error)
