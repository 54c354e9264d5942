"""The small data sets that attacks are made with."""

import pytest
from support.attacks import raw_data


@pytest.fixture(scope="session")
def raw():
    return raw_data()
