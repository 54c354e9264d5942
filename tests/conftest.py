"""Offline, one thread, no progress bars; the tiny models and data sets are in `tiny.py`."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import tiny
import torch
import transformers


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
