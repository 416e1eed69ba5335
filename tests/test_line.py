"""The line turn by turn: a scripted PLC and camera at its ends, time as an argument, a real ledger."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scripted_line import MS, Bench, ScriptedPlc, recipe

from drivers.camera import CameraError, CameraState, Feature, Frame
from drivers.plc import Command, CommandStatus, ErrorCode, PlcCommand, PlcInput, StationSignals, Trigger
from station.changeover import LONGEST_NS
from station.inspection import Reason, Result, Verdict
from station.inspector import Inspector
from station.ledger import LedgerError
from station.line import SOFTWARE_TRIGGER, LineSettings
from station.state import State


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.line.close()


def test_the_station_starts_preoperational_and_not_ready(bench: Bench) -> None:
    assert bench.line.state is State.PREOPERATIONAL


def test_with_a_streaming_camera_it_initializes_by_itself(bench: Bench) -> None:
    bench.turn(3)
    assert bench.plc.last.state == State.INITIALIZED


def test_a_prepared_recipe_makes_it_ready_and_is_named_on_the_wire(bench: Bench) -> None:
    bench.turn(2)
    bench.say(Command.PREPARE_RECIPE, 1)
    told = bench.plc.last
    assert (told.state, told.recipe_number, told.command_status) == (State.READY, 1, CommandStatus.DONE)
    assert told.recipe_checksum == bench.inspectors[1].recipe.checksum
    assert bench.camera.started[-1] == {"Gain": 1.0, **SOFTWARE_TRIGGER}


def test_a_command_is_four_phase(bench: Bench) -> None:
    bench.turn(2)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 1)
    assert (bench.plc.last.command_echo, bench.plc.last.command_status) == (1, CommandStatus.EXECUTING)
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[1]))
    bench.turn(3)
    assert bench.plc.last.command_status is CommandStatus.DONE
    bench.plc.command = PlcCommand(0, 0, 1)
    bench.turn(2)
    assert (bench.plc.last.command_echo, bench.plc.last.command_status) == (1, CommandStatus.IDLE)


def test_a_command_that_stood_there_before_the_station_came_is_not_executed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plc=ScriptedPlc(command=PlcCommand(Command.PREPARE_RECIPE, 1, 9)))
    bench.turn(5)
    assert bench.plc.last.state == State.INITIALIZED


def test_a_good_part_is_answered_pass_under_its_number(bench: Bench) -> None:
    bench.run()
    result = bench.part(1, "A1")
    assert (result.verdict, result.reason, result.part_id) == (Verdict.PASS, Reason.GOOD, "A1")
    told = bench.plc.last.result
    assert (told.sequence, told.passed, told.recipe_number) == (1, True, 1)


def test_a_defective_part_is_answered_fail(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].sees = "bad"
    assert bench.part(1).reason is Reason.DEFECT
    assert bench.plc.last.failed_parts == 1


def test_the_row_is_in_the_ledger_before_the_plc_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    rows: list[int] = []
    exchange = bench.plc.exchange

    def look(signals: StationSignals) -> PlcInput:
        if signals.result.sequence == 1:
            row = bench.ledger.last()
            rows.append(row.sequence if row else 0)
        return exchange(signals)

    monkeypatch.setattr(bench.plc, "exchange", look)
    bench.part(1)
    assert set(rows) == {1}


def test_a_standing_trigger_is_inspected_once(bench: Bench) -> None:
    bench.run()
    bench.part(1)
    assert bench.turn(20) == []
    assert bench.camera.fired == 1


def test_a_part_asked_for_again_gets_the_same_answer_without_a_second_look(bench: Bench) -> None:
    bench.run()
    first = bench.part(1)
    bench.part(2)
    bench.inspectors[1].sees = "bad"
    bench.plc.trigger = Trigger(1)
    assert bench.turn(3) == []
    assert (bench.plc.last.result.sequence, bench.plc.last.result.passed) == (1, first.verdict is Verdict.PASS)
    assert bench.camera.fired == 2
    assert bench.part(3).sequence == 3


def test_parts_that_were_jumped_over_are_answered_fail_in_order(bench: Bench) -> None:
    bench.run()
    bench.part(1)
    bench.plc.trigger = Trigger(4)
    results = bench.turn(2)
    assert [(r.sequence, r.reason) for r in results] == [(2, Reason.MISSED_FRAME), (3, Reason.MISSED_FRAME), (4, Reason.GOOD)]
    bench.turn(10)
    assert [s.result.sequence for s in bench.plc.heard if s.result.sequence > 1][:1] == [2]
    assert bench.plc.last.result.sequence == 4


def test_a_part_that_does_not_follow_is_refused(bench: Bench) -> None:
    bench.run()
    bench.part(500)
    result = bench.part(200)
    assert (result.verdict, result.reason) == (Verdict.FAIL, Reason.MISSED_FRAME)
    assert "does not follow" in result.detail
    assert bench.camera.fired == 1


def test_numbers_come_round_from_65535_to_1(bench: Bench) -> None:
    bench.run()
    assert bench.part(65_535).reason is Reason.GOOD
    assert bench.part(1).reason is Reason.GOOD
    assert bench.audit().ok


def test_a_part_triggered_while_nothing_runs_is_answered_fail(bench: Bench) -> None:
    bench.turn(3)
    result = bench.part(1)
    assert (result.verdict, result.reason) == (Verdict.FAIL, Reason.NOT_RUNNING)
    assert bench.camera.fired == 0


def test_a_part_without_a_frame_in_its_window_is_a_missed_frame(bench: Bench) -> None:
    bench.run()
    bench.camera.frames.append(None)
    assert bench.part(1).reason is Reason.MISSED_FRAME


def test_a_frame_from_before_the_trigger_is_not_this_part_s(bench: Bench) -> None:
    bench.run()
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 9, 0, bench.clock() - 1))
    result = bench.part(1)
    assert (result.verdict, result.reason) == (Verdict.FAIL, Reason.MISSED_FRAME)
    assert "before the trigger" in result.detail


def test_a_late_verdict_fails(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].takes_ns = 501 * MS
    assert bench.part(1).reason is Reason.LATE


def test_a_camera_lost_under_a_part_fails_the_part_and_stops_the_line(bench: Bench) -> None:
    bench.run()
    bench.camera.frames.append(CameraError("the camera process died"))
    bench.plc.trigger = Trigger(1)
    results = bench.turn(2)
    assert results[0].reason is Reason.MISSED_FRAME
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.CAMERA)


def test_after_the_camera_s_return_it_is_ready_by_itself_and_runs_on_command_only(bench: Bench) -> None:
    bench.run()
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    assert bench.part(1).reason is Reason.NOT_RUNNING
    bench.camera.state = CameraState.STREAMING
    bench.turn(3)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.READY, ErrorCode.NONE)
    bench.say(Command.START_CONTINUOUS)
    assert bench.part(2).reason is Reason.GOOD


def test_a_site_that_says_so_runs_on_by_itself(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    bench.run()
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    bench.camera.state = CameraState.STREAMING
    bench.turn(3)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION


def test_it_does_not_run_on_by_itself_when_it_was_stopped_before(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    bench.run()
    bench.say(Command.STOP)
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    bench.camera.state = CameraState.STREAMING
    bench.turn(3)
    assert bench.plc.last.state == State.READY


def test_a_part_waits_for_a_camera_that_is_being_reconfigured(bench: Bench) -> None:
    bench.run()
    bench.camera.state = CameraState.OPENING
    bench.plc.trigger = Trigger(1)
    assert bench.turn(5) == []
    bench.camera.state = CameraState.STREAMING
    assert bench.turn(1)[0].reason is Reason.GOOD


def test_a_part_does_not_wait_longer_than_its_window(bench: Bench) -> None:
    bench.run()
    bench.camera.state = CameraState.OPENING
    bench.camera.frames.append(CameraError("does not stream"))
    bench.plc.trigger = Trigger(1)
    (result,) = bench.turn(30)
    assert result.reason is Reason.MISSED_FRAME


def test_a_picture_that_cannot_be_judged_fails_and_the_line_goes_on(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].raises = ValueError("pixel format YUV422_8 cannot be judged")
    assert bench.part(1).reason is Reason.INSPECTION_ERROR
    bench.inspectors[1].raises = None
    assert bench.part(2).reason is Reason.GOOD


def test_a_network_that_fails_on_its_device_stops_the_line_until_reset(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].raises = RuntimeError("CUDA error: device lost")
    assert bench.part(1).reason is Reason.INSPECTION_ERROR
    bench.turn(2)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.INSPECTION)
    bench.inspectors[1].raises = None
    bench.say(Command.RESET)
    bench.turn(3)
    assert bench.plc.last.state == State.READY


def test_a_plc_that_polls_has_been_told_nothing_before_it_reads(bench: Bench) -> None:
    bench.run()
    bench.plc.tells = False
    bench.plc.acknowledges = False
    bench.plc.trigger = Trigger(1)
    bench.turn(200)
    assert bench.line.state is State.CONTINUOUS_EXECUTION, "it was never told, and cannot have acknowledged"
    bench.plc.tells = True
    bench.turn(200)
    assert [*bench.line.causes] == [ErrorCode.NOT_ACKNOWLEDGED]


def test_an_answer_nobody_acknowledges_is_repeated_and_then_an_error(bench: Bench) -> None:
    bench.run()
    bench.plc.acknowledges = False
    bench.part(1)
    bench.turn(70)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    assert sum(s.result.sequence == 1 for s in bench.plc.heard) > 3
    bench.turn(30)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.NOT_ACKNOWLEDGED)
    bench.plc.acknowledges = True
    bench.turn(3)
    assert bench.plc.last.state == State.READY
    assert bench.audit().acknowledged == 1


def test_a_plc_whose_heartbeat_stands_still_while_the_line_runs_is_an_error(bench: Bench) -> None:
    bench.run()
    bench.plc.beats = False
    bench.turn(300)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    bench.turn(5)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.PLC_HEARTBEAT)
    bench.plc.beats = True
    bench.turn(3)
    assert bench.plc.last.state == State.READY


def test_the_station_s_own_heartbeat_moves_with_every_exchange(bench: Bench) -> None:
    bench.turn(5)
    beats = [signals.heartbeat for signals in bench.plc.heard]
    assert beats == list(range(beats[0], beats[0] + len(beats)))


def test_a_disturbed_telegram_is_no_error_and_a_cut_wire_is(bench: Bench) -> None:
    bench.run()
    bench.plc.broken = True
    bench.turn(50)
    bench.plc.broken = False
    bench.turn(2)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    bench.plc.broken = True
    bench.turn(120)
    assert bench.line.state is State.ERROR
    assert not bench.line.connected
    bench.plc.broken = False
    bench.turn(3)
    assert bench.plc.last.state == State.READY


def test_a_plc_that_starts_counting_again_while_the_line_runs_is_an_error(bench: Bench) -> None:
    bench.run()
    bench.part(5)
    bench.plc.trigger = Trigger(0)
    bench.turn(3)
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.PLC_RESTARTED)
    assert not bench.plc.last.result.passed


def test_a_part_that_cannot_be_kept_is_never_told_as_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()

    def full(*_: object) -> int:
        raise LedgerError("ledger.sqlite: the disk is full")

    monkeypatch.setattr(bench.ledger, "append", full)
    result = bench.part(1)
    assert result.verdict is Verdict.FAIL
    assert not any(signals.result.passed for signals in bench.plc.heard)
    assert ErrorCode.LEDGER in bench.line.causes or bench.plc.last.state != State.CONTINUOUS_EXECUTION


def test_a_changeover_in_a_running_line_swaps_between_two_parts(bench: Bench) -> None:
    bench.run(1)
    assert bench.part(1).recipe_number == 1
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    result = bench.part(2)
    assert (result.recipe_number, result.verdict) == (2, Verdict.PASS)
    assert bench.camera.started[-1]["Gain"] == 2.0


def test_while_another_recipe_is_asked_for_the_old_one_cannot_pass_a_part(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    result = bench.part(1)
    assert (result.recipe_number, result.asked_recipe, result.reason) == (1, 2, Reason.WRONG_RECIPE)


def test_a_refused_recipe_leaves_the_old_one_running(bench: Bench) -> None:
    bench.run(1)
    bench.say(Command.PREPARE_RECIPE, 77)
    told = bench.plc.last
    assert (told.command_status, told.error_code, told.recipe_number) == (CommandStatus.FAILED, ErrorCode.RECIPE_REFUSED, 1)
    assert bench.part(1).verdict is Verdict.PASS


def test_to_prepare_recipe_0_is_refused_at_once_and_asks_for_nothing(bench: Bench) -> None:
    bench.run()
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 0)
    told = bench.plc.last
    assert (told.command_status, told.error_code, told.recipe_number) == (CommandStatus.FAILED, ErrorCode.RECIPE_REFUSED, 1)
    assert bench.held is None
    assert bench.part(1).verdict is Verdict.PASS, "recipe 1 is still the one that was asked for"


def test_a_recipe_whose_features_the_camera_refuses_leaves_the_old_one_running(bench: Bench) -> None:
    bench.run(1)
    bench.inspectors[2].recipe = recipe(2, ExposureTime=1e9)
    bench.camera.refuses = "ExposureTime"
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.plc.last.command_status is CommandStatus.FAILED
    assert bench.camera.started[-1]["Gain"] == 1.0
    assert bench.part(1).recipe_number == 1


def test_a_recipe_asked_for_twice_is_not_taken_back_by_the_first_asking(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.hold = False
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.part(1).verdict is Verdict.PASS
    assert bench.plc.last.result.recipe_number == 2


def test_an_operator_s_recipe_that_the_plc_did_not_ask_for_passes_nothing(bench: Bench) -> None:
    bench.run(1)
    outcome: list[str] = []
    bench.line.command(Command.PREPARE_RECIPE, "2", lambda _code, why: outcome.append(why))
    bench.turn(4)
    assert outcome == [""]
    assert bench.part(1).reason is Reason.WRONG_RECIPE


def test_ready_is_low_while_a_recipe_is_prepared(bench: Bench) -> None:
    bench.turn(2)
    bench.say(Command.PREPARE_RECIPE, 1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.plc.last.state == State.INITIALIZED
    bench.say(Command.START_CONTINUOUS)
    assert bench.plc.last.error_code == ErrorCode.COMMAND_NOT_ALLOWED


def test_an_unknown_command_is_refused_with_its_code(bench: Bench) -> None:
    bench.turn(2)
    bench.plc.command = PlcCommand(99, 0, 1)
    bench.turn(3)
    assert (bench.plc.last.command_status, bench.plc.last.error_code) == (CommandStatus.FAILED, ErrorCode.COMMAND_UNKNOWN)


def test_after_a_restart_a_part_triggered_meanwhile_is_answered_fail(bench: Bench) -> None:
    bench.run()
    bench.part(1)
    bench.plc.trigger = Trigger(3)
    bench.line = bench.a_line()
    results = bench.turn(4)
    assert [(r.sequence, r.reason) for r in results] == [(2, Reason.NOT_RUNNING), (3, Reason.NOT_RUNNING)]
    assert bench.audit().ok


def test_after_a_restart_the_recipe_the_plc_had_asked_for_is_still_the_only_one_to_pass(bench: Bench) -> None:
    bench.run(2)
    bench.line = bench.a_line()
    bench.turn(5)
    assert bench.plc.last.state == State.READY
    assert bench.plc.last.recipe_number == 2
    assert bench.line.status()["asked_recipe"] == 2


def test_halt_stops_and_only_reset_leads_back(bench: Bench) -> None:
    bench.run()
    bench.say(Command.HALT)
    assert bench.plc.last.state == State.HALTED
    bench.say(Command.START_CONTINUOUS)
    assert bench.plc.last.state == State.HALTED
    bench.say(Command.RESET)
    bench.turn(3)
    assert bench.plc.last.state == State.READY


def test_every_part_of_a_long_run_has_one_row_and_one_acknowledgement(bench: Bench) -> None:
    bench.run()
    for sequence in range(1, 101):
        bench.inspectors[1].sees = "bad" if sequence % 12 == 0 else "good"
        bench.part(sequence)
    bench.turn(2)
    found = bench.audit()
    assert (found.parts, found.answered, found.acknowledged, found.ok) == (100, 100, 100, True)
    assert bench.plc.last.failed_parts == 8


def test_a_failing_command_does_not_disturb_the_parts(bench: Bench) -> None:
    bench.run()
    bench.say(Command.START_CONTINUOUS)
    assert bench.plc.last.error_code == ErrorCode.COMMAND_NOT_ALLOWED
    assert bench.part(1).verdict is Verdict.PASS
    assert replace(bench.plc.last.result, elapsed_ms=0).passed


# ---- found by reading the line with suspicion: each of these once let a PASS through, or stopped the line


def test_the_pass_of_the_job_before_does_not_stand_on_the_wire_when_the_next_begins(bench: Bench) -> None:
    bench.run()
    assert bench.part(1).verdict is Verdict.PASS
    bench.say(Command.STOP)
    bench.plc.trigger = Trigger(0)
    bench.turn(2)
    assert not bench.plc.last.result.passed
    bench.say(Command.START_CONTINUOUS)
    assert (bench.plc.last.state, bench.plc.last.result.sequence) == (State.CONTINUOUS_EXECUTION, 0)


def test_a_number_of_the_job_before_is_a_new_part_in_the_next(bench: Bench) -> None:
    bench.run()
    for sequence in (1, 2, 3):
        bench.part(sequence)
    bench.say(Command.STOP)
    bench.say(Command.START_CONTINUOUS)
    bench.inspectors[1].sees = "bad"
    result = bench.part(1)
    assert result.verdict is Verdict.FAIL
    assert not bench.plc.last.result.passed


def test_a_number_given_to_another_part_is_not_answered_with_the_old_verdict(bench: Bench) -> None:
    bench.run()
    for sequence in (1, 2, 3):
        bench.part(sequence, f"OLD{sequence}")
    heard = len(bench.plc.heard)
    bench.plc.trigger = Trigger(1, "NEW1")
    assert bench.turn(4) == []
    assert all(signals.result.sequence == 3 for signals in bench.plc.heard[heard:])


def test_a_part_answered_long_ago_gets_no_second_verdict_and_disturbs_no_other(bench: Bench) -> None:
    bench.run()
    for sequence in range(1, 301):
        bench.part(sequence)
    bench.plc.trigger = Trigger(10)
    assert bench.turn(4) == []
    assert bench.part(301).verdict is Verdict.PASS
    assert bench.audit().ok


def test_a_plc_that_was_restarted_while_the_line_ran_is_noticed_by_its_heartbeat(bench: Bench) -> None:
    bench.run()
    for sequence in (1, 2, 3, 4, 5):
        bench.part(sequence)
    bench.plc.heartbeat = 0
    bench.plc.trigger = Trigger(1)
    (result,) = bench.turn(3)
    assert (result.reason, bench.plc.last.error_code) == (Reason.NOT_RUNNING, ErrorCode.PLC_RESTARTED)


def test_a_heartbeat_that_wraps_early_stops_no_line(bench: Bench) -> None:
    bench.run()
    for sequence in range(1, 60):
        bench.plc.heartbeat = sequence * 40 % 256
        assert bench.part(sequence).verdict is Verdict.PASS
        if sequence > 10:
            bench.plc.trigger = Trigger(sequence - 1)
            assert bench.turn(3) == []
            bench.plc.trigger = Trigger(sequence)
            assert bench.turn(3) == []
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    assert bench.audit().ok


def test_an_old_number_after_the_heartbeat_was_set_is_a_new_part_of_a_restarted_plc(bench: Bench) -> None:
    bench.run()
    for sequence in (1, 2, 3):
        bench.part(sequence)
    bench.plc.heartbeat = 0
    assert bench.turn(3) == []
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    bench.plc.trigger = Trigger(2)
    (result,) = bench.turn(3)
    assert (result.verdict, result.reason, bench.plc.last.error_code) == (Verdict.FAIL, Reason.NOT_RUNNING, ErrorCode.PLC_RESTARTED)


def test_an_old_number_just_before_the_heartbeat_was_set_is_one_too(bench: Bench) -> None:
    bench.run()
    for sequence in (1, 2, 3):
        bench.part(sequence)
    bench.plc.trigger = Trigger(2, "ANOTHER")
    assert bench.turn(3) == []
    bench.plc.heartbeat = 0
    bench.turn(3)
    assert bench.plc.last.error_code == ErrorCode.PLC_RESTARTED


def test_the_recipe_of_the_start_is_prepared_again_after_the_camera_was_lost_meanwhile(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, prepare="1", resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    start = bench.camera.start

    def start_and_drop(features: Mapping[str, Feature]) -> None:
        start(features)
        if "Gain" in features:
            bench.camera.state = CameraState.LOST

    bench.camera.start = start_and_drop  # type: ignore[method-assign]
    bench.turn(40, 500)
    assert bench.line.state is not State.READY
    bench.camera.start = start  # type: ignore[method-assign]
    bench.camera.state = CameraState.STREAMING
    bench.turn(200, 100)
    assert bench.plc.last.recipe_number == 1
    assert bench.line.state is State.READY
    bench.line.close()


def test_a_heartbeat_that_only_toggles_is_alive(bench: Bench) -> None:
    bench.plc.beats = False
    bench.run()
    for turn in range(400):
        bench.plc.heartbeat = turn % 2
        bench.turn()
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION


def test_a_part_triggered_in_the_same_exchange_as_the_start_came_before_it(bench: Bench) -> None:
    bench.turn(3)
    bench.say(Command.PREPARE_RECIPE, 1)
    bench.plc.trigger = Trigger(1)
    bench.plc.command = PlcCommand(Command.START_CONTINUOUS, 0, 77)
    (result,) = bench.turn(3)
    assert (result.verdict, result.reason) == (Verdict.FAIL, Reason.NOT_RUNNING)


def test_a_part_triggered_while_the_wire_was_cut_is_not_looked_at_afterwards(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    bench.run()
    bench.part(1)
    bench.plc.broken = True
    bench.turn(120)
    bench.plc.trigger = Trigger(2)
    bench.plc.broken = False
    (result,) = bench.turn(4)
    assert result.reason is Reason.NOT_RUNNING
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION


def test_a_recipe_edited_behind_the_plc_s_back_passes_nothing(bench: Bench) -> None:
    bench.run(1)
    bench.inspectors[1].recipe = replace(bench.inspectors[1].recipe, hash="e" * 64)
    bench.line.command(Command.PREPARE_RECIPE, "1", lambda _code, _why: None)
    bench.turn(4)
    assert bench.part(1).reason is Reason.WRONG_RECIPE


def test_nothing_passes_while_the_same_recipe_is_prepared_again(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 1)
    assert bench.part(1).reason is Reason.WRONG_RECIPE
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[1]))
    bench.turn(4)
    assert bench.part(2).reason is Reason.GOOD


def test_what_was_asked_for_counts_from_the_trigger_not_from_the_verdict(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.camera.state = CameraState.OPENING
    bench.plc.trigger = Trigger(1)
    bench.turn(3)
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[2]))
    bench.turn(3)
    bench.camera.state = CameraState.STREAMING
    (result,) = bench.turn(3)
    assert (result.recipe_number, result.reason) == (2, Reason.WRONG_RECIPE)


def test_a_ledger_that_cannot_be_written_stops_the_line_before_the_next_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    monkeypatch.setattr(bench.ledger, "writable", lambda: False)
    assert bench.part(1).reason is Reason.NOT_RUNNING
    assert bench.plc.last.error_code == ErrorCode.LEDGER


def test_a_part_that_could_not_be_kept_is_in_the_ledger_when_the_disk_is_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    bench.part(1)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> int:
            raise LedgerError("the disk is full")

        full.setattr(bench.ledger, "append", refuse)
        assert bench.part(2).verdict is Verdict.FAIL
        assert bench.plc.last.state == State.ERROR
    bench.turn(3)
    assert bench.plc.last.state == State.READY
    kept = bench.ledger.last()
    assert kept is not None
    assert (kept.sequence, kept.verdict) == (2, "FAIL")


def test_what_the_plc_took_while_the_ledger_could_not_be_written_is_kept_before_what_it_takes_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    with monkeypatch.context() as locked:

        def refuse(*_: object) -> None:
            raise LedgerError("the ledger is locked")

        locked.setattr(bench.ledger, "acknowledge", refuse)
        locked.setattr(bench.ledger, "writable", lambda: False)
        bench.plc.trigger = Trigger(1)
        bench.turn(2)
        bench.plc.trigger = Trigger(2)
        bench.turn(2)
        assert bench.plc.last.result.sequence == 2
    bench.turn(3)
    audit = bench.audit()
    assert (audit.ok, audit.acknowledged) == (True, 2), audit.findings


def test_no_acknowledgement_is_kept_before_what_explains_the_answer_that_was_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    bench.plc.acknowledges = False
    bench.part(1)
    with monkeypatch.context() as locked:

        def refuse(*_: object) -> None:
            raise LedgerError("no event can be noted")

        locked.setattr(bench.ledger, "note", refuse)
        bench.say(Command.RESET)
        bench.plc.acknowledges = True
        bench.plc.trigger = Trigger(2)
        bench.turn(3)
    bench.turn(3)
    audit = bench.audit()
    assert (audit.ok, audit.acknowledged, audit.answered) == (True, 1, 2), audit.findings


def test_the_first_recipe_is_prepared_in_spite_of_an_interruption(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, prepare="1")
    bench = Bench(tmp_path, settings=settings, hold=True)
    bench.turn(3)
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    bench.camera.state, bench.hold = CameraState.STREAMING, False
    bench.turn(5)
    assert (bench.plc.last.state, bench.plc.last.recipe_number) == (State.READY, 1)


def test_one_bad_telegram_after_a_long_inspection_is_no_error(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].takes_ns = 450 * MS
    bench.plc.trigger = Trigger(1)
    bench.turn(1)
    bench.plc.broken = True
    bench.turn(1, milliseconds=150)
    bench.plc.broken = False
    bench.turn(2)
    assert (bench.plc.last.state, bench.plc.last.result.sequence) == (State.CONTINUOUS_EXECUTION, 1)


def test_an_acknowledgement_that_came_during_an_inspection_is_not_missed(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].takes_ns = 450 * MS
    for sequence in (1, 2, 3):
        bench.plc.trigger = Trigger(sequence)
        bench.turn(1)
    bench.turn(3)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    assert bench.audit().acknowledged == 3


def test_a_stop_in_error_keeps_the_line_from_running_on_by_itself(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    bench.run()
    bench.camera.state = CameraState.LOST
    bench.turn(2)
    bench.say(Command.STOP)
    bench.camera.state = CameraState.STREAMING
    bench.turn(4)
    assert bench.plc.last.state == State.READY


def test_a_second_fault_on_the_way_back_does_not_lose_the_resume(tmp_path: Path) -> None:
    settings = LineSettings(frame_window_ns=100 * MS, acknowledge_ns=100 * MS, heartbeat_ns=0, resume_automatically=True)
    bench = Bench(tmp_path, settings=settings)
    bench.run()
    for state in (CameraState.LOST, CameraState.OPENING, CameraState.LOST, CameraState.STREAMING):
        bench.camera.state = state
        bench.turn(2)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION


def test_a_refused_command_tells_its_own_code_and_takes_it_back_when_it_is_over(bench: Bench) -> None:
    bench.turn(3)
    bench.say(Command.STOP)
    assert bench.plc.last.error_code == ErrorCode.COMMAND_NOT_ALLOWED
    bench.plc.command = PlcCommand(0, 0, bench.plc.command.sequence)
    bench.turn(2)
    assert (bench.plc.last.command_status, bench.plc.last.error_code) == (CommandStatus.IDLE, ErrorCode.NONE)


def test_a_plc_whose_command_words_fall_to_zero_has_commanded_nothing(bench: Bench) -> None:
    bench.run()
    bench.plc.command = PlcCommand(0, 0, 0)
    bench.turn(3)
    assert (bench.plc.last.error_code, bench.plc.last.state) == (ErrorCode.NONE, State.CONTINUOUS_EXECUTION)


def test_a_trigger_that_does_not_follow_and_came_while_the_station_was_away_is_answered_fail(bench: Bench) -> None:
    bench.run()
    bench.part(500)
    bench.plc.trigger = Trigger(1)
    bench.line = bench.a_line()
    (result,) = bench.turn(4)
    assert (result.sequence, result.reason) == (1, Reason.NOT_RUNNING)


def test_a_recipe_that_is_never_ready_is_given_up(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    for _ in range(LONGEST_NS // 1_000_000_000 + 10):
        bench.turn(1, milliseconds=1000)
    assert bench.plc.last.command_status is CommandStatus.FAILED
    assert bench.part(1).recipe_number == 1


@pytest.mark.parametrize("heartbeat", [39_026, 20_000, 65_000])
def test_a_restarted_plc_is_noticed_from_every_heartbeat(bench: Bench, heartbeat: int) -> None:
    bench.plc.heartbeat = heartbeat
    bench.run()
    for sequence in (1, 2, 3, 4, 5):
        bench.part(sequence)
    bench.plc.heartbeat = 0
    bench.plc.trigger = Trigger(1)
    (result,) = bench.turn(3)
    assert (result.reason, bench.plc.last.error_code) == (Reason.NOT_RUNNING, ErrorCode.PLC_RESTARTED)


def test_a_pass_that_nobody_acknowledged_does_not_answer_a_part_of_the_next_job(bench: Bench) -> None:
    bench.run()
    bench.plc.acknowledges = False
    assert bench.part(1).verdict is Verdict.PASS
    bench.say(Command.STOP)
    bench.plc.trigger = Trigger(0)
    bench.turn(2)
    bench.say(Command.START_CONTINUOUS)
    assert (bench.plc.last.result.sequence, bench.plc.last.result.passed) == (0, False)
    bench.inspectors[1].sees = "bad"
    bench.part(1, "ANOTHER")
    assert not bench.plc.last.result.passed
    bench.plc.acknowledges = True
    bench.turn(3)
    assert bench.audit().ok, "the answer that was given up is explained"


def test_a_part_that_has_waited_longer_than_its_window_is_not_looked_at(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    bench.part(1)
    append = bench.ledger.append

    def slow(result: Result, created_ns: int) -> int:
        bench.clock.now_ns += 40 * MS
        return append(result, created_ns)

    monkeypatch.setattr(bench.ledger, "append", slow)
    bench.plc.trigger = Trigger(6)
    results = bench.turn(2)
    assert [result.reason for result in results] == [Reason.MISSED_FRAME] * 5
    assert "the part has gone" in results[-1].detail
    assert bench.camera.fired == 1


def test_a_part_heard_before_its_recipe_was_told_to_be_ready_does_not_pass(bench: Bench) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[2]))
    bench.turn(1)
    bench.plc.trigger = Trigger(1)
    results: list[Result] = []
    while not results:
        told_before = bench.plc.last.command_status
        results = bench.turn(1)
    assert results[0].verdict is Verdict.PASS or told_before is CommandStatus.EXECUTING
    assert results[0].reason in (Reason.GOOD, Reason.WRONG_RECIPE)


def test_a_camera_on_its_way_back_from_a_refused_recipe_is_no_error(bench: Bench) -> None:
    bench.run(1)
    bench.inspectors[2].recipe = recipe(2, ExposureTime=1e9)
    bench.camera.refuses = "ExposureTime"
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.camera.state = CameraState.ABSENT
    bench.turn(20)
    assert bench.plc.last.state == State.CONTINUOUS_EXECUTION
    bench.camera.state = CameraState.STREAMING
    assert bench.part(1).verdict is Verdict.PASS


def test_a_camera_with_a_64_bit_count_fits_into_the_ledger(bench: Bench) -> None:
    bench.run()
    bench.camera.frames.append(Frame(np.zeros((8, 8), np.uint8), "Mono8", 2**64 - 1, 0, bench.clock() + 100 * MS))
    bench.inspectors[1].takes_ns = 200 * MS
    assert bench.part(1).verdict is Verdict.PASS


def test_reset_gives_up_what_can_never_be_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()

    def refuse(*_: object) -> int:
        raise LedgerError("this row cannot be kept")

    with monkeypatch.context() as full:
        full.setattr(bench.ledger, "append", refuse)
        bench.part(1)
        bench.turn(5)
        assert bench.plc.last.error_code == ErrorCode.LEDGER
        bench.say(Command.RESET)
        bench.turn(3)
        assert bench.plc.last.state == State.READY


# --- an idle line


def test_a_network_is_kept_warm_while_no_part_comes(bench: Bench) -> None:
    bench.run()
    warmed_ns = bench.inspectors[1].warmed_ns
    warmed_ns.clear()
    bench.turn(30, milliseconds=100)
    assert 5 <= len(warmed_ns) <= 6
    assert not bench.inspectors[2].warmed_ns


def test_a_part_keeps_the_network_warm_too(bench: Bench) -> None:
    bench.run()
    warmed_ns = bench.inspectors[1].warmed_ns
    warmed_ns.clear()
    for sequence in range(1, 11):
        bench.part(sequence)
        bench.turn(milliseconds=200)
    assert not warmed_ns


def test_a_device_that_is_lost_while_no_part_comes_is_an_error_before_one_does(bench: Bench) -> None:
    bench.run()
    bench.inspectors[1].raises = RuntimeError("the GPU fell off the bus")
    bench.turn(10, milliseconds=100)
    assert bench.line.state is State.ERROR
    assert "fell off the bus" in bench.line.causes[ErrorCode.INSPECTION]
    assert len(bench.inspectors[1].warmed_ns) == 1
