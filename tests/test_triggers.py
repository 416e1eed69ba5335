"""Several triggers in one exchange, as a PLC that polls the station and a line of text can say them: each part has one answer, and no part
is shown another one's picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scripted_line import MS, Bench, ScriptedPlc

from drivers.camera import CameraState, Frame
from drivers.plc import Command, ErrorCode, PlcInput, StationSignals, Trigger
from station.inspection import Reason, Result, Verdict
from station.inspector import Inspector
from station.line import Counting, LineSettings
from station.state import State


@dataclass
class HastyPlc(ScriptedPlc):
    """Says `before` the standing trigger what it had triggered since the last exchange."""

    before: tuple[Trigger, ...] = field(default_factory=tuple)

    def exchange(self, signals: StationSignals) -> PlcInput:
        said = super().exchange(signals)
        before, self.before = self.before, ()
        return replace(said, triggers=(*before, *said.triggers))


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def bench(counting: Counting = "plc") -> Bench:
        settings = LineSettings(
            frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, counting=counting, count_delay_ns=30 * MS
        )
        made.append(Bench(tmp_path, settings=settings, plc=HastyPlc()))
        made[-1].run()
        return made[-1]

    yield bench
    for one in made:
        one.line.close()


def trigger(bench: Bench, *triggers: Trigger) -> None:
    assert isinstance(bench.plc, HastyPlc)
    *bench.plc.before, bench.plc.trigger = triggers
    bench.plc.before = tuple(bench.plc.before)


def shoot(bench: Bench, frame_id: int, missed: int = 0) -> None:
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", frame_id, missed, bench.clock.now_ns))


def said(results: list[Result]) -> list[tuple[int, str, str]]:
    return [(result.sequence, result.part_id, result.reason.name) for result in results]


def test_a_part_that_was_overtaken_has_gone_by_and_is_not_shown_its_neighbour(make: Make) -> None:
    bench = make()
    trigger(bench, Trigger(1, "A1"), Trigger(2, "A2"), Trigger(3, "A3"))
    assert said(bench.turn(4)) == [(1, "A1", "MISSED_FRAME"), (2, "A2", "MISSED_FRAME"), (3, "A3", "GOOD")]
    assert bench.camera.fired == 1


def test_a_part_that_is_overtaken_while_it_waits_for_its_camera_is_missed(make: Make) -> None:
    bench = make()
    bench.camera.state = CameraState.OPENING
    trigger(bench, Trigger(1, "A1"))
    assert bench.turn(3) == []
    trigger(bench, Trigger(2, "A2"))
    waiting = bench.turn(3)
    bench.camera.state = CameraState.STREAMING
    assert said(waiting + bench.turn(3)) == [(1, "A1", "MISSED_FRAME"), (2, "A2", "GOOD")]
    assert bench.camera.fired == 1


def test_a_part_that_waits_for_its_camera_fails_when_the_line_is_stopped(make: Make) -> None:
    bench = make()
    bench.camera.state = CameraState.OPENING
    trigger(bench, Trigger(1, "A1"))
    assert bench.turn(3) == []
    bench.line.command(Command.STOP, 0, lambda _code, _why: None)
    assert said(bench.turn(2)) == [(1, "A1", "NOT_RUNNING")]
    assert bench.camera.fired == 0


def test_a_numbering_that_begins_anew_while_the_first_part_waits_is_an_error_and_the_part_is_answered(make: Make) -> None:
    bench = make()
    bench.camera.state = CameraState.OPENING
    trigger(bench, Trigger(1))
    bench.turn(3)
    trigger(bench, Trigger(0))
    assert said(bench.turn(3)) == [(1, "", "NOT_RUNNING")]
    assert (bench.line.state, set(bench.line.causes)) == (State.ERROR, {ErrorCode.PLC_RESTARTED})


@pytest.mark.parametrize("counting", ["plc", "hardware"])
@pytest.mark.parametrize("stands", [True, False])
def test_what_was_heard_before_a_disturbed_telegram_is_not_heard_again(make: Make, counting: Counting, stands: bool) -> None:
    bench = make(counting)
    if stands:
        bench.say(Command.STOP)
    trigger(bench, Trigger(1), Trigger(2))
    bench.turn(1)
    bench.plc.broken = True
    bench.turn(3)
    bench.plc.broken = False
    bench.turn(50)
    rows = bench.audit()
    assert (rows.parts, rows.acknowledged, rows.ok) == (2, 2, True)
    assert [
        before.result.sequence
        for before, after in zip(bench.plc.heard, bench.plc.heard[1:], strict=False)
        if before.result.sequence != after.result.sequence
    ] == [0, 1]


@pytest.mark.parametrize("counting", ["plc", "hardware"])
def test_a_number_that_is_said_twice_in_one_exchange_is_one_part(make: Make, counting: Counting) -> None:
    bench = make(counting)
    trigger(bench, Trigger(1), Trigger(2), Trigger(1))
    assert sorted(result.sequence for result in bench.turn(50)) == [1, 2]


def test_a_number_that_is_said_again_while_it_waits_for_its_inspection_is_one_part(make: Make) -> None:
    bench = make("hardware")
    for frame_id in (1, 2, 3):
        shoot(bench, frame_id)
    trigger(bench, Trigger(1), Trigger(2), Trigger(3))
    answered: list[Result] = []
    while not answered:
        answered += bench.turn()
    trigger(bench, Trigger(3), Trigger(2), Trigger(3))
    assert [result.sequence for result in answered + bench.turn(50)] == [1, 2, 3]


def test_a_number_from_before_is_answered_and_belongs_to_no_job(make: Make) -> None:
    bench = make()
    bench.part(500)
    assert bench.part(200).job_id == 0
    assert bench.part(501).job_id == 1


def test_a_part_triggered_before_its_recipe_was_told_to_be_ready_does_not_pass(make: Make) -> None:
    bench = make()
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[2]))
    trigger(bench, Trigger(1))
    assert said(bench.turn(2)) == [(1, "", "WRONG_RECIPE")]
    assert bench.part(2).recipe_number == 2


def test_every_count_of_one_exchange_has_its_own_frame_and_part_id(make: Make) -> None:
    bench = make("hardware")
    shoot(bench, 1)
    shoot(bench, 2)
    trigger(bench, Trigger(1, "A1"), Trigger(2, "A2"))
    assert said(bench.turn(50)) == [(1, "A1", "GOOD"), (2, "A2", "GOOD")]


def test_a_count_that_comes_round_is_told_no_old_answers_for_new_parts(make: Make) -> None:
    bench = make()
    for sequence in range(1, 101):
        assert bench.part(sequence).verdict is Verdict.PASS
    bench.plc.trigger = Trigger(1)
    (result,) = bench.turn(5)
    assert (result.verdict, result.reason) == (Verdict.FAIL, Reason.NOT_RUNNING)
    assert not bench.plc.last.result.passed
    assert (bench.line.state, [*bench.line.causes]) == (State.ERROR, [ErrorCode.PLC_RESTARTED])
    assert bench.audit().ok


def test_a_number_ahead_is_answered_although_this_job_had_it_before(make: Make) -> None:
    bench = make()
    bench.part(5)
    for sequence in (30_000, 60_000, 5):
        bench.plc.trigger = Trigger(sequence)
        (result,) = bench.turn(5)
        assert (result.sequence, result.verdict, result.reason) == (sequence, Verdict.FAIL, Reason.MISSED_FRAME)
        assert bench.plc.last.result.sequence == sequence
        bench.plc.acknowledged = sequence
        bench.turn(2)
    assert bench.part(6).verdict is Verdict.PASS
