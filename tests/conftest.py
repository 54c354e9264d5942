"""Offline, one thread, no progress bars; the tiny models and data sets are in `tiny.py`."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import time

import datasets
import huggingface_hub
import pytest
import torch
import transformers
from support import tiny
from support.hub_server import running_hub


torch.set_num_threads(1)
datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Trainers log each step to the console otherwise."""
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def rows():
    """Tokenised rows of every data set, by name."""
    return tiny.tokenised()


@pytest.fixture
def make_trainer(tmp_path):
    """`tiny.make_trainer` with an output folder of this test's own."""

    def make(*args, output_dir=None, **kwargs):
        return tiny.make_trainer(output_dir or tmp_path, *args, **kwargs)

    return make


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback that this process takes for the Hub, and does not wait for."""
    with running_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(time, "sleep", hub.waits.append)
        yield hub


@pytest.fixture
def datasets_hub(hub, monkeypatch, tmp_path):
    """The same, for `datasets` too."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return hub
