"""Whatever is done to an input, only our own sentences come out."""

import warnings

import pytest

from faults.fuzz import READERS, fuzz


@pytest.mark.parametrize("reader", READERS)
def test_a_few_hundred_mutations_end_in_a_sentence(reader: str) -> None:
    _only_sentences(reader, 200, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("reader", READERS)
def test_fifty_thousand_mutations_end_in_a_sentence(reader: str) -> None:
    _only_sentences(reader, 50_000, seed=0)


def _only_sentences(reader: str, number: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what they are given
        found = fuzz(reader, number, seed)
    assert {what: count for what, count in found.items() if what.startswith("fault")} == {}
    assert sum(found.values()) == number
