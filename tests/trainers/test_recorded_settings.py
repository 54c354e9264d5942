"""Settings that decide are recorded, and secrets among them are not."""

import pytest

from trl_tar.trainers.recorded_settings import decisive


def test_secrets_of_the_settings_are_not_told():
    settings = {"model_init_kwargs": {"token": "hf_Secret", "dtype": "float32"}, "hub_token": "hf_Other", "seed": 3}
    assert decisive(settings) == {"model_init_kwargs": {"dtype": "float32"}, "seed": 3}


@pytest.mark.parametrize(
    "name",
    ["hf_token", "access_token", "accessToken", "api-key", "API_KEY", "client_secret", "Authorization", "passwd"],
)
def test_every_name_of_a_secret_is_known(name):
    assert decisive({"model_init_kwargs": {name: "x", "headers": [{name: "x"}]}}) == {
        "model_init_kwargs": {"headers": [{}]}
    }


def test_settings_that_only_sound_like_secrets_are_told_and_secrets_are_known_by_their_looks():
    told = {"eos_token": "</s>", "max_new_tokens": 3, "several": ["x"]}
    assert decisive({**told, "other": "hf_Secret123456", "several": ["Bearer abc", "x"]}) == told
