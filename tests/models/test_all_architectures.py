"""Every causal language model of transformers, as the table in the repository says."""

import pytest
from support.architectures import RESULTS, Outcome, outcomes, read_table, version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


TABLE, MADE_WITH = read_table()


def test_the_table_has_a_result_for_each_class_and_a_reason_where_it_did_not_train():
    assert TABLE
    for model_type, found in TABLE.items():
        assert found.result in RESULTS and bool(found.why) == (found.result != "trained"), model_type


@pytest.mark.slow
@pytest.mark.skipif(version() != MADE_WITH, reason=f"the table was made with transformers {MADE_WITH}")
def test_each_class_trains_or_is_refused_as_the_table_says():
    """Half an hour of one core; `python -m support.architectures` in `tests` makes the table anew."""
    assert set(TABLE) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    found = dict(outcomes(TABLE))
    assert {name: Outcome(*each).result for name, each in found.items()} == {
        n: each.result for n, each in TABLE.items()
    }
