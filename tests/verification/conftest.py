"""A published model: one for all tests of a file, and a copy for each to tamper with."""

import shutil
from pathlib import Path

import pytest
from support.published import write_published


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "a-model"
    write_published(folder)
    return folder


@pytest.fixture
def copy(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "a-model"))
