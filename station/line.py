"""One turn of the loop: hear the PLC, answer every part that is due, tell the PLC. Straight line, one thread, no locks.

`Line` carries out commands and decides what stops it; how parts are counted, judged and told stands in rooms of their own, each with its
state. It is the same object in `station run` and `station replay`; what differs stands at its ends: the camera, the PLC, the clock and how
a recipe is prepared.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from drivers.camera import Camera, CameraError, CameraState, Feature, Frame
from drivers.plc import Command, CommandStatus, ErrorCode, Plc, PlcCommand, PlcError, PlcResult, StationSignals, crc16_modbus
from station.answers import Answers
from station.changeover import Changeover, Finish, Prepare
from station.condition import Condition
from station.counting import Counting, parts_of
from station.handshake import Asked, Handshake
from station.inspection import Result, Verdict
from station.inspector import Inspector
from station.judging import Judging
from station.ledger import Ledger
from station.matching import Match, MatchingError
from station.numbering import Numbering
from station.preparing import Preparing
from station.state import Event, State, after
from station.triggers import Triggers
from station.wire import Wire

__all__ = ["SOFTWARE_TRIGGER", "Counting", "Line", "LineSettings"]

SOFTWARE_TRIGGER: dict[str, Feature] = {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
"""What the site asks of the camera when the PLC triggers each part (`plc`)."""
ANSWERING_NS = 200_000_000
"""After so long a running line begins no other answer in the same turn: the heartbeat must go on (PLC.md, rule 5)."""

_EVENTS = {
    Command.START_CONTINUOUS: Event.START,
    Command.STOP: Event.STOP,
    Command.UNPREPARE_RECIPE: Event.UNPREPARE,
    Command.RESET: Event.RESET,
    Command.HALT: Event.HALT,
}
Answered = tuple[Result, Frame | None]
"""A part's answer, and its frame where there is one without a flaw."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """What this site has decided; all of it from station.yaml."""

    frame_window_ns: int
    acknowledge_ns: int
    heartbeat_ns: int
    """The PLC's heartbeat may stand still so long while the line runs; 0 is not watched."""
    prepare: str = ""
    """The recipe to prepare at start, unless the PLC has asked for one before."""
    counting: Counting = "plc"
    count_delay_ns: int = 0
    """With `hardware`: by how much later than the exposure the PLC's count can be read at the latest."""
    rejects_in_a_row: int = 0
    """After so many parts without PASS the line is stopped; 0 never is."""
    resume_automatically: bool = False
    site_features: dict[str, Feature] = field(default_factory=lambda: dict(SOFTWARE_TRIGGER))


class Line:
    """The line. Everything is called from one thread; a turn takes as long as one exchange, one frame window and one inspection."""

    def __init__(
        self,
        *,
        camera: Camera,
        plc: Plc,
        ledger: Ledger,
        prepare: Prepare,
        settings: LineSettings,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
    ) -> None:
        self._camera, self._ledger, self._settings, self._clock = camera, ledger, settings, clock
        self._condition = Condition(ledger, wall_clock)
        self._wire = Wire(plc, clock)
        self._handshake = Handshake(Asked.parse(ledger.noted("asked")))
        self._answers = Answers(settings.acknowledge_ns)
        self._numbering = Numbering(last.sequence if (last := ledger.last()) else 0)
        window_ns, delay_ns = settings.frame_window_ns, settings.count_delay_ns
        self._parts = parts_of(settings.counting, camera, self._numbering, clock, window_ns=window_ns, count_delay_ns=delay_ns)
        self._judging = Judging(
            self._condition,
            clock,
            job_id=int(ledger.noted("job") or 0),
            rejects_in_a_row=settings.rejects_in_a_row,
            is_simulated=camera.simulated or plc.simulated,
        )
        self._triggers = Triggers(self._numbering, self._parts, self._answers, self._judging, self._condition)
        self._changeover = Changeover(camera, prepare, settings.site_features)
        first = self._handshake.asked.number or settings.prepare
        self._preparing = Preparing(self._changeover, self._handshake, self._condition, clock, first)
        self._asked_told = self._handshake.asked
        self._taken_for: Inspector | None = None
        self._heartbeat = 0
        self._resumes = self._closed = False
        self._condition.note("started", "")
        self._guard(self._changeover.start_camera)

    # ---- one turn

    def step(self) -> tuple[Answered, ...]:
        """One turn: what was answered in it, oldest part first. When it returns the PLC was told of the oldest, unless the wire is down."""
        now_ns = self._clock()
        self._take_acknowledgement()
        self._watch(now_ns)
        self._guard(lambda: self._changeover.turn(self._camera.status(), now_ns))
        self._stop_on_causes()
        answered = self._take()
        self._stop_on_causes()
        self._advance()
        self._exchange()
        if not answered:
            self._judging.keep_warm(self._changeover.inspector)
        return tuple(answered)

    @property
    def state(self) -> State:
        """Where the line is."""
        return self._condition.state

    @property
    def causes(self) -> dict[ErrorCode, str]:
        """Why it is or must be stopped, in words by the wire's number."""
        return self._condition.causes

    @property
    def hears(self) -> bool:
        """True when the last exchange went well."""
        return self._wire.hears

    @property
    def connected(self) -> bool:
        """True once the PLC has seen the station's state, and until the wire counts as cut."""
        return self._wire.heard is not None

    @property
    def settled(self) -> bool:
        """True when every answer was acknowledged or given up."""
        return self._answers.settled()

    def command(self, command: Command, which: str | int, finish: Finish) -> None:
        """Executes an operator's or the PLC's command; `which` is the recipe's name or number for PREPARE_RECIPE, unused otherwise."""
        if command in (Command.STOP, Command.UNPREPARE_RECIPE, Command.RESET, Command.HALT):
            self._resumes = False
        event = Event.PREPARING if command is Command.PREPARE_RECIPE else _EVENTS.get(command)
        if event is None or after(self.state, event) is None:
            finish(ErrorCode.COMMAND_NOT_ALLOWED, f"{command.name} is not allowed in {self.state.words}")
            return
        if event is Event.PREPARING:
            self._preparing.begin(which, finish)
            return
        self._begin(event)
        self._condition.move(event)
        finish(ErrorCode.NONE, "")

    def close(self) -> None:
        """Leaves the outputs at reject and lets go of PLC, camera and ledger. Never raises; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._wire.close()
        self._condition.note("stopped", f"in {self.state.words}")
        self._camera.close()
        self._ledger.close()

    # ---- parts

    def _take(self) -> list[Answered]:
        """Commands before parts, so that a part of the same exchange sees what was asked; but what came with a start came before it."""
        if self._wire.heard is None:
            return []
        command = self._wire.heard.command
        starts = command.code == Command.START_CONTINUOUS
        if not starts:
            self._take_command(command)
        answered = [*self._take_parts(), *self._answer_due()]
        if starts:
            self._take_command(command)
        return answered

    def _take_parts(self) -> list[Answered]:
        """Hands over the parts that the PLC has newly asked for or counted. One that does not follow is answered at once."""
        if self._changeover.inspector is not self._taken_for:
            self._taken_for = self._changeover.inspector
            self._parts.change_over(self._clock())
        triggers = self._wire.triggers() if self._settings.counting != "free" else ()
        counts, strange = self._triggers.hear(triggers, self._wire.heard_ns, self._asked())
        answered = [self._answer(match) for match in strange]
        if not self._condition.executing:
            self._parts.stand(counts)
            return answered
        try:
            self._parts.take(counts, self._wire.begun_ns)
        except MatchingError as error:
            self._condition.fail(ErrorCode.COUNT, f"{error}; find out whose sensor or cable it was, then reset")
        return answered

    def _answer_due(self) -> list[Answered]:
        """Answers up to the first part that takes an inspection: the heartbeat goes on between two of them."""
        begun_ns = self._clock()
        answered: list[Answered] = []
        while (match := self._next_part()) is not None:
            answered.append(self._answer(match))
            if match.frame is not None or (self._condition.executing and self._clock() - begun_ns > ANSWERING_NS):
                break
        return answered

    def _next_part(self) -> Match | None:
        """A cause of error that came with the part before stops the line before this one."""
        self._stop_on_causes()
        if not self._condition.executing:
            self._parts.stand()
        return self._parts.next(self._asked())

    def _answer(self, match: Match) -> Answered:
        """Judges and commits, and only then queues the answer for the wire."""
        self._stop_on_causes()
        result, result_id = self._judging.answer(match, self._changeover.inspector)
        self._answers.add(result_id, result.part_id, told(result))
        return result, match.frame if match.frame is not None and not match.frame.flaw else None

    def _asked(self) -> Asked:
        """What the PLC has asked for; and what it was given for it, once it was told."""
        asked = self._handshake.asked
        return asked if asked == self._asked_told else Asked(asked.number)

    # ---- the PLC

    def _exchange(self) -> None:
        self._heartbeat = (self._heartbeat + 1) % 65_536
        try:
            self._wire.exchange(self._signals())
        except PlcError as error:
            self._triggers.drop_answers("the wire is cut")
            self._condition.fail(ErrorCode.WIRE, str(error))
        if self._wire.heard is None or not self._wire.hears:
            return
        self._condition.over(ErrorCode.WIRE)
        if self._wire.heard.told:
            self._asked_told = self._handshake.asked
            self._answers.told(self._wire.heard_ns)
        if not self._numbering.met:
            triggers = self._wire.heard.triggers
            self._numbering.meet(triggers[-1].sequence if triggers else 0)
            self._handshake.take(self._wire.heard.command)

    def _signals(self) -> StationSignals:
        recipe = self._changeover.inspector.recipe if self._changeover.inspector else None
        refused = self._handshake.status is CommandStatus.FAILED
        return StationSignals(
            state=self.state,
            heartbeat=self._heartbeat,
            recipe_number=recipe.number if recipe else 0,
            recipe_checksum=recipe.checksum if recipe else 0,
            result=self._answers.standing(),
            command_echo=self._handshake.echo,
            command_status=self._handshake.status,
            error_code=self._handshake.error_code if refused else min(self.causes, default=ErrorCode.NONE),
            failed_parts=self._judging.failed_parts,
        )

    def _take_acknowledgement(self) -> None:
        if self._wire.heard is None:
            return
        taken, result_id = self._answers.acknowledge(self._wire.heard.acknowledged)
        if taken and result_id is not None:
            self._condition.keep_acknowledged(result_id)
        if self._answers.settled():
            self._condition.over(ErrorCode.NOT_ACKNOWLEDGED)

    def _take_command(self, command: PlcCommand) -> None:
        if not self._handshake.take(command):
            return

        def finish(code: ErrorCode, why: str) -> None:
            self._handshake.finish(command.sequence, code)
            if code:
                self._condition.note("command refused", f"PLC command {command.code}: {why}")

        if command.code not in set(Command):
            finish(ErrorCode.COMMAND_UNKNOWN, f"there is no command {command.code}")
        elif command.code == Command.PREPARE_RECIPE and not command.argument:
            finish(ErrorCode.RECIPE_REFUSED, "0 is no recipe's number; UnprepareRecipe leaves none prepared")
        elif command.code == Command.PREPARE_RECIPE:
            self.command(Command.PREPARE_RECIPE, command.argument, self._preparing.asked_by_plc(command.argument, finish))
        else:
            self.command(Command(command.code), 0, finish)
            if command.code == Command.UNPREPARE_RECIPE and not self._handshake.error_code:
                self._preparing.released_by_plc()

    # ---- recipes and states

    def _begin(self, event: Event) -> None:
        """What an allowed command does before the state moves."""
        if event is Event.START:
            now_ns = self._clock()
            self._parts.begin(now_ns)
            self._wire.begin_to_watch(now_ns)
            self._triggers.drop_answers("the next job was started")
            self._answers.forget()
            self._judging.begin_job()
        elif event is Event.UNPREPARE:
            self._preparing.unprepare()
        elif event in (Event.RESET, Event.HALT):
            self._changeover.abandon(f"{event.value} was commanded")
            self._triggers.drop_answers(f"{event.value} was commanded")
            self._condition.reset()

    def _watch(self, now_ns: int) -> None:
        """Collects the causes of error and lets those go that are gone."""
        camera = self._camera.status()
        if camera.state in (CameraState.ABSENT, CameraState.LOST) and not self._changeover.configuring:
            self._condition.fail(ErrorCode.CAMERA, camera.detail)
        elif camera.state is CameraState.STREAMING:
            self._condition.over(ErrorCode.CAMERA)
        self._condition.watch_ledger()
        if self._answers.overdue(now_ns):
            sequence = self._answers.standing().sequence
            self._condition.fail(ErrorCode.NOT_ACKNOWLEDGED, f"the PLC does not acknowledge part {sequence}; reset when it listens again")
        if (restarted := self._wire.restarted()) and self._settings.heartbeat_ns:
            self._triggers.suspect(restarted)
        if self._condition.executing and 0 < self._settings.heartbeat_ns < self._wire.stands_still_ns:
            heartbeat = self._wire.heard.heartbeat if self._wire.heard else 0
            self._condition.fail(ErrorCode.PLC_HEARTBEAT, f"the PLC's heartbeat stands still at {heartbeat}; is its program running?")
        elif self._wire.stands_still_ns == 0:
            self._condition.over(ErrorCode.PLC_HEARTBEAT)

    def _stop_on_causes(self) -> None:
        """Any cause of error stops the line, before a part is taken and after."""
        if self.causes and self.state not in (State.ERROR, State.HALTED):
            self._resumes = self._resumes or self._condition.executing
            self._changeover.abandon(f"state Error: {'; '.join(self.causes.values())}")
            self._condition.move(Event.FAIL)

    def _advance(self) -> None:
        """Moves by itself as far as the camera and the prepared recipe allow, once no cause of error is left."""
        if self.causes:
            return
        streaming = self._camera.status().state is CameraState.STREAMING
        if self.state is State.ERROR:
            self._condition.move(Event.RESOLVE)
        if self.state is State.PREOPERATIONAL and streaming:
            self._condition.move(Event.INITIALIZE)
        if self.state is State.READY and self._changeover.busy:
            self._condition.move(Event.PREPARING)
        if self.state is State.INITIALIZED and streaming and not self._changeover.busy:
            if self._changeover.inspector:
                self._condition.move(Event.PREPARED)
            else:
                self._preparing.begin_first()
        if self.state is State.READY and self._resumes and self._settings.resume_automatically:
            self._resumes = False
            self.command(Command.START_CONTINUOUS, 0, lambda _code, _why: None)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except CameraError as error:
            self._condition.fail(ErrorCode.CAMERA, str(error))

    def wire(self) -> dict[str, Any]:
        """What the PLC is told now and what it said last, for `station plc watch`; plain data."""
        heard = asdict(self._wire.heard) if self._wire.heard else None
        return {"signals": asdict(self._signals()), "heard": heard, "hears": self.hears}

    def status(self) -> dict[str, Any]:
        """What `station status` shows of the line; plain data."""
        inspector = self._changeover.inspector
        camera = self._camera.status()
        return {
            "state": self.state.words,
            "causes": [f"{code.name.lower()}: {why}" for code, why in sorted(self.causes.items())],
            "recipe": inspector.recipe.name if inspector else None,
            "recipe_number": inspector.recipe.number if inspector else 0,
            "recipe_hash": inspector.recipe.hash if inspector else "",
            "engine": inspector.engine if inspector else "",
            "asked_recipe": self._handshake.asked.number,
            "job": self._judging.job_id,
            "last_part": self._numbering.last,
            "plc_connected": self.connected,
            "camera": {"state": camera.state.value, "detail": camera.detail, "model": camera.model, "serial_number": camera.serial_number}
            | {"delivered": camera.delivered, "missed": camera.missed, "incomplete": camera.incomplete, "frozen": camera.frozen}
            | {"reconnects": camera.reconnects, "temperature_c": camera.temperature_c},
        }


def told(result: Result) -> PlcResult:
    """What the PLC is told of a result; defects are largest first."""
    seen = result.inspection
    defects = seen.defects if seen else ()
    return PlcResult(
        sequence=result.sequence,
        passed=result.verdict is Verdict.PASS,
        reason=result.reason,
        class_index=seen.class_index if seen else 0,
        probability=seen.probability if seen else 0.0,
        defects=len(defects),
        defect_area_px=sum(defect.area_px for defect in defects),
        largest_defect_px=defects[0].box if defects else (0, 0, 0, 0),
        elapsed_ms=round(result.elapsed_ms),
        recipe_number=result.recipe_number,
        recipe_checksum=crc16_modbus(result.recipe_hash.encode("ascii")) if result.recipe_hash else 0,
        judged_ns=result.judged_ns,
    )
