"""Frames and the PLC's counts: each count has one answer, and no frame is ever given to a neighbouring part."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.camera import Frame
from station.handshake import Asked
from station.matching import Count, Match, Matching, MatchingError

MS = 1_000_000
WINDOW_NS, DELAY_NS = 100 * MS, 30 * MS


def frame(frame_id: int, captured_ms: float, missed: int = 0) -> Frame:
    return Frame(np.zeros((1, 1), np.uint8), "Mono8", frame_id, missed, int(captured_ms * MS))


def count(sequence: int, heard_ms: float) -> Count:
    return Count(sequence, "", int(heard_ms * MS), Asked())


@dataclass
class Line:
    """Hears and sees what a test says; every exchange takes 5 ms."""

    matching: Matching = field(default_factory=lambda: Matching(WINDOW_NS, DELAY_NS))

    def turn(self, ends_ms: float, *sequences: int, frames: tuple[Frame, ...] = ()) -> list[tuple[int, int | None]]:
        self.matching.heard([count(sequence, ends_ms) for sequence in sequences], int((ends_ms - 5) * MS))
        for one in frames:
            self.matching.see(one)
        return [told(match) for match in self.matching.decide(int(ends_ms * MS))]


def told(match: Match) -> tuple[int, int | None]:
    return match.count.sequence, match.frame.frame_id if match.frame else None


@pytest.fixture
def line() -> Line:
    made = Line()
    made.turn(0)
    return made


def test_a_frame_waits_for_an_exchange_that_must_show_its_count(line: Line) -> None:
    assert line.turn(1010, 1, frames=(frame(1, 1005),)) == []
    assert line.turn(1030) == []
    assert line.turn(1045) == [(1, 1)]


def test_a_count_without_a_frame_fails_when_its_window_is_over(line: Line) -> None:
    assert line.turn(1010, 1) == []
    assert line.turn(1110) == []
    assert line.turn(1111) == [(1, None)]


def test_a_frame_that_the_camera_lost_fails_its_own_part(line: Line) -> None:
    assert line.turn(1010, 1, frames=(frame(1, 1005),)) == []
    assert line.turn(1060) == [(1, 1)]
    line.turn(1110, 2)
    assert line.turn(1150, 3, frames=(frame(3, 1145, missed=1),)) == []
    assert line.turn(1190) == [(2, None), (3, 3)]


def test_an_exposure_that_the_camera_never_made_fails_its_own_part(line: Line) -> None:
    line.turn(1010, 1, frames=(frame(1, 1005),))
    assert line.turn(1045) == [(1, 1)]
    assert line.turn(1200, 2) == []
    assert line.turn(1350, 3, frames=(frame(2, 1345),)) == [(2, None)]
    assert line.turn(1390) == [(3, 2)]


def test_parts_that_cannot_be_told_apart_all_fail(line: Line) -> None:
    line.turn(1010, 1)
    assert line.turn(1050, 2, frames=(frame(1, 1045),)) == []
    assert line.turn(1100) == []
    assert line.turn(1111) == [(1, None), (2, None)]


def test_parts_that_were_heard_all_at_once_are_given_up_only_when_the_last_one_s_frame_must_be_here(line: Line) -> None:
    line.turn(1010, 1, frames=(frame(1, 1005),))
    assert line.turn(1150, 2, 3, frames=(frame(2, 1080),)) == []  # the wire was silent; part 3 was exposed at 1140, its frame is on its way
    assert line.turn(1176, frames=(frame(3, 1140),)) == []
    assert line.turn(1181) == [(1, 1), (2, 2), (3, 3)]


def test_a_frame_that_came_late_goes_to_nobody(line: Line) -> None:
    line.turn(1010, 1)
    assert line.turn(1120) == [(1, None)]
    assert line.turn(1210, 2) == []
    assert line.turn(1215, frames=(frame(1, 1005),)) == []
    assert line.turn(1220, frames=(frame(2, 1206),)) == []
    assert line.turn(1250) == [(2, 2)]


def test_a_frame_without_a_count_is_an_error(line: Line) -> None:
    line.turn(1010, frames=(frame(1, 1005),))
    with pytest.raises(MatchingError, match="counted no part for it within 30 ms"):
        line.turn(1045)


def test_a_lost_frame_without_a_count_is_an_error_too(line: Line) -> None:
    line.turn(1010, 1, frames=(frame(1, 1005),))
    assert line.turn(1045) == [(1, 1)]
    line.turn(1210, 2, frames=(frame(3, 1205, missed=1),))
    with pytest.raises(MatchingError):
        line.turn(1245)


def test_a_count_and_a_frame_that_were_lost_of_neighbours_do_not_make_up_for_each_other(line: Line) -> None:
    line.turn(1000)
    line.turn(1010, 1, frames=(frame(1, 1005),))
    assert line.turn(1045) == [(1, 1)]
    line.turn(1100)
    line.turn(1110, 2)  # the camera never saw part 2, and the PLC lost the trigger of the next one
    line.turn(1200, frames=(frame(2, 1195),))
    with pytest.raises(MatchingError, match="they are not of the same part"):
        line.turn(1230)


def test_what_waits_when_the_line_stops_is_given_up(line: Line) -> None:
    line.turn(1010, 7, 8)
    assert line.matching.awaits(8)
    assert [told(match) for match in line.matching.abandon()] == [(7, None), (8, None)]
    assert not line.matching.awaits(8)


@dataclass(frozen=True)
class Part:
    """What passes the sensor. Faults: the PLC does not count it, the camera does not see it, or loses its frame; it is no part."""

    fired_ms: float
    counted: bool
    exposed: bool
    delivered: bool


FAULTS = ("uncounted", "unexposed", "undelivered", "extra")


def passing(random: Random, faults: Mapping[str, float], interval_ms: tuple[float, float]) -> Iterator[Part]:
    """60 parts; and pulses between two of them that only the camera sees, as a bouncing sensor makes them. `faults`: how likely is each."""

    def happens(fault: str) -> bool:
        return random.random() < faults.get(fault, 0.0)

    fired_ms = 1000.0
    for _ in range(60):
        gap_ms = random.uniform(*interval_ms)
        if happens("extra"):
            yield Part(fired_ms + random.uniform(15, gap_ms - 15), counted=False, exposed=True, delivered=True)
        fired_ms += gap_ms
        yield Part(fired_ms, not happens("uncounted"), not happens("unexposed"), not happens("undelivered"))


def plant(
    seed: int, faults: Mapping[str, float], interval_ms: tuple[float, float], hold_ms: float = 40
) -> Iterator[tuple[int, int | None]]:
    """Runs a random line of 60 parts; for each answer: the part that was counted under its number, and the part whose frame it got.

    The PLC shows a count up to 15 ms after the sensor, a frame is captured up to 8 ms after it and arrives up to 20 ms later, an exchange
    takes 5 to 15 ms, and now and then the loop is held up, as a lost telegram does it. Ends with a MatchingError where the line would stop.
    """
    random = Random(seed)
    parts = [*passing(random, faults, interval_ms)]
    shows = [(part.fired_ms + random.uniform(0, 15), index) for index, part in enumerate(parts) if part.counted]
    frames: list[tuple[float, int, Frame]] = []
    missed = frame_id = 0
    arrives_ms = 0.0
    for index, part in enumerate(parts):
        if not part.exposed:
            continue
        frame_id += 1
        if not part.delivered:
            missed += 1
            continue
        captured_ms = part.fired_ms + random.uniform(5, 8)
        arrives_ms = max(arrives_ms, captured_ms + random.uniform(2, 20))
        frames.append((arrives_ms, index, frame(frame_id, captured_ms, missed)))
        missed = 0
    counted = [index for _, index in shows]
    shown_part = {one.frame_id: index for _, index, one in frames}
    matching = Matching(WINDOW_NS, DELAY_NS)
    now_ms, told_counts = 900.0, 0
    while now_ms < parts[-1].fired_ms + 1000:
        begun_ms = now_ms
        now_ms += random.uniform(5, 15)
        new = [number for number, (shown_ms, _) in enumerate(shows, 1) if number > told_counts and shown_ms <= begun_ms]
        told_counts += len(new)
        matching.heard([count(number, now_ms) for number in new], int(begun_ms * MS))
        while frames and frames[0][0] <= now_ms:
            matching.see(frames.pop(0)[2])
        for match in matching.decide(int(now_ms * MS)):
            yield counted[match.count.sequence - 1], shown_part[match.frame.frame_id] if match.frame else None
        now_ms += random.choice([0, 0, 0, 0, 0, hold_ms])


SPACINGS_MS = st.sampled_from([(150.0, 300.0), (200.0, 220.0), (200.0, 600.0)])


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_without_faults_every_part_gets_its_own_frame(seed: int) -> None:
    assert [*plant(seed, {}, (150, 300))] == [(part, part) for part in range(60)]


def assert_no_part_gets_another_one_s_frame(answers: Iterator[tuple[int, int | None]]) -> None:
    answered = []
    with suppress(MatchingError):
        for part, shown in answers:
            assert shown in (None, part)
            answered.append(part)
    assert answered == sorted(set(answered)), "one answer each, in order"


@given(st.integers(0, 2**32), st.sampled_from(FAULTS), SPACINGS_MS, st.sampled_from([0, 40, 160, 310]))
@settings(max_examples=400, deadline=None)
def test_whatever_one_thing_goes_wrong_no_part_gets_another_one_s_frame(
    seed: int, fault: str, spacing_ms: tuple[float, float], hold_ms: float
) -> None:
    assert_no_part_gets_another_one_s_frame(plant(seed, {fault: 0.03}, spacing_ms, hold_ms))


@given(st.integers(0, 2**32), st.sampled_from([0.03, 0.15]), SPACINGS_MS)
@settings(max_examples=400, deadline=None)
def test_whatever_is_lost_no_part_gets_another_one_s_frame(seed: int, likely: float, spacing_ms: tuple[float, float]) -> None:
    assert_no_part_gets_another_one_s_frame(plant(seed, dict.fromkeys(("uncounted", "unexposed", "undelivered"), likely), spacing_ms))


def test_what_is_lost_fails_its_part_or_stops_the_line() -> None:
    stopped = failed = 0
    for seed in range(100):
        try:
            failed += sum(shown is None for _, shown in plant(seed, dict.fromkeys(FAULTS[:3], 0.03), (200, 600)))
        except MatchingError:
            stopped += 1
    assert stopped > 10
    assert failed > 10


def test_a_frame_is_nobody_s_while_a_later_one_may_be_the_count_s_too(line: Line) -> None:
    line.turn(2101)
    assert line.turn(2276, 1, frames=(frame(1, 2140), frame(2, 2251))) == []
    assert line.turn(2285) == []
    assert line.turn(2458, 2) == []  # as many as frames; but frame 1 was no part, and part 2's frame is on its way
    with pytest.raises(MatchingError, match="frame 3, and the PLC counted fewer parts"):
        line.turn(2490, frames=(frame(3, 2455),))


def test_a_frame_that_may_be_a_part_s_that_was_given_up_is_not_the_next_part_s(line: Line) -> None:
    line.turn(1310, 1)  # heard late
    assert line.turn(1420) == [(1, None)]
    assert line.turn(1425, 2) == []
    assert line.turn(1430, frames=(frame(1, 1405),)) == []
    assert line.turn(1460) == [(2, None)]
    line.turn(1610, 3, frames=(frame(2, 1605),))
    assert line.turn(1650) == [(3, 2)]


def test_a_pulse_that_only_the_camera_saw_before_a_part_is_an_error(line: Line) -> None:
    line.turn(1010, 1, frames=(frame(1, 1005),))
    assert line.turn(1045) == [(1, 1)]
    line.turn(1210)
    assert line.turn(1225, frames=(frame(2, 1205),)) == []
    assert line.turn(1240, 2, frames=(frame(3, 1230),)) == []
    with pytest.raises(MatchingError, match="frame 3, and the PLC counted fewer parts"):
        line.turn(1270)
