"""`drivers.frame_numbers`: every exposure is told once, against a literal camera that knows what it did."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.frame_numbers import LATE_UNSTAMPED_WITHIN, LATE_WITHIN, FrameNumbers, Place

MS = 1_000_000


def numbered(*numbers: int, stamped: bool = False) -> list[Place | None]:
    """The places of frames with these numbers, 10 ms apart."""
    numbers_of = FrameNumbers()
    return [numbers_of.place(n, i * 10 * MS if stamped else None, i * 10 * MS) for i, n in enumerate(numbers)]


def missed(last: int, number: int, *before: int) -> int | None:
    place = numbered(*before, last, number)[-1]
    assert place is not None
    return None if place.flaw else place.missed


@pytest.mark.parametrize(
    ("last", "number", "expected"),
    [
        (0, 1, 0),
        (9, 30, 20),
        (65535, 1, 0),
        (65534, 1, 1),
        (65530, 3, 7),
        (65535, 0, 0),
        (65534, 0, 1),
        (65535, 65536, 0),
        (2**64 - 1, 1, 0),
        (2**64 - 1, 0, 0),
        (2**64 - 3, 2, 3),
        (70000, 3, None),
        (500, 0, None),
        (40_000, 1, None),
        (5, 2**64 - 6, None),
        (5, 65535 - 6, None),
        (5, 1_000, None),
    ],
)
def test_gaps_are_told_across_the_wraps_and_only_as_far_as_there_was_time_for_them(last: int, number: int, expected: int | None) -> None:
    assert missed(last, number) == expected


def test_a_camera_that_counts_0_has_it_between_its_highest_number_and_1() -> None:
    numbers = FrameNumbers()
    for time_s, number in enumerate([0, *range(9_000, 65_535, 9_000), 65_535]):
        numbers.place(number, None, time_s * 10_000 * MS)
    assert numbers.place(1, None, 90_000 * MS) == Place(1, 1)


def test_a_pause_leaves_room_for_a_longer_gap() -> None:
    numbers = FrameNumbers()
    numbers.place(0, None, 0)
    assert numbers.place(5_001, None, 5_000 * MS) == Place(5_001, 5_000)
    assert "cannot be told" in str(numbers.place(20_000, None, 60_000 * MS))


def test_a_gap_behind_frames_that_waited_for_whoever_fetches_is_believed() -> None:
    numbers = FrameNumbers()
    numbers.place(0, None, 0)
    for number in range(1, 9):
        numbers.place(number, None, 600 * MS)
    assert numbers.place(500, None, 601 * MS) == Place(500, 491)


def test_a_wrong_number_is_told_under_the_right_one_and_the_next_frame_goes_on() -> None:
    first, wrong, after, last = numbered(7, 2**64 - 8, 10, 11)
    assert (first, after, last) == (Place(7), Place(10, 1), Place(11))
    assert wrong == Place(8, 0, f"the camera counted {2**64 - 8} after 7: what was lost between cannot be told")


def test_every_strange_number_is_told_until_one_follows_another() -> None:
    places = numbered(700, 90_000, 400_000, 5, 6, 9)
    assert [place and bool(place.flaw) for place in places] == [False, True, True, True, False, False]
    assert [place and place.frame_id for place in places] == [700, 701, 702, 703, 6, 9]
    assert places[-1] == Place(9, 2)


def test_a_stamp_tells_a_count_that_began_anew_from_a_late_frame() -> None:
    numbers = FrameNumbers()
    for i in range(10):
        numbers.place(i, i * MS, i * MS)
    assert numbers.place(4, 4 * MS, 10 * MS) is None
    assert numbers.place(9, 9 * MS, 10 * MS) is None
    begun = numbers.place(0, 11 * MS, 11 * MS)
    assert begun is not None
    assert begun.flaw
    assert numbers.place(0, 11 * MS, 11 * MS) is None
    assert numbers.place(1, 12 * MS, 12 * MS) == Place(1)


def test_a_camera_that_gives_every_frame_the_same_number_is_told_in_each() -> None:
    numbers = FrameNumbers()
    places = [numbers.place(0, i * MS, i * MS) for i in range(1, 5)]
    assert [place and bool(place.flaw) for place in places] == [False, True, True, True]
    assert numbers.place(0, 4 * MS, 5 * MS) is None


@pytest.mark.parametrize(("stamped", "within"), [(True, LATE_WITHIN), (False, LATE_UNSTAMPED_WITHIN)])
def test_a_frame_is_late_only_as_far_back_as_frames_can_come_late(stamped: bool, within: int) -> None:
    for back, late in ((within, True), (within + 1, False)):
        numbers = FrameNumbers()
        for number in (900, 1_000):
            numbers.place(number, number * MS if stamped else None, number * MS)
        assert (numbers.place(1_000 - back, 500 * MS if stamped else None, 1_001 * MS) is None) is late


def test_an_incomplete_frame_is_numbered_across_the_wrap() -> None:
    numbers = FrameNumbers()
    numbers.place(65_534, None, 0)
    assert [numbers.without_number().frame_id for _ in range(3)] == [65_535, 1, 2]
    assert numbers.place(4, None, MS) == Place(4, 1)


# -- against a literal camera ---------------------------------------------------------------------------------------------------------


@dataclass
class Literal:
    """A camera that exposes once every 10 ms and writes down what becomes of each exposure.

    Attributes:
        frames: what arrives: the exposure, and its number and stamp, or no number for an incomplete frame.
    """

    bits: int
    first: int
    counts_zero: bool
    counts_incomplete: bool
    stamped: bool
    number: int = field(init=False)
    exposures: int = 0
    frames: list[tuple[int, int | None, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = self.first

    def expose(self, what: str) -> None:
        exposure, number = self.exposures, self.number
        self.exposures += 1
        if what != "incomplete" or self.counts_incomplete:
            self.number += 1
            if self.number >= 2**self.bits:
                self.number = 0 if self.counts_zero else 1
        stamp = exposure * 10 * MS if self.stamped else None
        frame = (exposure, None if what == "incomplete" else number, stamp)
        self.frames += [frame] * {"lost": 0, "twice": 2}.get(what, 1)


EVENTS = st.sampled_from(["whole"] * 4 + ["lost", "incomplete", "twice"])


@given(
    st.lists(EVENTS, max_size=60),
    st.sampled_from([(16, 1, False), (16, 65_520, False), (16, 0, True), (64, 0, True), (64, 2**64 - 20, False), (64, 65_500, True)]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_every_exposure_is_told_once(
    events: list[str], count: tuple[int, int, bool], counts_incomplete: bool, stamped: bool, data: st.DataObject
) -> None:
    bits, first, counts_zero = count
    camera = Literal(bits, first, counts_zero, counts_incomplete, stamped)
    for event in ["whole", *events, "whole"]:
        camera.expose(event)
    overtaken = 0
    for at in data.draw(st.lists(st.integers(0, len(camera.frames)), max_size=3)):  # frames that were overtaken: told as missed or twice
        if (0 if stamped else 1) < at < len(camera.frames) and None not in (camera.frames[at - 1][1], camera.frames[at][1]):
            camera.frames[at - 1 : at + 1] = [camera.frames[at], camera.frames[at - 1]]
            overtaken += 1
    numbers, told, latest = FrameNumbers(), 0, -1
    for position, (exposure, number, stamp) in enumerate(camera.frames):
        place = numbers.without_number() if number is None else numbers.place(number, stamp, (position + 1) * 10 * MS)
        latest = max(latest, exposure)
        if place is not None:
            told += place.missed + 1
        if number is not None and exposure == latest and counts_incomplete and camera.frames[0][0] == 0:
            assert told == exposure + 1
    assert told == camera.exposures or not counts_incomplete
    # An incomplete frame without a number hides one that was lost or overtaken beside it; else nothing is told twice, nothing left out.
    hidden = events.count("lost") + overtaken * (not counts_incomplete)
    assert camera.exposures - hidden <= told <= camera.exposures
