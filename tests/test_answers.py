"""One answer stands on the wire until the PLC has taken it; the next ones wait."""

from dataclasses import replace

from drivers.plc import NO_RESULT, PlcResult
from station.answers import Answers

ACK_NS = 100


def result(sequence: int) -> PlcResult:
    return replace(NO_RESULT, sequence=sequence, reason=2)


def test_before_the_first_part_the_wire_says_no_result() -> None:
    assert Answers(ACK_NS).standing() == NO_RESULT


def test_the_next_answer_waits_until_the_one_before_is_acknowledged() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.add(2, "", result(2))
    assert answers.standing().sequence == 1
    answers.told(10)
    assert answers.acknowledge(1) == (True, 1)
    assert answers.standing().sequence == 2


def test_the_last_answer_goes_on_standing_when_it_is_acknowledged() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.told(0)
    answers.acknowledge(1)
    assert answers.settled()
    assert answers.standing().sequence == 1


def test_an_answer_that_was_never_told_cannot_be_acknowledged() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    assert answers.acknowledge(1) == (False, None)
    assert not answers.settled()


def test_the_acknowledgement_of_another_part_counts_for_nothing() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(2))
    answers.told(0)
    assert answers.acknowledge(1) == (False, None)


def test_an_answer_is_overdue_after_it_was_told_and_told_again_three_times() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    assert not answers.overdue(10_000)
    for told_ns in (1_000, 1_100, 1_200):
        answers.told(told_ns)
    assert not answers.overdue(1_000 + 4 * ACK_NS + 1), "it was told three times only"
    answers.told(1_300)
    assert not answers.overdue(1_000 + 4 * ACK_NS)
    assert answers.overdue(1_000 + 4 * ACK_NS + 1)


def test_a_part_asked_for_again_gets_the_very_same_answer() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.told(0)
    answers.acknowledge(1)
    assert answers.repeat(1, "")
    assert answers.standing() == result(1)
    answers.told(0)
    assert answers.acknowledge(1) == (True, 1), "the row of the part it was given before"


def test_a_part_of_an_earlier_job_is_not_answered_again() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.forget()
    assert not answers.repeat(1, "")


def test_a_number_that_is_given_to_another_part_is_not_answered_again() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "A1", result(1))
    assert not answers.repeat(1, "B1")
    assert answers.repeat(1, "A1")


def test_a_new_numbering_leaves_nothing_of_the_old_one_on_the_wire() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.told(0)
    answers.acknowledge(1)
    answers.forget()
    assert answers.standing() == NO_RESULT


def test_the_memory_of_answers_is_bounded() -> None:
    answers = Answers(ACK_NS)
    for sequence in range(1, 1_000):
        answers.add(sequence, "", result(sequence))
    assert not answers.repeat(1, "")
    assert answers.repeat(999, "")


def test_dropping_leaves_the_wire_at_reject() -> None:
    answers = Answers(ACK_NS)
    answers.add(1, "", result(1))
    answers.drop()
    assert answers.standing() == NO_RESULT
    assert answers.settled()
