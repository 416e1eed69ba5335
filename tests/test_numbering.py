"""Which part numbers a trigger asks for: each trigger is heard once, and one owner knows the last number."""

import pytest

from station.numbering import Numbering


def met(last: int, standing: int) -> Numbering:
    numbering = Numbering(last)
    numbering.meet(standing)
    return numbering


def test_a_trigger_that_stands_is_heard_once() -> None:
    numbering = met(0, 0)
    assert [numbering.is_new(sequence) for sequence in (0, 1, 1, 2, 1)] == [False, True, False, True, True]


def test_a_trigger_that_stood_there_when_the_station_came_is_old_when_it_was_the_last_part() -> None:
    assert not met(7, 7).is_new(7)
    assert met(7, 8).is_new(8)


@pytest.mark.parametrize(("standing", "following"), [(7, 8), (8, 8), (5000, 1), (0, 1)])
def test_a_numbering_that_does_not_go_on_from_the_last_part_begins_anew(standing: int, following: int) -> None:
    assert met(7, standing).give() == following


def test_what_was_jumped_over_is_asked_for_too() -> None:
    numbering = met(7, 7)
    assert numbering.take(10) == (8, 9, 10)
    assert numbering.last == 10


def test_the_newest_two_numbers_can_be_asked_for_as_often_as_the_plc_likes_and_older_ones_three_times() -> None:
    numbering = met(100, 100)
    assert [numbering.repeats(98) for _ in range(4)] == [True, True, True, False]
    assert all(numbering.repeats(sequence) for sequence in (99, 100) for _ in range(9))
    numbering = met(2, 2)
    assert [numbering.repeats(65_535) for _ in range(4)] == [True, True, True, False]


def test_where_the_plc_gives_no_numbers_they_come_round_too() -> None:
    numbering = Numbering(65_534)
    assert [numbering.give() for _ in range(3)] == [65_535, 1, 2]


def test_a_number_that_does_not_follow_changes_nothing() -> None:
    numbering = met(7, 7)
    assert numbering.take(3) is None
    assert numbering.last == 7


def test_the_newest_two_can_be_asked_for_again_as_often_as_the_plc_likes() -> None:
    numbering = met(40, 40)
    assert all(numbering.repeats(sequence) for sequence in (39, 40) * 20)


def test_more_than_three_old_ones_in_a_row_are_a_count_that_began_again() -> None:
    numbering = met(40, 40)
    assert [numbering.repeats(sequence) for sequence in (20, 21, 22)] == [True] * 3
    numbering.take(41)
    assert [numbering.repeats(sequence) for sequence in (20, 21, 22, 23)] == [True, True, True, False]


@pytest.mark.parametrize(("last", "repeats"), [(9, True), (10, False), (400, False)])
def test_a_fall_to_1_is_a_count_that_began_again(last: int, repeats: bool) -> None:
    assert met(last, last).repeats(1) is repeats
