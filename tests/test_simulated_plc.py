"""The simulated PLC judges the station, so it is judged first, on a station that is nothing but registers and a clock of its own."""

import itertools
import struct
from collections.abc import Callable, Sequence

import pytest

from drivers.simulated.judge import Counts, HeartbeatWatch, Judge, Recipe
from drivers.simulated.plc import MOST_ATTEMPTS, RETRY_PAUSE_S, RETURN_TIMEOUT_S, Batch, PlcProgram

CHECKSUMS = {1: 0x1111, 2: 0x2222}


def test_a_heartbeat_is_alive_from_its_first_change_until_it_stands_still_too_long() -> None:
    watch = HeartbeatWatch(1.0)
    assert [(watch.see(count, now_s), watch.alive) for count, now_s in [(7, 0.0), (7, 0.5)]] == [(0, False)] * 2
    assert [(watch.see(count, now_s), watch.alive) for count, now_s in [(8, 0.6), (8, 1.6), (8, 1.7)]] == [(0, True), (0, True), (0, False)]
    assert (watch.see(9, 3.0), watch.alive) == (pytest.approx(2.4), True)


class Parts:
    """A conveyor of numbered parts that remembers the bins."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.bins: dict[str, bool] = {}
        self.arrived = True

    def present(self, batch: int) -> str | None:
        if not self.arrived:
            return None
        self.batches.append(batch)
        return f"PART-{len(self.batches)}"

    def sort(self, part_id: str, good: bool) -> None:
        self.bins[part_id] = good


class FakeStation:
    """A station as its registers show it: obeys every command and passes every part at once, unless a test says otherwise.

    Attributes:
        answer: what to write differently for a part (register to value), or None to say nothing.
        preparing_turns: how many turns PrepareRecipe takes.
        names_recipe: whether a prepared recipe is named in registers 3 and 4.
        idles: whether the status goes back to idle when the command is taken back.
        trigger: the last trigger that was seen.
    """

    def __init__(self) -> None:
        self.words = [0] * 24
        self.words[:2] = 1, 5
        self.answer: Callable[[int], dict[int, int] | None] = lambda _: {}
        self.preparing_turns = 1
        self.names_recipe = True
        self.idles = True
        self.silent = False
        self.part_ids: list[str] = []
        self.commands: list[tuple[int, int]] = []
        self._command_sequence = 0
        self.trigger = 0
        self._busy_turns = 0

    def turn(self, command: Sequence[int]) -> None:
        if self.silent:
            return
        self.words[2] = (self.words[2] + 1) % 65536
        self._obey(*command[1:4])
        if command[5] != self.trigger and self.words[1] == 8:
            self.trigger = command[5]
            self.part_ids.append(struct.pack(">8H", *command[6:]).rstrip(b"\0").decode())
            if (changes := self.answer(self.trigger)) is not None:
                self.write_answer(self.trigger, changes)

    def write_answer(self, sequence: int, changes: dict[int, int]) -> None:
        self.words[5:19] = [sequence, 0x5AA5, 1, 0, 9981, 0, 0, 0, 0, 0, 0, 12, *self.words[3:5]]
        self.words[23] = sequence
        for register, value in changes.items():
            self.words[register] = value

    def restart(self) -> None:
        """As after kill -9: everything forgotten, not running; the standing trigger is not taken for a new one."""
        self.words = [0] * 24
        self.words[:2] = 1, 5
        self.silent = False

    def _obey(self, code: int, argument: int, sequence: int) -> None:
        if code and sequence != self._command_sequence:
            self._command_sequence = sequence
            self.commands.append((code, argument))
            self.words[19:21] = sequence, 1
            self._busy_turns = self.preparing_turns if code == 1 else 1
        elif self.words[20] == 1:
            self._busy_turns -= 1
            if not self._busy_turns:
                self._finish(code, argument)
        elif not code and self.idles:
            self.words[20] = 0

    def _finish(self, code: int, argument: int) -> None:
        if code == 1 and argument not in CHECKSUMS:
            self.words[20:22] = 3, 21
            return
        if code == 1 and self.names_recipe:
            self.words[3:5] = argument, CHECKSUMS[argument]
        self.words[1] = {1: max(self.words[1], 6), 3: 8, 4: 6}[code]
        self.words[20] = 2


class Shift:
    """A program, its station and its parts, turned together on a clock of their own."""

    def __init__(self, *batches: Batch) -> None:
        self.station = FakeStation()
        self.parts = Parts()
        self.program = PlcProgram(batches, self.parts, deadline_ms=200, part_timeout_s=1.0)
        self.now_s = 100.0
        self.command = [0] * 14
        self.scans_a_turn = 1
        self._scans = 0

    @property
    def counts(self) -> Counts:
        return self.program.counts

    def turn(self) -> None:
        self.now_s += 0.01
        self._scans += 1
        if self._scans % self.scans_a_turn == 0:
            self.station.turn(self.command)
        self.command = self.program.scan(self.station.words, self.now_s)

    def turn_until(self, condition: Callable[[], object], limit_s: float = 60.0) -> None:
        until_s = self.now_s + limit_s
        while not condition():
            assert self.now_s < until_s, f"not within {limit_s} s: {self.counts}"
            self.turn()

    def finish(self, limit_s: float = 60.0) -> Counts:
        self.turn_until(lambda: self.program.finished, limit_s)
        return self.counts


def test_a_good_shift_passes_every_part_of_every_batch() -> None:
    shift = Shift(Batch(1, 10), Batch(2, 5))
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.triggers, counts.answered, counts.passed, counts.acknowledged) == (15, 15, 15, 15)
    assert (counts.rejected, counts.timeouts, counts.repeats, counts.recoveries) == (0, 0, 0, 0)
    assert counts.reasons == {"good": 15}
    assert counts.recipes == {1: 10, 2: 5}
    assert shift.parts.bins == {f"PART-{number}": True for number in range(1, 16)}
    assert shift.parts.batches == [0] * 10 + [1] * 5
    assert shift.station.part_ids == list(shift.parts.bins)
    assert max(counts.latencies_s) == pytest.approx(0.01)


def test_the_time_it_takes_to_show_a_picture_is_not_the_stations(monkeypatch: pytest.MonkeyPatch) -> None:
    shift = Shift(Batch(1, 5))
    present = shift.parts.present

    def slowly(batch: int) -> str | None:
        shift.now_s += 0.3
        return present(batch)

    monkeypatch.setattr(shift.parts, "present", slowly)
    assert max(shift.finish().latencies_s) == pytest.approx(0.01)


def test_the_plc_goes_on_scanning_while_no_part_has_arrived() -> None:
    shift = Shift(Batch(1, 2))
    shift.parts.arrived = False
    for _ in range(500):
        shift.turn()
    assert (shift.command[0], shift.counts.triggers) == (500, 0)
    shift.parts.arrived = True
    assert shift.finish().passed == 2


def test_a_changeover_stops_the_line_only_at_the_end() -> None:
    shift = Shift(Batch(1, 2), Batch(2, 2))
    shift.finish()
    assert shift.station.commands == [(1, 1), (3, 0), (1, 2), (4, 0)]
    assert shift.station.words[1] == 6


def test_a_command_is_taken_back_before_the_next_one() -> None:
    shift = Shift(Batch(1, 1))
    written = []
    while not shift.program.finished:
        shift.turn()
        written.append(tuple(shift.command[1:4]))
    assert [command for command, _ in itertools.groupby(written)] == [
        (0, 0, 0),
        (1, 1, 1),
        (0, 0, 1),
        (3, 0, 2),
        (0, 0, 2),
        (4, 0, 3),
        (0, 0, 3),
    ]


def test_the_plc_heartbeat_moves_with_every_scan_even_when_all_is_done() -> None:
    shift = Shift(Batch(1, 1))
    shift.finish()
    before = shift.command[0]
    for _ in range(5):
        shift.turn()
    assert shift.command[0] == before + 5


def test_the_plc_goes_on_from_the_numbers_that_it_finds() -> None:
    shift = Shift(Batch(1, 2))
    shift.station.write_answer(65534, {})
    shift.station.trigger = 65534
    shift.station.words[19] = 40
    shift.turn_until(lambda: shift.command[3] == 41)
    assert shift.command[4] == 65534
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.answered, shift.station.words[5], shift.command[4]) == (2, 1, 1)
    assert shift.command[3] == 43


def test_a_sequence_that_comes_round_again_is_a_new_part() -> None:
    judge = Judge(200)
    judge.meet()
    for reason in (2, 3):
        judge.trigger(7, Recipe(1, 0x1111))
        answer = [7, 0, reason, *[0] * 11]
        judge.see([1, 8, reason, 1, 0x1111, *answer, 0, 0, 0, 0, 7], 1.0)
        assert judge.verdict() is False
        judge.see([1, 8, reason, 1, 0x1111, *[0] * 19], 1.0)
    assert judge.counts.violations == []


def test_a_slow_station_that_never_says_idle_gets_every_command() -> None:
    shift = Shift(Batch(1, 2), Batch(2, 2))
    shift.station.idles = False
    shift.scans_a_turn = 5
    counts = shift.finish()
    assert shift.station.commands == [(1, 1), (3, 0), (1, 2), (4, 0)]
    assert (counts.violations, counts.recoveries, counts.passed) == ([], 0, 4)


def test_no_part_comes_before_the_station_names_the_recipe() -> None:
    shift = Shift(Batch(1, 2))
    shift.station.names_recipe = False
    counts = shift.finish()
    assert counts.triggers == 0
    assert counts.violations[0].startswith("gave up: state 6 or 8 did not come in time")


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        ({17: 2}, "passed by"),
        ({18: 0x2222}, "passed by"),
        ({7: 2}, "PASS for reason defect"),
        ({7: 9}, "for reason 9"),
        ({7: 0}, "for reason 0"),
        ({6: 0x0001}, "code word 0x0001"),
        ({6: 0}, "FAIL for reason good"),
        ({0: 2}, "wire version 2"),
        ({1: 4}, "unknown state 4"),
    ],
)
def test_an_answer_that_may_not_be_is_a_violation(changes: dict[int, int], violation: str) -> None:
    shift = Shift(Batch(1, 5))
    shift.station.answer = lambda sequence: changes if sequence == 3 else {}
    shift.turn_until(lambda: len(shift.parts.bins) == 3)
    assert any(violation in text for text in shift.counts.violations)


@pytest.mark.parametrize("changes", [{17: 2}, {18: 0x2222}, {6: 0x0001}, {6: 0x5AA4}, {6: 0, 7: 2}, {0: 2}])
def test_a_part_whose_answer_does_not_fit_is_a_reject(changes: dict[int, int]) -> None:
    shift = Shift(Batch(1, 5))
    shift.station.answer = lambda sequence: changes if sequence == 3 else {}
    shift.turn_until(lambda: len(shift.parts.bins) == 3)
    assert shift.parts.bins == {"PART-1": True, "PART-2": True, "PART-3": False}
    assert shift.command[4] == 3


def test_a_fail_is_a_reject_and_no_violation() -> None:
    shift = Shift(Batch(1, 4))
    shift.station.answer = lambda sequence: {6: 0, 7: 2 + sequence} if sequence < 4 else {}
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.passed, counts.rejected) == (1, 3)
    assert counts.reasons == {"uncertain": 1, "late": 1, "missed_frame": 1, "good": 1}


def test_a_torn_block_is_a_violation_and_no_answer() -> None:
    shift = Shift(Batch(1, 3))
    shift.station.answer = lambda sequence: {23: 1} if sequence == 2 else {}
    counts = shift.finish()
    assert counts.violations == ["torn: register 5 says 2, register 23 1"]
    assert (counts.passed, counts.rejected, counts.timeouts) == (2, 1, 1)


def test_silence_is_a_reject_and_the_line_goes_on() -> None:
    shift = Shift(Batch(1, 3))
    shift.station.answer = lambda sequence: None if sequence == 2 else {}
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.answered, counts.passed, counts.rejected, counts.timeouts) == (2, 2, 1, 1)
    assert shift.parts.bins["PART-2"] is False


def test_a_part_is_rejected_when_its_time_is_over() -> None:
    shift = Shift(Batch(1, 1))
    shift.station.answer = lambda _: None
    shift.turn_until(lambda: shift.counts.triggers)
    began_s = shift.now_s
    shift.turn_until(lambda: shift.parts.bins)
    assert shift.now_s - began_s == pytest.approx(1.0, abs=0.03)


def test_an_answer_that_comes_too_late_is_taken_and_changes_nothing() -> None:
    shift = Shift(Batch(1, 3))
    shift.station.answer = lambda sequence: None if sequence == 1 else {}
    shift.turn_until(lambda: shift.counts.timeouts)
    shift.station.write_answer(1, {})
    shift.turn()
    assert shift.command[4] == 1
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.answered, counts.acknowledged, counts.passed, counts.rejected) == (2, 3, 2, 1)
    assert shift.parts.bins["PART-1"] is False


def test_an_answer_that_changes_after_it_was_taken_is_a_violation() -> None:
    shift = Shift(Batch(1, 2))
    shift.turn_until(lambda: shift.command[4] == 1)
    shift.station.words[6:8] = 0, 2
    shift.turn()
    assert shift.counts.violations == ["the answer to 1 changed after it was acknowledged"]
    assert shift.parts.bins["PART-1"] is True


def test_an_answer_that_comes_again_is_acknowledged_again() -> None:
    shift = Shift(Batch(1, 3))
    shift.turn_until(lambda: shift.command[4] == 1)
    first = shift.station.words[5:19]
    shift.turn_until(lambda: shift.command[4] == 2)
    shift.station.words[5:19], shift.station.words[23] = first, 1
    shift.turn()
    assert (shift.command[4], shift.counts.repeats, shift.counts.violations) == (1, 1, [])


def test_an_answer_that_nobody_asked_for_is_a_violation() -> None:
    shift = Shift(Batch(1, 3))
    shift.turn_until(lambda: shift.command[4] == 1)
    shift.station.write_answer(9, {})
    shift.turn()
    assert shift.counts.violations == ["an answer to 9, which was never triggered"]


def test_a_heartbeat_that_stands_still_while_the_station_says_running_is_a_violation() -> None:
    shift = Shift(Batch(1, 3))
    shift.turn_until(lambda: shift.counts.answered == 1)
    shift.station.silent = True
    shift.turn_until(lambda: shift.counts.timeouts)
    shift.station.silent = False
    counts = shift.finish()
    assert len(counts.violations) == 1
    assert "the heartbeat stood still for" in counts.violations[0]
    assert (counts.triggers, counts.passed, counts.rejected) == (3, 2, 1)


def test_a_pass_of_a_station_without_heartbeat_is_a_reject() -> None:
    shift = Shift(Batch(1, 2))
    shift.turn_until(lambda: shift.counts.answered == 1)
    shift.station.answer = lambda _: None
    shift.turn_until(lambda: shift.counts.triggers == 2)
    shift.station.silent = True
    for _ in range(80):
        shift.turn()
    shift.station.write_answer(2, {})
    shift.turn_until(lambda: len(shift.parts.bins) == 2)
    assert shift.parts.bins["PART-2"] is False
    assert shift.counts.timeouts == 0


def test_a_station_that_was_killed_costs_the_part_in_flight() -> None:
    shift = Shift(Batch(1, 4))
    shift.turn_until(lambda: shift.counts.answered == 1)
    shift.station.answer = lambda _: None
    shift.turn_until(lambda: shift.counts.triggers == 2)
    shift.station.silent = True
    shift.turn_until(lambda: shift.counts.timeouts)
    for _ in range(500):
        shift.turn()
    shift.station.restart()
    shift.station.answer = lambda _: {}
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.triggers, counts.passed, counts.timeouts, counts.recoveries) == (4, 3, 1, 1)
    assert shift.parts.bins["PART-2"] is False
    assert shift.station.commands == [(1, 1), (3, 0), (1, 1), (3, 0), (4, 0)]


@pytest.mark.parametrize("state", [1, 3, 5, 6])
def test_a_station_that_leaves_its_state_is_prepared_and_started_again(state: int) -> None:
    shift = Shift(Batch(1, 3))
    shift.turn_until(lambda: shift.counts.answered == 1)
    shift.station.words[1] = state
    shift.turn_until(lambda: shift.counts.recoveries)
    shift.station.words[1] = 5
    counts = shift.finish()
    assert counts.violations == []
    assert counts.passed + counts.timeouts == 3


def test_a_station_that_falls_silent_in_a_command_is_not_waited_for_to_the_end() -> None:
    shift = Shift(Batch(1, 2))
    shift.station.preparing_turns = 1000
    shift.turn_until(lambda: shift.station.commands)
    shift.station.silent = True
    shift.turn_until(lambda: shift.counts.recoveries, limit_s=1.0)
    shift.station.restart()
    shift.station.preparing_turns = 1
    counts = shift.finish()
    assert (counts.violations, counts.passed) == ([], 2)


def test_losses_with_answered_parts_in_between_are_never_too_many() -> None:
    shift = Shift(Batch(1, 3 * MOST_ATTEMPTS))
    for _ in range(2 * MOST_ATTEMPTS):
        answered = shift.counts.answered
        shift.turn_until(lambda answered=answered: shift.counts.answered > answered)
        shift.station.words[1] = 5
    counts = shift.finish()
    assert counts.violations == []
    assert (counts.triggers, counts.recoveries) == (3 * MOST_ATTEMPTS, 2 * MOST_ATTEMPTS)


def test_a_recipe_that_cannot_be_prepared_is_given_up() -> None:
    shift = Shift(Batch(3, 1))
    began_s = shift.now_s
    counts = shift.finish()
    assert counts.triggers == 0
    assert len(shift.station.commands) == MOST_ATTEMPTS + 1
    assert shift.now_s - began_s > MOST_ATTEMPTS * RETRY_PAUSE_S
    assert counts.violations[0].startswith("gave up: PrepareRecipe(3) failed with error 21")


def test_a_station_that_never_comes_is_given_up() -> None:
    shift = Shift(Batch(1, 1))
    shift.station.silent = True
    counts = shift.finish(RETURN_TIMEOUT_S + 1)
    assert counts.violations[0].startswith("gave up: no usable station")


def test_a_line_that_keeps_running_feeds_the_old_product_until_the_recipe_is_there() -> None:
    shift = Shift(Batch(1, 3), Batch(2, 3, keep_running=True))
    shift.station.preparing_turns = 50
    counts = shift.finish()
    old = counts.triggers - 6
    assert old > 3
    assert shift.parts.batches == [0] * (3 + old) + [1] * 3
    assert counts.violations == []
    assert counts.passed == counts.triggers


def test_a_station_lost_while_the_old_product_is_fed_is_prepared_again() -> None:
    shift = Shift(Batch(1, 3), Batch(2, 3, keep_running=True))
    shift.station.preparing_turns = 50
    shift.turn_until(lambda: shift.counts.answered == 5)
    shift.station.silent = True
    shift.turn_until(lambda: shift.counts.recoveries)
    shift.station.restart()
    counts = shift.finish()
    assert counts.violations == []
    assert counts.recoveries == 1
    assert counts.passed + counts.timeouts == counts.triggers == len(shift.parts.bins)
    assert shift.station.commands == [(1, 1), (3, 0), (1, 2), (1, 2), (3, 0), (4, 0)]


def test_an_old_part_that_passes_by_the_new_recipe_is_a_reject_and_no_violation() -> None:
    shift = Shift(Batch(1, 3), Batch(2, 3, keep_running=True))
    shift.station.preparing_turns = 50
    shift.station.answer = lambda _: {17: 2, 18: 0x2222} if shift.command[2] == 2 else {}
    counts = shift.finish()
    assert counts.violations == []
    assert counts.passed == 6
    assert counts.rejected == counts.triggers - 6 > 3


def test_a_new_part_that_passes_by_the_old_recipe_is_a_violation_and_a_reject() -> None:
    shift = Shift(Batch(1, 1), Batch(2, 1))
    shift.station.answer = lambda sequence: {17: 1, 18: 0x1111} if sequence == 2 else {}
    counts = shift.finish()
    assert shift.parts.bins == {"PART-1": True, "PART-2": False}
    assert len(counts.violations) == 1
    assert "Recipe(number=1, checksum=4369), not by Recipe(number=2, checksum=8738)" in counts.violations[0]
