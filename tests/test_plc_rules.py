"""PLC.md's rules under any interleaving of triggers, repeats, commands, silence and garbage: 5,000 random steps from the PLC's side."""

import tempfile
from pathlib import Path
from typing import cast

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scripted_line import MS, Bench, ScriptedInspector

from drivers.camera import CameraState, Frame
from drivers.plc import Command, CommandStatus, ErrorCode, PlcCommand, PlcResult, StationSignals, Trigger
from station.answers import REPETITIONS
from station.inspection import Inspection, Reason, Result, Verdict
from station.inspector import Inspector
from station.sequence import MOST_MISSED
from station.state import EXECUTING, State

HEARTBEAT_NS = 1_500 * MS
EXAMPLES, STEPS = 50, 100


class WatchedInspector(ScriptedInspector):
    """Remembers what it saw in which frame."""

    def __init__(self, like: ScriptedInspector, seen: dict[int, list[tuple[int, str]]]) -> None:
        self.__dict__.update(like.__dict__)
        self._seen = seen

    def inspect(self, frame: Frame) -> Inspection:
        inspection = super().inspect(frame)
        self._seen.setdefault(frame.frame_id, []).append((self.recipe.number, self.sees))
        return inspection


class Rules(RuleBasedStateMachine):
    """The PLC's side. What it may conclude from the wire is checked after every turn."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of commits
        self.folder = tempfile.TemporaryDirectory(prefix="station-rules-", dir=memory)
        self.bench = Bench(Path(self.folder.name))
        self.seen: dict[int, list[tuple[int, str]]] = {}
        self.bench.inspectors = {number: WatchedInspector(like, self.seen) for number, like in self.bench.inspectors.items()}
        self.results: list[Result] = []
        self.passes: set[tuple[int, int]] = set()
        self.standing: PlcResult | None = None
        self.judged: set[int] = set()
        self.answered: set[tuple[int, int, str]] = set()
        self.heard = self.checked = 0
        self.asked_anew = 0
        self.has_jumped = False
        self.before = StationSignals(1, 0, 0, 0, PlcResult(0, False, 0, 0, 0.0, 0, 0, (0, 0, 0, 0), 0, 0, 0), 0, CommandStatus.IDLE, 0, 0)
        self.starts: set[int] = set()
        self.turns(3)
        self.bench.say(Command.PREPARE_RECIPE, 1)
        self.bench.say(Command.START_CONTINUOUS)
        self.turns(1)

    def teardown(self) -> None:
        try:
            self.bench.plc.broken, self.bench.plc.acknowledges = False, True
            self.turns(3)
            for _ in range(5_000):
                if not self.bench.line.settled:
                    self.turns(1)
            assert self.bench.line.settled, "rule 6: all that waited was told and taken"
            audit = self.bench.audit()
            assert audit.duplicate == audit.unexplained == 0, audit.findings
            assert self.has_jumped or not audit.missing, audit.findings
        finally:
            self.bench.line.close()
            self.folder.cleanup()

    # ---- what the PLC and the world do

    def turns(self, times: int, milliseconds: int = 5) -> None:
        for _ in range(times):
            results = self.bench.turn(1, milliseconds)
            self.results += results
            self.passes |= {(result.sequence, result.recipe_number) for result in results if result.verdict is Verdict.PASS}
            self.look()

    def trigger(self, sequence: int, part_id: str = "") -> None:
        self.has_jumped |= sequence - self.bench.plc.trigger.sequence > MOST_MISSED  # what lies between belongs to nobody
        self.asked_anew = sequence  # outside a job a number that is asked for anew gets another answer
        self.bench.plc.trigger = Trigger(sequence, part_id)
        self.turns(2)

    @rule(sees=st.sampled_from(["good", "good", "bad"]))
    def the_next_part(self, sees: str) -> None:
        for inspector in self.bench.inspectors.values():
            inspector.sees = sees
        self.trigger(self.bench.plc.trigger.sequence % 65_535 + 1, f"P{len(self.results)}")

    @rule(missed=st.sampled_from([1, 1, 2, 3, MOST_MISSED, MOST_MISSED + 1, MOST_MISSED + 2]))
    def a_jump(self, missed: int) -> None:
        self.trigger((self.bench.plc.trigger.sequence + missed) % 65_535 + 1)

    @rule(back=st.integers(1, 5))
    def an_old_part_once_more(self, back: int) -> None:
        self.trigger(max(1, self.bench.plc.trigger.sequence - back))

    @rule(sequence=st.integers(0, 65_535))
    def any_number(self, sequence: int) -> None:
        self.trigger(sequence)

    @rule(code=st.sampled_from([*range(8), 99]), argument=st.integers(0, 3))
    def a_command(self, code: int, argument: int) -> None:
        self.bench.plc.command = PlcCommand(code, argument, self.bench.plc.command.sequence % 65_535 + 1)
        self.turns(3)

    @rule(number=st.sampled_from([1, 2]))
    def another_recipe_and_on(self, number: int) -> None:
        for code, argument in ((Command.RESET, 0), (Command.PREPARE_RECIPE, number), (Command.START_CONTINUOUS, 0)):
            self.a_command(code, argument)

    @rule()
    def a_command_is_taken_back(self) -> None:
        self.bench.plc.command = PlcCommand(0, 0, self.bench.plc.command.sequence)
        self.turns(1)

    @rule(milliseconds=st.integers(1, 900))
    def silence(self, milliseconds: int) -> None:
        self.bench.plc.broken = True
        self.turns(2, milliseconds)
        self.bench.plc.broken = False
        self.turns(1)

    @rule(beats=st.booleans(), milliseconds=st.integers(1, 1_000))
    def time_passes(self, beats: bool, milliseconds: int) -> None:
        self.bench.plc.beats = beats
        self.turns(2, milliseconds)
        self.bench.plc.beats = True

    @rule(heartbeat=st.integers(0, 65_535))
    def the_plc_restarts(self, heartbeat: int) -> None:
        self.bench.plc.heartbeat = heartbeat
        self.turns(1)

    @rule(acknowledges=st.booleans())
    def it_acknowledges_or_not(self, acknowledges: bool) -> None:
        self.bench.plc.acknowledges = acknowledges
        self.turns(2, 30)

    @rule()
    def the_camera_goes_and_comes_back(self) -> None:
        self.bench.camera.state = CameraState.LOST
        self.turns(2)
        self.bench.camera.state = CameraState.STREAMING
        self.turns(2)

    @rule(what=st.sampled_from(["none", "old", "flaw", "early"]))
    def a_frame_goes_wrong(self, what: str) -> None:
        pixels = np.zeros((8, 8), np.uint8)
        camera, now_ns = self.bench.camera, self.bench.clock.now_ns
        camera.frames.append(
            {
                "none": None,
                "old": Frame(pixels, "Mono8", 10_000 + camera.fired, 0, now_ns - 900 * MS),
                "flaw": Frame(pixels, "Mono8", 20_000 + camera.fired, 0, now_ns + 20 * MS, "it is incomplete"),
                "early": Frame(pixels, "Mono8", 30_000 + camera.fired, 0, now_ns + 900 * MS),
            }[what]
        )
        self.the_next_part("good")
        camera.frames.clear()

    @rule(milliseconds=st.sampled_from([0, 300, 700]))
    def the_network_is_slow(self, milliseconds: int) -> None:
        for inspector in self.bench.inspectors.values():
            inspector.takes_ns = milliseconds * MS

    @rule()
    def the_network_fails(self) -> None:
        for inspector in self.bench.inspectors.values():
            inspector.raises = RuntimeError("device lost")
        self.the_next_part("good")
        for inspector in self.bench.inspectors.values():
            inspector.raises = None

    @rule()
    def a_preparation_takes_long(self) -> None:
        self.bench.hold = True
        self.a_command(Command.PREPARE_RECIPE, 2)

    @precondition(lambda self: self.bench.hold)
    @rule()
    def the_preparation_ends(self) -> None:
        self.bench.hold = False
        if self.bench.held and not self.bench.held.done():
            self.bench.held.set_result(cast(Inspector, self.bench.inspectors[2]))
        self.turns(2)

    # ---- what must be true

    def look(self) -> None:
        """The exchanges since the last look."""
        for signals in self.bench.plc.heard[self.heard :]:
            assert 0 < (signals.heartbeat - self.before.heartbeat) % 65_536 <= 3, "rule 5: it counts every exchange, also the unheard ones"
            self.see_state(signals)
            self.see_result(signals)
            self.before = signals
        self.heard = len(self.bench.plc.heard)

    def see_state(self, signals: StationSignals) -> None:
        was, state = State(self.before.state), State(signals.state)
        if state is State.CONTINUOUS_EXECUTION and was is not state:
            standing = self.bench.plc.command
            assert standing.code == Command.START_CONTINUOUS, "rule 9: it runs on command only"
            assert standing.sequence == signals.command_echo not in self.starts, "rule 9: each command starts once"
            self.starts.add(standing.sequence)
        if state in (State.READY, *EXECUTING):
            assert signals.recipe_number, "rule 8: ready has a recipe"
        if state is State.READY:
            assert self.bench.camera.state is CameraState.STREAMING or not self.bench.line.hears, "rule 8: ready has a camera"
        if state is State.ERROR:
            assert signals.error_code, "an error has a number"

    def see_result(self, signals: StationSignals) -> None:
        result = signals.result
        if not result.sequence:
            assert not result.passed, "rule 1: nothing is a reject"
            self.standing = None
            return
        if self.standing and self.standing.sequence == result.sequence and result != self.standing:
            assert result.sequence == self.asked_anew, "rule 2: what stands does not change"
            assert not result.passed, "rule 1: and never from a reject to a PASS"
            self.asked_anew = 0
        self.standing = result
        if result.passed:
            assert (result.reason, result.recipe_number > 0) == (Reason.GOOD, True), "rule 4: a PASS names its recipe"
            assert (result.sequence, result.recipe_number) in self.passes, "a PASS is a part's that passed"

    @invariant()
    def no_part_passes_unless_it_was_inspected_whole_in_time_and_by_the_recipe_asked_for(self) -> None:
        for result in self.results[self.checked :]:
            self.one_answer(result)
            if result.verdict is Verdict.PASS:
                self.may_pass(result)
        self.checked = len(self.results)

    def one_answer(self, result: Result) -> None:
        """To every part of a job, and from every frame; what does not follow is answered anew once the numbers came round."""
        if result.inspection:
            assert result.inspection.frame_id not in self.judged, "no frame judges two parts"
            self.judged.add(result.inspection.frame_id)
        if result.job_id:
            part = (result.job_id, result.sequence, result.part_id)
            assert part not in self.answered or "does not follow" in result.detail, "rule 2: one verdict a part"
            self.answered.add(part)

    def may_pass(self, result: Result) -> None:
        assert result.inspection is not None
        assert self.seen[result.inspection.frame_id] == [(result.recipe_number, "good")], "seen once, and good"
        assert result.asked_recipe in (0, result.recipe_number)
        assert 0 <= result.judged_ns - result.inspection.captured_ns <= 500 * MS
        assert result.inspection.captured_ns >= result.triggered_ns
        assert result.inspection.frame_id < 10_000, "a frame with a flaw, from before or from the future"


def test_an_answer_that_is_not_acknowledged_is_told_again_three_times_and_then_is_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.plc.acknowledges = False
    bench.plc.trigger = Trigger(1)
    told = len(bench.plc.heard)
    bench.turn(100)
    assert bench.line.state is State.ERROR
    assert ErrorCode.NOT_ACKNOWLEDGED in bench.line.causes
    assert sum(signals.result.sequence == 1 for signals in bench.plc.heard[told:]) > REPETITIONS
    bench.line.close()


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
