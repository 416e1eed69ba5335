"""The three ways of counting (PLC.md, rule 10) through the whole line: a lost trigger, a lost frame, or both never shift a result."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scripted_line import MS, Bench

from drivers.camera import CameraError, CameraState, Frame
from drivers.plc import Command, ErrorCode, Trigger
from station.counting import MOST_FRAMES, FreeRunning, HardwareTriggered, SoftwareTriggered
from station.handshake import Asked
from station.inspection import Reason, Result, Verdict
from station.line import Counting, LineSettings
from station.matching import Count, Match, Matching
from station.numbering import Numbering
from station.state import State

Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def bench(counting: Counting, rejects_in_a_row: int = 0) -> Bench:
        settings = LineSettings(
            frame_window_ns=100 * MS,
            acknowledge_ns=100 * MS,
            heartbeat_ns=0,
            counting=counting,
            count_delay_ns=30 * MS,
            rejects_in_a_row=rejects_in_a_row,
        )
        made.append(Bench(tmp_path, settings=settings))
        made[-1].run()
        return made[-1]

    yield bench
    for one in made:
        one.line.close()


def shoot(bench: Bench, frame_id: int, missed: int = 0, flaw: str = "") -> None:
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", frame_id, missed, bench.clock.now_ns, flaw))


def fire(bench: Bench, sequence: int, frame_id: int | None, missed: int = 0, flaw: str = "") -> list[Result]:
    """The sensor fires the camera, and the PLC counts; then a quarter of a second passes."""
    if frame_id is not None:
        shoot(bench, frame_id, missed, flaw)
    bench.plc.trigger = Trigger(sequence)
    return bench.turn(50)


def said(results: list[Result]) -> list[tuple[int, str, str]]:
    return [(result.sequence, result.verdict.value, result.reason.name) for result in results]


def good(sequence: int) -> tuple[int, str, str]:
    return sequence, "PASS", "GOOD"


def missed_frame(sequence: int) -> tuple[int, str, str]:
    return sequence, "FAIL", "MISSED_FRAME"


# ---- the PLC counts, and the station fires the camera


def test_a_number_that_is_said_again_while_its_camera_is_reconfigured_is_one_part(make: Make) -> None:
    bench = make("plc")
    bench.part(1)
    bench.camera.state = CameraState.OPENING
    answers = []
    for sequence in (2, 1, 2):
        bench.plc.trigger = Trigger(sequence)
        answers += bench.turn(2)
    bench.camera.state = CameraState.STREAMING
    assert said(answers + bench.turn(5)) == [good(2)]


def test_only_a_camera_that_is_being_opened_is_waited_for(make: Make) -> None:
    camera = make("plc").camera
    for state, waits in ((CameraState.OPENING, True), (CameraState.LOST, False), (CameraState.STREAMING, False)):
        camera.state = state
        parts = SoftwareTriggered(camera, 100 * MS, camera.clock)
        parts.take([Count(1, "", camera.clock(), Asked())], camera.clock())
        assert (parts.next(Asked()) is None) is waits


def test_a_trigger_is_fired_within_its_window_and_its_frame_is_waited_for_as_long(make: Make) -> None:
    camera = make("plc").camera
    for late_ns, fired in ((0, True), (1, False)):
        parts = SoftwareTriggered(camera, 100 * MS, camera.clock)
        parts.take([Count(1, "", camera.clock() - 100 * MS - late_ns, Asked())], camera.clock())
        camera.frames.append(None)
        began_ns = camera.clock()
        assert numbered(parts.next(Asked()))[2].startswith("no frame within 100 ms" if fired else "the trigger is 100 ms old")
        assert camera.clock() - began_ns == (100 * MS if fired else 0)


# ---- the sensor fires the camera, the PLC counts


def test_a_counted_part_gets_the_verdict_of_the_frame_that_the_sensor_fired(make: Make) -> None:
    bench = make("hardware")
    assert said(fire(bench, 1, 1)) == [good(1)]
    bench.inspectors[1].sees = "bad"
    assert said(fire(bench, 2, 2)) == [(2, "FAIL", "DEFECT")]
    assert bench.camera.fired == 0
    assert bench.audit().ok


def test_a_count_without_a_frame_is_a_missed_frame_and_the_next_part_gets_its_own(make: Make) -> None:
    bench = make("hardware")
    answers = [fire(bench, 1, 1), fire(bench, 2, None), fire(bench, 3, 2)]
    assert [said(answer) for answer in answers] == [[good(1)], [missed_frame(2)], [good(3)]]
    assert answers[2][0].inspection is not None
    assert answers[2][0].inspection.frame_id == 2


def test_a_frame_that_the_camera_lost_fails_the_part_that_was_counted_for_it(make: Make) -> None:
    bench = make("hardware")
    assert said(fire(bench, 1, 1)) == [good(1)]
    assert said(fire(bench, 2, None)) == [missed_frame(2)]
    assert said(fire(bench, 3, 3, missed=1)) == [good(3)]
    assert bench.line.state is State.CONTINUOUS_EXECUTION


def test_what_the_camera_lost_before_the_first_part_was_another_job_s(make: Make) -> None:
    bench = make("hardware")
    assert said(fire(bench, 1, 8, missed=5)) == [good(1)]
    assert said(fire(bench, 2, 9)) == [good(2)]


def test_a_part_without_a_frame_excuses_no_frame_that_is_lost_after_the_next_part_s(make: Make) -> None:
    bench = make("hardware")
    answers = [fire(bench, 1, 1), fire(bench, 2, None), fire(bench, 3, 2)]
    assert [said(answer) for answer in answers] == [[good(1)], [missed_frame(2)], [good(3)]]
    assert [result.verdict for result in fire(bench, 4, 4, missed=1)] == [Verdict.FAIL]
    assert set(bench.line.causes) == {ErrorCode.COUNT}


def test_a_frame_without_a_count_stops_the_line(make: Make) -> None:
    bench = make("hardware")
    fire(bench, 1, 1)
    shoot(bench, 2)
    assert bench.turn(50) == []
    assert (bench.line.state, set(bench.line.causes)) == (State.ERROR, {ErrorCode.COUNT})
    bench.say(Command.RESET)
    bench.turn(3)
    assert bench.line.state is State.READY


def test_a_lost_trigger_and_a_lost_frame_of_its_neighbour_stop_the_line(make: Make) -> None:
    bench = make("hardware")
    fire(bench, 1, 1)
    bench.plc.trigger = Trigger(2)  # its exposure never was; and the next part, which had one, was not counted
    bench.turn(19)
    shoot(bench, 2)
    results = bench.turn(50)
    assert all(result.verdict is Verdict.FAIL for result in results)
    assert bench.line.state is State.ERROR


def test_counts_that_were_skipped_on_the_wire_have_frames_too(make: Make) -> None:
    bench = make("hardware")
    shoot(bench, 1)
    shoot(bench, 2)
    bench.plc.trigger = Trigger(1)
    bench.turn()
    bench.plc.trigger = Trigger(3)
    shoot(bench, 3)
    assert said(bench.turn(50)) == [good(1), good(2), good(3)]


def test_between_two_inspected_parts_the_heartbeat_goes_on(make: Make) -> None:
    bench = make("hardware")
    bench.inspectors[1].takes_ns = 20 * MS
    bench.plc.trigger = Trigger(1)
    bench.turn()
    bench.plc.trigger = Trigger(4)
    for frame_id in range(1, 5):
        shoot(bench, frame_id)
    assert max(len(bench.turn()) for _ in range(50)) == 1
    assert bench.audit().parts == 4


def test_a_count_that_is_repeated_before_its_frame_came_is_one_part(make: Make) -> None:
    bench = make("hardware")
    bench.plc.trigger = Trigger(1)
    bench.turn()
    bench.plc.trigger = Trigger(2)
    bench.turn()
    bench.plc.trigger = Trigger(1)
    bench.turn()
    assert said(bench.turn(50)) == [missed_frame(1), missed_frame(2)]


def test_a_frame_with_a_flaw_fails_its_part_with_that_reason(make: Make) -> None:
    bench = make("hardware")
    (result,) = fire(bench, 1, 1, flaw="the frame is incomplete: half of its lines are missing")
    assert (result.reason, result.detail) == (Reason.MISSED_FRAME, "the frame is incomplete: half of its lines are missing")
    assert result.inspection is None


def test_a_part_that_was_counted_before_a_changeover_is_not_judged_by_the_new_recipe(make: Make) -> None:
    bench = make("hardware")
    bench.plc.trigger = Trigger(1)
    bench.turn()
    shoot(bench, 1)
    bench.line.command(Command.PREPARE_RECIPE, 2, lambda _code, _why: None)
    (result,) = bench.turn(50)
    assert (result.sequence, result.verdict, result.inspection) == (1, Verdict.FAIL, None)
    bench.say(Command.PREPARE_RECIPE, 2)
    assert said(fire(bench, 2, 2)) == [good(2)]


def test_what_is_counted_while_the_line_stands_fails_at_once_and_its_frame_is_forgotten(make: Make) -> None:
    bench = make("hardware")
    bench.say(Command.STOP)
    assert said(fire(bench, 1, 1)) == [(1, "FAIL", "NOT_RUNNING")]
    bench.say(Command.START_CONTINUOUS)
    assert said(fire(bench, 2, 2)) == [good(2)]
    assert bench.line.state is State.CONTINUOUS_EXECUTION


def test_what_waits_for_a_frame_when_the_line_stops_fails(make: Make) -> None:
    bench = make("hardware")
    bench.plc.trigger = Trigger(1)
    assert bench.turn(2) == []
    bench.camera.state = CameraState.LOST
    assert said(bench.turn(3)) == [(1, "FAIL", "NOT_RUNNING")]


# ---- nobody counts


def test_frames_are_numbered_from_one_at_each_start(make: Make) -> None:
    bench = make("free")
    for frame_id in (7, 8):
        shoot(bench, frame_id)
        assert said(bench.turn(2)) == [good(frame_id - 6)]
    bench.say(Command.STOP)
    shoot(bench, 9)
    assert bench.turn(2) == []
    bench.say(Command.START_CONTINUOUS)
    shoot(bench, 10)
    assert said(bench.turn(2)) == [good(1)]
    assert bench.audit().ok


def test_a_frame_that_the_camera_lost_has_a_number_and_fails(make: Make) -> None:
    bench = make("free")
    shoot(bench, 7)
    bench.turn()
    shoot(bench, 10, missed=2)
    assert said(bench.turn()) == [missed_frame(2), missed_frame(3), good(4)]


def test_a_frame_from_before_a_changeover_has_a_number_and_fails_and_shifts_none(make: Make) -> None:
    bench = make("free")
    shoot(bench, 1)
    assert said(bench.turn()) == [good(1)]
    before = Frame(np.zeros((8, 8), np.uint8), "Mono8", 2, 0, bench.clock.now_ns)
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.camera.frames.append(before)
    (result,) = bench.turn()
    assert (result.sequence, result.verdict, result.reason) == (2, Verdict.FAIL, Reason.MISSED_FRAME)
    shoot(bench, 3)
    assert said(bench.turn()) == [good(3)]
    assert bench.audit().ok


def test_a_frame_with_a_flaw_has_a_number_and_fails(make: Make) -> None:
    bench = make("free")
    shoot(bench, 7, flaw="the frame is frozen")
    assert said(bench.turn()) == [missed_frame(1)]


def test_the_plc_s_trigger_register_means_nothing_when_nobody_counts(make: Make) -> None:
    bench = make("free")
    bench.plc.trigger = Trigger(3)
    assert bench.turn(3) == []
    shoot(bench, 1)
    assert said(bench.turn()) == [good(1)]


def test_a_frame_from_before_the_changeover_is_not_judged_by_the_new_recipe(make: Make) -> None:
    bench = make("free")
    before_ns = bench.clock.now_ns
    bench.line.command(Command.PREPARE_RECIPE, 2, lambda _code, _why: None)
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 1, 0, before_ns))
    (result,) = bench.turn(5)
    assert (result.verdict, result.reason, result.inspection) == (Verdict.FAIL, Reason.WRONG_RECIPE, None)


def test_why_a_part_had_no_frame_is_not_forgotten_when_the_line_stops_before_it_is_answered(make: Make) -> None:
    bench = make("free")
    clock, frames = bench.clock, bench.camera.frames
    numbering = Numbering(1)
    free = FreeRunning(bench.camera, numbering)
    frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 3, 1, clock.now_ns))
    assert numbered(free.next(Asked())) == (2, None, "the camera lost the frame")
    frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 6, 2, clock.now_ns))
    assert numbered(free.next(Asked()))[0] == 3
    assert numbered(free.next(Asked())) == (4, None, "the camera lost the frame")
    assert [sequence for sequence in range(8) if free.awaits(sequence)] == [5, 6]
    free.stand()
    assert numbered(free.next(Asked())) == (5, None, "the camera lost the frame")
    assert numbered(free.next(Asked())) == (6, None, "the line stopped before it was looked at")
    assert free.next(Asked()) is None

    frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 8, 1, clock.now_ns))
    assert numbered(free.next(Asked())) == (7, None, "the camera lost the frame")
    free.change_over(clock.now_ns)
    assert numbered(free.next(Asked())) == (8, None, "the recipe was changed before it was looked at")
    frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 9, 0, clock.now_ns))
    assert numbered(free.next(Asked())) == (9, 9, "")

    counted = HardwareTriggered(bench.camera, Matching(100 * MS, 30 * MS), clock)
    counted.take([Count(1, "", clock.now_ns, Asked())], clock.now_ns)
    clock.now_ns += 200 * MS
    counted.take([], clock.now_ns)
    counted.stand([Count(2, "", clock.now_ns, Asked())])
    assert numbered(counted.next(Asked())) == (1, None, "no frame within 100 ms of the PLC's count")
    assert numbered(counted.next(Asked())) == (2, None, "")


def test_a_frame_that_nobody_counts_is_numbered_when_its_turn_comes(make: Make) -> None:
    bench = make("free")
    clock, camera = bench.clock, bench.camera
    free = FreeRunning(camera, Numbering(0))
    free.begin(clock.now_ns)
    for frame_id, captured_ns in ((1, clock.now_ns - 1), (2, clock.now_ns), (3, clock.now_ns + 7)):
        camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", frame_id, 0, captured_ns))
    camera.frames.append(CameraError("the cable is pulled"))
    matches = [free.next(Asked(number)) for number in range(4)]
    assert [match and (match.count.sequence, match.count.asked.number, match.count.heard_ns) for match in matches] == [
        None,
        (1, 1, clock.now_ns),
        (2, 2, clock.now_ns + 7),
        None,
    ]


def test_no_more_frames_are_taken_in_a_turn_than_a_camera_process_holds(make: Make) -> None:
    camera = make("hardware").camera
    for frame_id in range(MOST_FRAMES + 4):
        camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", frame_id, 0, camera.clock()))
    counted = HardwareTriggered(camera, Matching(100 * MS, 30 * MS), camera.clock)
    for left in (4, 0):
        counted.take([], camera.clock())
        assert len(camera.frames) == left


def numbered(match: Match | None) -> tuple[int, int | None, str]:
    assert match is not None
    return match.count.sequence, match.frame.frame_id if match.frame else None, match.detail


# ---- rejects in a row


def test_so_many_rejects_in_a_row_stop_the_line_until_a_reset(make: Make) -> None:
    bench = make("plc", rejects_in_a_row=3)
    bench.inspectors[1].sees = "bad"
    bench.part(1)
    bench.part(2)
    assert bench.line.state is State.CONTINUOUS_EXECUTION
    bench.part(3)
    assert (bench.line.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.REJECTS)
    bench.say(Command.RESET)
    bench.turn(3)
    bench.say(Command.START_CONTINUOUS)
    bench.part(4)
    assert bench.line.state is State.CONTINUOUS_EXECUTION


def test_a_good_part_between_begins_the_count_of_rejects_anew(make: Make) -> None:
    bench = make("plc", rejects_in_a_row=3)
    for sequence, sees in enumerate(("bad", "bad", "good", "bad", "bad"), 1):
        bench.inspectors[1].sees = sees
        bench.part(sequence)
    assert bench.line.state is State.CONTINUOUS_EXECUTION
