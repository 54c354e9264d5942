"""On which device a model is, when it is loaded and while it is prepared."""

import pytest
from datasets import Dataset
from support import tiny
from transformers import AutoModelForCausalLM

from trl_tar import RandomMappingConfig, RandomMappingTrainer
from trl_tar.models.architecture import LENGTH, ROWS
from trl_tar.trainers import safeguard_trainer


def random_mapping_trainer(model, output):
    sets = {name: Dataset.from_list(rows) for name, rows in tiny.tokenised().items()}
    settings = RandomMappingConfig(str(output / "run"), use_cpu=True, bf16=False, report_to="none")
    return RandomMappingTrainer(
        model, settings, train_dataset=sets["retain"], forget_dataset=sets["forget"], processing_class=tiny.tokenizer()
    )


@pytest.mark.parametrize("start", ["random mapping", "TAR"])
def test_a_model_that_is_split_over_devices_is_refused(make_trainer, tmp_path, start):
    tiny.llama().save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "disk", "lm_head": "cpu"}
    split = {"device_map": places | {"model.rotary_emb": "cpu"}, "offload_folder": tmp_path / "offloaded"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **split)
    with pytest.raises(ValueError, match="split over cpu, disk by its device_map.*accelerate launch") as error:
        make_trainer(model) if start == "TAR" else random_mapping_trainer(model, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["random mapping", "TAR"])
def test_a_model_given_as_a_path_is_not_split_over_devices(make_trainer, monkeypatch, tmp_path, start):
    given = []
    load = safeguard_trainer.load

    def watched(path, **settings):
        given.append(settings)
        return load(path, **settings)

    monkeypatch.setattr(safeguard_trainer, "load", watched)
    tiny.llama().save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
    make_trainer(path) if start == "TAR" else random_mapping_trainer(path, tmp_path)
    assert [settings.get("device_map") for settings in given] == [None]


def test_no_pass_of_data_is_made_before_the_model_is_on_its_device(make_trainer):
    """With FSDP2 it is on the host until training begins, and batches are on the device."""
    model, passes = tiny.gpt2(), []
    model.register_forward_pre_hook(lambda _, __, given: passes.append(given["input_ids"].shape), with_kwargs=True)
    make_trainer(model, tamper_resistance_loss="dpo")
    assert passes == [(ROWS, LENGTH)]  # of tokens that are where the model is, to see what it returns
