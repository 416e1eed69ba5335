"""What was recorded is decided again, whatever it was: good, defective, late, missed, by the wrong recipe, or while nothing ran."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from scripted_line import MS, Bench, ScriptedInspector

from drivers.camera import Frame
from drivers.plc import Command, Trigger
from station.inspection import Reason, Result
from station.inspector import Inspector
from station.recipe import RecipeError
from station.recording import RecordedPart, Recorder, read
from station.replay import Rerun


class Recorded(Bench):
    """A bench whose parts go into a recording."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recorder = Recorder(self.folder / "run.mcap", {})

    def turn(self, times: int = 1, milliseconds: int = 5) -> list[Result]:
        results: list[Result] = []
        for _ in range(times):
            self.clock.now_ns += milliseconds * MS
            for result, frame in self.line.step():
                self.recorder.write(result, frame)
                results.append(result)
        return results

    def parts(self) -> list[RecordedPart]:
        self.recorder.close()
        return list(read(self.folder / "run.mcap"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(tmp_path)
    yield made
    made.line.close()


def rerun(bench: Recorded, parts: list[RecordedPart]) -> list[tuple[Reason, Reason]]:
    """Each part's reason then and now; also that verdict and recipe are the same."""

    def inspector_of(number: int) -> Inspector:
        if number not in bench.inspectors:
            raise RecipeError(f"no recipe {number}")
        return cast(Inspector, ScriptedInspector(bench.inspectors[number].recipe, bench.clock))

    reasons = []
    with closing(Rerun(inspector_of)) as again:
        for part in parts:
            result = again.answer(part)
            reasons.append((Reason(part.reason), result.reason))
            assert (result.sequence, result.verdict.value) == (part.sequence, part.verdict)
            assert (result.recipe_number, result.asked_recipe) == (
                part.recipe_number,
                part.asked_recipe,
            ) or part.reason == Reason.NOT_RUNNING
    return reasons


def assert_the_same(bench: Recorded, *expected: Reason) -> None:
    parts = bench.parts()
    assert [Reason(part.reason) for part in parts] == list(expected)
    assert rerun(bench, parts) == [(reason, reason) for reason in expected]


def test_good_parts_pass_again(bench: Recorded) -> None:
    bench.run()
    bench.part(1)
    bench.part(2)
    assert_the_same(bench, Reason.GOOD, Reason.GOOD)


def test_a_late_part_is_late_again_however_fast_this_machine_is(bench: Recorded) -> None:
    bench.run()
    bench.inspectors[1].takes_ns = 501 * MS
    bench.part(1)
    bench.inspectors[1].takes_ns = 499 * MS
    bench.part(2)
    assert_the_same(bench, Reason.LATE, Reason.GOOD)


def test_missed_frames_are_missed_again(bench: Recorded) -> None:
    bench.run()
    bench.part(1)
    bench.camera.frames.append(None)
    bench.part(2)
    bench.plc.trigger = Trigger(5)
    bench.turn(3)
    missed = Reason.MISSED_FRAME
    assert_the_same(bench, Reason.GOOD, missed, missed, missed, Reason.GOOD)


def test_parts_answered_while_nothing_ran_are_not_run_again(bench: Recorded) -> None:
    bench.turn(3)
    bench.part(1)
    bench.run()
    bench.part(2)
    bench.say(Command.STOP)
    bench.part(3)
    bench.say(Command.START_CONTINUOUS)
    bench.part(4)
    assert_the_same(bench, Reason.NOT_RUNNING, Reason.GOOD, Reason.NOT_RUNNING, Reason.GOOD)


def test_a_changeover_happens_again_where_it_happened(bench: Recorded) -> None:
    bench.run(1)
    bench.part(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.part(2)
    bench.part(3)
    assert bench.held
    bench.held.set_result(cast(Inspector, bench.inspectors[2]))
    bench.turn(3)
    bench.part(4)
    wrong = Reason.WRONG_RECIPE
    assert_the_same(bench, Reason.GOOD, wrong, wrong, Reason.GOOD)


def test_a_refused_recipe_is_refused_again(bench: Recorded) -> None:
    bench.run(1)
    bench.hold = True
    bench.say(Command.PREPARE_RECIPE, 2)
    bench.part(1)
    assert bench.held
    bench.held.set_exception(RecipeError("its weights are gone"))
    bench.turn(3)
    bench.part(2)
    assert_the_same(bench, Reason.WRONG_RECIPE, Reason.GOOD)


def test_an_operator_s_recipe_that_nobody_asked_for_is_wrong_again(bench: Recorded) -> None:
    bench.run(1)
    bench.line.command(Command.PREPARE_RECIPE, "2", lambda _code, _why: None)
    bench.turn(4)
    bench.part(1)
    bench.say(Command.PREPARE_RECIPE, 1)
    bench.part(2)
    assert_the_same(bench, Reason.WRONG_RECIPE, Reason.GOOD)


def test_a_recipe_that_no_plc_asked_for_judges_again(bench: Recorded) -> None:
    bench.turn(3)
    bench.line.command(Command.PREPARE_RECIPE, "2", lambda _code, _why: None)
    bench.turn(4)
    bench.say(Command.START_CONTINUOUS)
    bench.part(1)
    bench.part(2)
    assert_the_same(bench, Reason.GOOD, Reason.GOOD)


def test_numbers_that_come_round_are_the_same_parts_again(bench: Recorded) -> None:
    bench.run()
    for sequence in (65_534, 65_535, 1, 2):
        bench.part(sequence)
    assert_the_same(bench, *[Reason.GOOD] * 4)


def test_a_recording_with_holes_is_replayed_part_by_part(bench: Recorded) -> None:
    bench.run()
    for sequence in range(1, 300):
        bench.part(sequence)
    kept = bench.parts()[::37]
    assert rerun(bench, kept) == [(Reason.GOOD, Reason.GOOD)] * len(kept)


def test_a_network_that_sees_otherwise_now_is_told(bench: Recorded) -> None:
    bench.run()
    bench.inspectors[1].sees = "bad"
    bench.part(1)
    parts = [replace(part) for part in bench.parts()]

    def inspector_of(number: int) -> Inspector:
        return cast(Inspector, ScriptedInspector(bench.inspectors[number].recipe, bench.clock))

    with closing(Rerun(inspector_of)) as again:
        result = again.answer(parts[0])
    assert (parts[0].reason, result.reason) == (Reason.DEFECT, Reason.GOOD)
    assert isinstance(parts[0].frame, Frame)
