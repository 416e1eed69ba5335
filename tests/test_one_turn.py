"""What one turn of the loop answers, and what it leaves to the next: causes, changeovers and the heartbeat come between two parts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_line import MS, Bench

from drivers.camera import Frame
from drivers.plc import Command, ErrorCode, Trigger
from station.inspection import Result
from station.ledger import LedgerError
from station.line import Counting, LineSettings
from station.state import State

Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def bench(counting: Counting = "plc", **more: Any) -> Bench:
        settings = LineSettings(
            frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=1_500 * MS, counting=counting, count_delay_ns=30 * MS, **more
        )
        made.append(Bench(tmp_path, settings=settings))
        return made[-1]

    yield bench
    for one in made:
        one.line.close()


def running(bench: Bench) -> Bench:
    bench.run()
    return bench


def shoot(bench: Bench, frame_id: int, missed: int = 0, ago_ms: int = 0) -> None:
    captured_ns = bench.clock.now_ns - ago_ms * MS
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", frame_id, missed, captured_ns))


def count(bench: Bench, last: int) -> None:
    """The PLC counts up to `last`, one number after an exchange with the one before."""
    for sequence in range(bench.plc.trigger.sequence + 1, last + 1):
        bench.plc.trigger = Trigger(sequence)
        assert bench.turn() == []


def slow_ledger(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    append = bench.ledger.append

    def slow(result: Result, created_ns: int) -> int:
        bench.clock.now_ns += 10 * MS
        return append(result, created_ns)

    monkeypatch.setattr(bench.ledger, "append", slow)


# ---- a cause of error, or a start, between two parts


def test_a_cause_that_came_with_the_part_before_stops_the_line_before_the_camera_is_fired(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = running(make())
    bench.part(1)

    def refuse(*_: object) -> int:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(bench.ledger, "append", refuse)
    bench.plc.trigger = Trigger(3)
    assert [(result.sequence, result.reason.name) for result in bench.turn(2)] == [(2, "NOT_RUNNING"), (3, "NOT_RUNNING")]
    assert bench.camera.fired == 1


@pytest.mark.parametrize("counting", ["hardware", "free"])
def test_a_frame_from_before_the_start_that_comes_after_it_is_nobody_s(make: Make, counting: Counting) -> None:
    bench = make(counting, prepare="1")
    bench.turn(50)
    bench.say(Command.START_CONTINUOUS)
    shoot(bench, 1, ago_ms=100)
    assert bench.turn(50) == []
    assert bench.line.state is State.CONTINUOUS_EXECUTION


@pytest.mark.parametrize("counting", ["hardware", "free"])
def test_frames_that_come_while_the_line_stands_are_given_back_at_once(make: Make, counting: Counting) -> None:
    bench = make(counting)
    bench.turn(3)
    for frame_id in range(1, 9):
        shoot(bench, frame_id)
    assert bench.turn() == []
    assert not bench.camera.frames


def test_what_the_camera_lost_before_the_first_frame_of_a_job_has_no_number(make: Make) -> None:
    bench = running(make("free"))
    shoot(bench, 6, missed=5)
    assert [(result.sequence, result.reason.name) for result in bench.turn()] == [(1, "GOOD")]


# ---- the heartbeats


def test_a_heartbeat_that_stood_still_before_the_start_is_given_its_time_from_the_start(make: Make) -> None:
    bench = make()
    bench.turn(3)
    bench.say(Command.PREPARE_RECIPE, 1)
    bench.plc.beats = False
    bench.turn(20, milliseconds=100)
    bench.say(Command.START_CONTINUOUS)
    bench.turn(14, milliseconds=100)
    assert bench.line.state is State.CONTINUOUS_EXECUTION
    bench.turn(3, milliseconds=100)
    assert set(bench.line.causes) == {ErrorCode.PLC_HEARTBEAT}


def test_the_heartbeat_goes_on_while_many_parts_are_answered_that_were_jumped_over(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = running(make())
    bench.part(1)
    slow_ledger(bench, monkeypatch)
    bench.plc.trigger = Trigger(100)
    turns = [bench.turn() for _ in range(2)]
    bench.plc.trigger = Trigger(90)  # which waits for its answer
    turns += [bench.turn() for _ in range(8)]
    assert [result.sequence for turn in turns for result in turn] == [*range(2, 101)]
    assert max(map(len, turns)) <= 21


def test_the_heartbeat_goes_on_while_many_lost_frames_are_answered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = running(make("free"))
    slow_ledger(bench, monkeypatch)
    shoot(bench, 1)
    bench.turn(2)
    shoot(bench, 100, missed=98)
    turns = [bench.turn() for _ in range(20)]
    assert [result.sequence for turn in turns for result in turn] == [*range(2, 101)]
    assert max(map(len, turns)) <= 21


# ---- a changeover, and the first recipe


def test_a_recipe_that_was_asked_for_instead_of_the_first_one_leaves_none_to_be_prepared_by_itself(make: Make) -> None:
    bench = make(prepare="1")
    bench.hold = True
    bench.turn(3)
    bench.hold = False
    bench.say(Command.PREPARE_RECIPE, 77)
    bench.turn(5)
    assert (bench.plc.last.error_code, bench.line.state) == (ErrorCode.RECIPE_REFUSED, State.INITIALIZED)


def test_a_frame_that_waits_for_its_inspection_is_no_picture_for_the_recipe_after(make: Make) -> None:
    bench = make("hardware")
    bench.turn(3)
    bench.line.command(Command.PREPARE_RECIPE, 1, lambda _code, _why: None)
    bench.turn(3)
    bench.say(Command.START_CONTINUOUS)
    count(bench, 3)
    for frame_id in (1, 2, 3):
        shoot(bench, frame_id)
    answered: list[Result] = []
    while not answered:
        answered += bench.turn()
    bench.line.command(Command.PREPARE_RECIPE, 2, lambda _code, _why: None)
    answered += bench.turn(3)
    assert [(result.sequence, result.reason.name, result.recipe_number) for result in answered] == [
        (1, "GOOD", 1),
        (2, "MISSED_FRAME", 2),
        (3, "MISSED_FRAME", 2),
    ]
    assert "recipe was changed" in answered[-1].detail
