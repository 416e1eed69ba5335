"""The wire to a PLC: noise is borne, a cut is not, and a PLC that was restarted is noticed by its heartbeat."""

from collections import deque
from collections.abc import Iterable

import pytest
from scripted_line import MS, Clock

from drivers.plc import NO_RESULT, CommandStatus, PlcCommand, PlcError, PlcInput, StationSignals, Trigger
from station.wire import PATIENCE_NS, Wire

SIGNALS = StationSignals(6, 0, 1, 1, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)


class Far:
    """Says these heartbeats one after the other, with a trigger of the same number; None is noise."""

    simulated = True

    def __init__(self, heartbeats: Iterable[int | None]) -> None:
        self.heartbeats = deque(heartbeats)

    def exchange(self, signals: StationSignals) -> PlcInput:  # noqa: ARG002
        heartbeat = self.heartbeats.popleft()
        if heartbeat is None:
            raise PlcError("no answer")
        return PlcInput(heartbeat, PlcCommand(0, 0, 0), 0, (Trigger(heartbeat),))

    def close(self) -> None:
        self.heartbeats.clear()


class Turns:
    """A wire and its clock; every turn takes 20 ms."""

    def __init__(self, *heartbeats: int | None) -> None:
        self.clock = Clock()
        self.wire = Wire(Far(heartbeats), self.clock)

    def turn(self, times: int = 1) -> Wire:
        for _ in range(times):
            self.clock.now_ns += 20 * MS
            self.wire.exchange(SIGNALS)
        return self.wire


def test_what_was_heard_stays_while_noise_is_borne() -> None:
    turns = Turns(1, None, None)
    wire = turns.turn(3)
    assert (wire.hears, wire.heard and wire.heard.heartbeat) == (False, 1)


def test_noise_that_lasts_is_a_cut_wire_and_what_was_heard_is_gone() -> None:
    borne = 1 + PATIENCE_NS // (20 * MS)
    turns = Turns(1, *[None] * (borne + 1), 2)
    assert turns.turn(1 + borne).heard
    with pytest.raises(PlcError):
        turns.turn()
    assert turns.wire.heard is None
    assert turns.turn().hears


def test_triggers_are_heard_once_even_when_the_next_exchange_fails() -> None:
    turns = Turns(1, None)
    assert turns.turn().triggers() == (Trigger(1),)
    assert turns.turn().triggers() == ()


@pytest.mark.parametrize(
    ("before", "after", "restarted"),
    [(5, 6, False), (65_535, 0, False), (1, 0, False), (300, 0, True), (40_000, 3, True), (7, 257, False), (7, 258, True)],
)
def test_a_heartbeat_that_jumps_is_a_restarted_plc_and_one_that_counts_or_toggles_is_none(before: int, after: int, restarted: bool) -> None:
    wire = Turns(before, after).turn(2)
    assert bool(wire.restarted()) is restarted
    assert not wire.restarted()


def test_a_plc_that_counted_on_while_the_station_stood_still_was_not_restarted() -> None:
    turns = Turns(1, 2, 500)
    turns.turn()
    turns.clock.now_ns += 500 * MS  # 2 was said before, and is heard only now
    assert not turns.turn(2).restarted()


@pytest.mark.parametrize(
    "heartbeats",
    [
        [beat % 256 for beat in range(0, 2_000, 7)],
        [beat // 5 % 60 for beat in range(1_000)],
        [0x8000 * (beat // 3 % 2) for beat in range(300)],
        [beat % 10_000 for beat in range(0, 90_000, 90)],
    ],
)
def test_a_counter_that_wraps_early_and_any_bit_that_toggles_are_set_the_same_way_again(heartbeats: list[int]) -> None:
    turns = Turns(*heartbeats)
    assert sum(bool(turns.turn().restarted()) for _ in heartbeats) <= 2


def test_a_heartbeat_that_is_set_another_way_is_a_restarted_plc_s_again() -> None:
    turns = Turns(5_000, 0, 9_000, 0)
    assert [bool(turns.turn().restarted()) for _ in range(4)] == [False, True, True, True]


def test_a_heartbeat_stands_still_from_when_it_moved_last_or_is_watched_from() -> None:
    turns = Turns(1, 1, 1, 2, 2)
    assert turns.turn(3).stands_still_ns == 40 * MS
    assert turns.turn().stands_still_ns == 0
    turns.wire.begin_to_watch(turns.clock.now_ns + 10 * MS)
    assert turns.turn().stands_still_ns == 10 * MS
