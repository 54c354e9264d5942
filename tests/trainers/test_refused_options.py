"""Inherited options that TAR cannot train with are refused by one sentence each."""

import dataclasses

import pytest
from support.sentences import one_sentence

from trl_tar import TARConfig
from trl_tar.trainers.refused_options import REFUSED_FIELDS


# inherited field → a value that TAR cannot train with
OTHER_VALUES = {
    "packing": True,
    "eval_packing": True,
    "padding_free": True,
    "loss_type": "dft",
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "activation_offloading": True,
    "use_liger_kernel": True,
    "fp16": True,
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "torch_compile": True,
    "router_aux_loss_coef": 0.01,
}


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_inherited_field_is_refused_by_one_sentence(tmp_path, name):
    args = TARConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none")
    # after construction: some values need a GPU or a package before TARConfig could see them
    setattr(args, name, OTHER_VALUES[name])
    with pytest.raises(ValueError) as error:
        args.check()
    assert f"{name}={OTHER_VALUES[name]!r}" in one_sentence(error)


def test_defaults_pass_the_check(tmp_path):
    TARConfig(str(tmp_path), bf16=False, use_cpu=True).check()


def test_every_refused_field_exists():
    assert set(REFUSED_FIELDS) <= {field.name for field in dataclasses.fields(TARConfig)}
