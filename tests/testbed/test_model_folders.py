"""What is made once and read from the cache folder afterwards."""

import pytest

from trl_tar.testbed.model_folders import cached_json


def test_a_cached_file_is_made_once_and_the_user_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TRL_TAR_CACHE", str(tmp_path / "cache"))
    made = []
    for _ in range(2):
        assert cached_json("numbers.json", lambda: made.append(1) or [1, 2]) == [1, 2]
    assert made == [1]
    assert [record.getMessage() for record in caplog.records] == [
        f"Making {tmp_path / 'cache' / 'numbers.json'}, once; this can take some minutes."
    ]


def test_what_could_not_be_made_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_TAR_CACHE", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        cached_json("numbers.json", lambda: 1 // 0)
    assert cached_json("numbers.json", lambda: [1]) == [1]
