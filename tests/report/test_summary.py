"""Summaries read each attack a few times, whatever the number of adversaries."""

from dataclasses import replace

from support.reports import REFERENCES, attack, record

from trl_tar.report.summary import summaries_of
from trl_tar.report.unseen_harm import unseen_recovery


class Counted(list):
    """A list that counts the entries that are read from it."""

    read = 0

    def __iter__(self):
        Counted.read += len(self)
        return super().__iter__()


def test_the_time_of_summaries_grows_with_the_number_of_attacks():
    many = [attack(f"a{i}", 0, 0.3) for i in range(60)]
    references = {**REFERENCES, **{role: replace(record({}), attacks=Counted(many)) for role in ("floor", "twin")}}
    model = replace(record({}), attacks=many)
    found = summaries_of(model, references, 0.25)
    unseen_recovery(many, references)
    assert len(found["by_adversary"]) == 60
    assert Counted.read < 20 * len(many)  # each against each would be 60 times
