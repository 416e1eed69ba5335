"""Part numbers run 1..65535 and then 1 again; what was jumped over is due too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from station.sequence import MOST_MISSED, due, following, is_ahead


def test_the_next_number_is_due() -> None:
    assert due(41, 42) == (42,)


def test_the_numbers_jumped_over_are_due_first_and_in_order() -> None:
    assert due(41, 44) == (42, 43, 44)


def test_after_the_last_number_comes_one() -> None:
    assert following(65_535) == 1
    assert due(65_535, 1) == (1,)
    assert due(65_534, 2) == (65_535, 1, 2)


def test_any_number_may_be_the_first() -> None:
    assert due(0, 17) == (17,)


@pytest.mark.parametrize("seen", [42, 41, 1, 42 + MOST_MISSED + 2])
def test_a_number_that_was_there_or_is_far_away_does_not_follow(seen: int) -> None:
    assert due(42, seen) is None


@pytest.mark.parametrize("seen", [0, -1, 65_536])
@pytest.mark.parametrize("last", [0, 1, 65_434, 65_534, 65_535])
def test_what_is_no_part_s_number_never_follows(last: int, seen: int) -> None:
    assert due(last, seen) is None


def test_ahead_is_the_shorter_way_round() -> None:
    assert is_ahead(42, 43)
    assert is_ahead(65_535, 1)
    assert not is_ahead(43, 42)
    assert not is_ahead(1, 65_535)
    assert not is_ahead(42, 42)
    assert is_ahead(1, 32_768)
    assert not is_ahead(1, 32_769)


def test_the_longest_gap_is_still_a_gap() -> None:
    assert due(42, 42 + MOST_MISSED + 1) == tuple(range(43, 43 + MOST_MISSED + 1))


@given(st.integers(1, 65_535), st.integers(0, MOST_MISSED))
def test_counting_on_number_by_number_gives_the_same(last: int, missed: int) -> None:
    numbers = []
    number = last
    for _ in range(missed + 1):
        number = 1 if number == 65_535 else number + 1
        numbers.append(number)
    assert due(last, number) == tuple(numbers)
