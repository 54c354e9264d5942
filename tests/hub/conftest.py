"""A folder with a model, and the ways in which a Hub takes files."""

import huggingface_hub
import pytest
from support.attacks import TOKENIZER, tiny_model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "a-model"
    tiny_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def lfs_hub(hub, monkeypatch):
    """A Hub that wants large files in its storage, as the real one does where there is no Xet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.lfs = True
    return hub


@pytest.fixture(params=["regular", "lfs"])
def either_hub(request, hub):
    """Both ways in which the Hub takes files."""
    return request.getfixturevalue("lfs_hub") if request.param == "lfs" else hub
