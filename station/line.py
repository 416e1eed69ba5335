"""One turn of the loop: hear the PLC, answer every part that is due, tell the PLC. Straight line, one thread, no locks.

`Line` owns the station's state, the part numbers and the causes of error. It is the same object in `station run` and `station replay`;
what differs stands at its ends: the camera, the PLC, the clock and how a recipe is prepared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from drivers.camera import Camera, CameraError, CameraState, CameraStatus, Feature, Frame
from drivers.plc import (
    Command,
    CommandStatus,
    ErrorCode,
    Plc,
    PlcCommand,
    PlcError,
    PlcInput,
    PlcResult,
    StationSignals,
    Trigger,
    crc16_modbus,
)
from station.answers import Answers
from station.changeover import Changeover, Prepare
from station.failsafe import Gate, Part
from station.inspection import Inspection, Result, Verdict
from station.ledger import Ledger, LedgerError
from station.sequence import due
from station.state import EXECUTING, Event, State, after

SOFTWARE_TRIGGER: dict[str, Feature] = {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
"""What the site asks of the camera when the PLC triggers each part (PLC.md, rule 10, `trigger: plc`)."""
WIRE_PATIENCE_NS = 500_000_000
"""So long may exchanges fail, as noise makes them, before the wire counts as cut."""

_log = structlog.get_logger()
_EVENTS = {
    Command.START_CONTINUOUS: Event.START,
    Command.STOP: Event.STOP,
    Command.UNPREPARE_RECIPE: Event.UNPREPARE,
    Command.RESET: Event.RESET,
    Command.HALT: Event.HALT,
}
Finish = Callable[[ErrorCode, str], None]
"""Called once with how a command ended: NONE and "", or why it failed, by number and in words."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """What this site has decided; all of it from station.yaml."""

    frame_window_ns: int
    acknowledge_ns: int
    heartbeat_ns: int
    """The PLC's heartbeat may stand still so long while the line runs; 0 is not watched."""
    prepare: str = ""
    """The recipe to prepare at start, unless the PLC has asked for one before."""
    resume_automatically: bool = False
    site_features: dict[str, Feature] = field(default_factory=lambda: dict(SOFTWARE_TRIGGER))


class Line:
    """The line. Everything is called from one thread; nothing blocks longer than one frame window and one inspection."""

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
        self.state = State.PREOPERATIONAL
        self.causes: dict[ErrorCode, str] = {}
        self._camera, self._plc, self._ledger = camera, plc, ledger
        self._settings, self._clock, self._wall_clock = settings, clock, wall_clock
        self._gate = Gate()
        self._changeover = Changeover(camera, prepare, settings.site_features)
        self._answers = Answers(settings.acknowledge_ns)
        self._heard: PlcInput | None = None
        self._heard_ns = clock()
        self._beat = (-1, clock())
        self._heartbeat = 0
        self._command_sequence: int | None = None
        self._command_echo = 0
        self._command_status = CommandStatus.IDLE
        self._error_code = ErrorCode.NONE
        self._was_executing = False
        self._first_seen: tuple[int, int] | None = None
        self._standing_trigger = 0
        self._failed_parts = 0
        last = ledger.last()
        self._last_sequence = last.sequence if last else 0
        self._job_id = ledger.newest_job()
        self._asked_recipe = int(ledger.noted("asked") or 0)
        self._granted_recipe = self._asked_recipe
        self._asking = object()
        self._first_recipe: str | int = self._asked_recipe or settings.prepare
        self._note("started", "")
        self._guard(self._changeover.start_camera)

    # ---- one turn

    def step(self) -> tuple[tuple[Result, Frame | None], ...]:
        """One turn: what was answered in it, oldest part first. The PLC has been told, or the wire is down, when it returns."""
        now_ns = self._clock()
        camera = self._camera.status()
        self._watch(camera, now_ns)
        self._guard(lambda: self._changeover.turn(camera))
        answered: list[tuple[Result, Frame | None]] = []
        if (heard := self._heard) is not None:
            self._take_acknowledgement(heard.acknowledged)
            self._take_command(heard.command)
            self._settle(camera)
            for trigger in heard.triggers:
                answered += self._take_trigger(trigger, camera, now_ns)
        self._settle(camera)
        self._exchange()
        return tuple(answered)

    @property
    def connected(self) -> bool:
        """True once the PLC has seen the station's state, and while it goes on to."""
        return self._heard is not None

    @property
    def settled(self) -> bool:
        """True when every answer was acknowledged or given up."""
        return self._answers.settled()

    def command(self, command: Command, which: str | int, finish: Finish) -> None:
        """Executes an operator's or the PLC's command; `which` is the recipe's name or number for PREPARE_RECIPE, unused otherwise."""
        if command is Command.PREPARE_RECIPE:
            if self.state in (State.INITIALIZED, State.READY, *EXECUTING):
                self._prepare(which, finish)
            else:
                finish(ErrorCode.COMMAND_NOT_ALLOWED, f"PrepareRecipe is not allowed in {self.state.words}")
            return
        event = _EVENTS.get(command)
        new = after(self.state, event) if event else None
        if event is None or new is None:
            finish(ErrorCode.COMMAND_NOT_ALLOWED, f"{command.name} is not allowed in {self.state.words}")
            return
        self._begin(event)
        self._move(new)
        finish(ErrorCode.NONE, "")

    def close(self) -> None:
        """Leaves the outputs at reject and lets go of camera, PLC and ledger. Never raises."""
        self._note("stopped", f"in {self.state.words}")
        self._plc.close()
        self._camera.close()
        self._ledger.close()

    # ---- parts

    def _take_trigger(self, trigger: Trigger, camera: CameraStatus, now_ns: int) -> list[tuple[Result, Frame | None]]:
        sequence = trigger.sequence
        if sequence == self._standing_trigger:
            return []
        if self._first_seen is None or self._first_seen[0] != sequence:
            self._first_seen = (sequence, now_ns)
        triggered_ns = self._first_seen[1]
        waited_ns = now_ns - triggered_ns
        if self.state in EXECUTING and camera.state is CameraState.OPENING and waited_ns < self._settings.frame_window_ns:
            return []
        self._standing_trigger = sequence
        if sequence == 0:
            return self._count_restarted()
        numbers = due(self._last_sequence, sequence)
        if numbers is None and self._answers.repeat(sequence):
            return []
        *missed, newest = numbers or (sequence,)
        detail = "" if numbers else f"part {sequence} does not follow part {self._last_sequence}"
        answered = [self._answer(number, "", triggered_ns, None, None, f"missed before part {newest}") for number in missed]
        if self.state in EXECUTING and not detail:
            frame, inspection, detail = self._look(triggered_ns)
        else:
            frame, inspection = None, None
        answered.append(self._answer(newest, trigger.part_id, triggered_ns, frame, inspection, detail))
        return answered

    def _count_restarted(self) -> list[tuple[Result, Frame | None]]:
        if self.state in EXECUTING and self._last_sequence:
            self._answers.drop()
            self._fail(ErrorCode.PLC_RESTARTED, f"the PLC's trigger sequence fell from {self._last_sequence} to 0 while the line ran")
        self._last_sequence = 0
        return []

    def _look(self, triggered_ns: int) -> tuple[Frame | None, Inspection | None, str]:
        """Fires the camera, waits for this part's frame, and inspects it; what is None failed, as the words say."""
        inspector = self._changeover.inspector
        window_ns = self._settings.frame_window_ns
        try:
            self._camera.trigger()
            frame = self._camera.fetch(window_ns / 1e9)
        except CameraError as error:
            return None, None, str(error)
        if frame is None:
            return None, None, f"no frame within {window_ns / 1e6:.0f} ms of the trigger"
        if frame.captured_ns < triggered_ns:
            return None, None, f"frame {frame.frame_id} was captured before the trigger"
        if inspector is None:
            return frame, None, "no recipe is prepared"
        try:
            return frame, inspector.inspect(frame), ""
        except ValueError as error:
            return frame, None, str(error)
        except Exception as error:  # noqa: BLE001 - whatever the network failed of, the part fails and the line stops
            self._fail(ErrorCode.INSPECTION, f"{type(error).__name__}: {error}; reset when the device is well again")
            return frame, None, str(error)

    def _answer(
        self, sequence: int, part_id: str, triggered_ns: int, frame: Frame | None, inspection: Inspection | None, detail: str
    ) -> tuple[Result, Frame | None]:
        """Judges, commits, and only then queues the answer for the wire."""
        inspector = self._changeover.inspector
        part = Part(
            job_id=self._job_id if self.state in EXECUTING else 0,
            sequence=sequence,
            part_id=part_id,
            triggered_ns=triggered_ns,
            asked_recipe=self._asked_recipe,
            recipe=inspector.recipe if inspector else None,
            frame=frame,
            inspection=inspection,
            is_simulated=self._camera.simulated or self._plc.simulated,
            detail=detail,
        )
        result = self._gate.judge(part, self.state, self._clock())
        result_id = None
        try:
            result_id = self._ledger.append(result, self._wall_clock())
        except LedgerError as error:
            self._fail(ErrorCode.LEDGER, str(error))
            result = self._gate.judge(part, State.ERROR, self._clock())
        self._last_sequence = sequence
        self._failed_parts += result.verdict is not Verdict.PASS
        self._answers.add(result_id, told(result))
        return result, frame

    # ---- the PLC

    def _exchange(self) -> None:
        self._heartbeat = (self._heartbeat + 1) % 65_536
        try:
            self._heard = self._plc.exchange(self._signals())
        except PlcError as error:
            if self._clock() - self._heard_ns > WIRE_PATIENCE_NS:
                self._heard = None
                self._answers.drop()
                self._fail(ErrorCode.WIRE, str(error))
            return
        self._heard_ns = self._clock()
        self.causes.pop(ErrorCode.WIRE, None)
        self._answers.told(self._heard_ns)
        if self._command_sequence is None:
            self._begin_hearing(self._heard)

    def _begin_hearing(self, heard: PlcInput) -> None:
        """What stands in the PLC's words at first contact was said to nobody: only a change is a command, or a part after the last one."""
        self._command_sequence = heard.command.sequence
        standing = heard.triggers[-1].sequence if heard.triggers else 0
        if self._last_sequence == 0 or due(self._last_sequence, standing) is None:
            self._standing_trigger = self._last_sequence = standing

    def _signals(self) -> StationSignals:
        recipe = self._changeover.inspector.recipe if self._changeover.inspector else None
        return StationSignals(
            state=self.state,
            heartbeat=self._heartbeat,
            recipe_number=recipe.number if recipe else 0,
            recipe_checksum=recipe.checksum if recipe else 0,
            result=self._answers.standing(),
            command_echo=self._command_echo,
            command_status=self._command_status,
            error_code=min(self.causes) if self.causes else self._error_code,
            failed_parts=self._failed_parts,
        )

    def _take_acknowledgement(self, sequence: int) -> None:
        taken, result_id = self._answers.acknowledge(sequence)
        if taken and result_id is not None:
            self._record(lambda: self._ledger.acknowledge(result_id, self._wall_clock()))
        if self._answers.settled():
            self.causes.pop(ErrorCode.NOT_ACKNOWLEDGED, None)

    def _take_command(self, command: PlcCommand) -> None:
        if command.sequence == self._command_sequence:
            if command.code == Command.NONE and self._command_status in (CommandStatus.DONE, CommandStatus.FAILED):
                self._command_status = CommandStatus.IDLE
            return
        self._command_sequence = self._command_echo = command.sequence
        self._command_status, self._error_code = CommandStatus.EXECUTING, ErrorCode.NONE

        def finish(code: ErrorCode, why: str) -> None:
            if self._command_echo == command.sequence:
                self._command_status = CommandStatus.FAILED if code else CommandStatus.DONE
                self._error_code = code
            if code:
                self._note("command refused", f"PLC command {command.code}: {why}")

        if command.code == Command.NONE or command.code not in set(Command):
            finish(ErrorCode.COMMAND_UNKNOWN, f"there is no command {command.code}")
        elif command.code == Command.PREPARE_RECIPE:
            self._prepare_for_plc(command.argument, finish)
        else:
            self.command(Command(command.code), 0, finish)
            if command.code == Command.UNPREPARE_RECIPE and self._command_status is CommandStatus.DONE:
                self._granted_recipe = 0
                self._ask_for(0)

    def _prepare_for_plc(self, number: int, finish: Finish) -> None:
        """From the moment it is asked for, only this recipe can pass a part; when it is refused, the one before it can again."""
        self._ask_for(number)
        asking = self._asking = object()

        def finish_asking(code: ErrorCode, why: str) -> None:
            if self._asking is asking and code:
                self._ask_for(self._granted_recipe)
            elif self._asking is asking:
                self._granted_recipe = number
            finish(code, why)

        self.command(Command.PREPARE_RECIPE, number, finish_asking)

    def _ask_for(self, number: int) -> None:
        self._asked_recipe = number
        self._note("asked", str(number))

    # ---- state

    def _prepare(self, which: str | int, finish: Finish) -> None:
        def finish_preparing(why: str) -> None:
            inspector = self._changeover.inspector
            if not why and inspector is not None:
                self._note("recipe", f"{inspector.recipe.name} {inspector.recipe.number} {inspector.recipe.hash}")
                self.causes.pop(ErrorCode.INSPECTION, None)
            finish(ErrorCode.RECIPE_REFUSED if why else ErrorCode.NONE, why)

        self._first_recipe = ""
        if self.state is State.READY:
            self._move(State.INITIALIZED)
        self._changeover.begin(which, finish_preparing)

    def _begin(self, event: Event) -> None:
        """What an allowed command does before the state moves."""
        if event is Event.START:
            self._job_id += 1
            self._failed_parts = 0
            self._answers.forget()
            self._note("job", str(self._job_id))
        elif event is Event.UNPREPARE:
            self._changeover.unprepare()
        elif event in (Event.RESET, Event.HALT):
            self._changeover.abandon(f"{event.value} was commanded")
            self._answers.drop()
            for cause in (ErrorCode.NOT_ACKNOWLEDGED, ErrorCode.PLC_RESTARTED, ErrorCode.INSPECTION):
                self.causes.pop(cause, None)
        self._was_executing = False

    def _watch(self, camera: CameraStatus, now_ns: int) -> None:
        """Collects the causes of error and lets those go that are gone."""
        if camera.state in (CameraState.ABSENT, CameraState.LOST) and not self._changeover.configuring:
            self._fail(ErrorCode.CAMERA, camera.detail)
        elif camera.state is CameraState.STREAMING:
            self.causes.pop(ErrorCode.CAMERA, None)
        if ErrorCode.LEDGER in self.causes and self._ledger.writable():
            self.causes.pop(ErrorCode.LEDGER, None)
        if self._answers.overdue(now_ns):
            sequence = self._answers.standing().sequence
            self._fail(ErrorCode.NOT_ACKNOWLEDGED, f"the PLC does not acknowledge part {sequence}; reset when it listens again")
        if self._heard is not None and self._heard.heartbeat != self._beat[0]:
            self._beat = (self._heard.heartbeat, now_ns)
            self.causes.pop(ErrorCode.PLC_HEARTBEAT, None)
        elif self.state in EXECUTING and 0 < self._settings.heartbeat_ns < now_ns - self._beat[1]:
            self._fail(ErrorCode.PLC_HEARTBEAT, f"the PLC's heartbeat stands still at {self._beat[0]}; is its program running?")

    def _settle(self, camera: CameraStatus) -> None:
        """Moves by itself as far as the causes, the camera and the prepared recipe allow."""
        if self.causes:
            if self.state not in (State.ERROR, State.HALTED):
                self._was_executing = self.state in EXECUTING
                self._changeover.abandon(f"state Error: {'; '.join(self.causes.values())}")
                self._move(State.ERROR)
            return
        if self.state is State.ERROR:
            self._move(State.INITIALIZED)
        if self.state is State.PREOPERATIONAL and camera.state is CameraState.STREAMING:
            self._move(State.INITIALIZED)
        if self.state is State.INITIALIZED and camera.state is CameraState.STREAMING and not self._changeover.busy:
            if self._changeover.inspector:
                self._move(State.READY)
            elif self._first_recipe:
                self._prepare(self._first_recipe, lambda _code, why: self._note("recipe refused", why) if why else None)
        if self.state is State.READY and self._was_executing and self._settings.resume_automatically:
            self.command(Command.START_CONTINUOUS, 0, lambda _code, _why: None)

    def _move(self, state: State) -> None:
        if state is not self.state:
            self._note("state", f"{self.state.words} -> {state.words}")
            self.state = state

    def _fail(self, cause: ErrorCode, why: str) -> None:
        if cause not in self.causes:
            self._note("error", f"{cause.name}: {why}")
        self.causes[cause] = why

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except CameraError as error:
            self._fail(ErrorCode.CAMERA, str(error))

    def _note(self, event: str, detail: str) -> None:
        _log.info(event, detail=detail, state=self.state.words)
        self._record(lambda: self._ledger.note(event, detail, self._wall_clock()))

    def _record(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LedgerError as error:
            self.causes[ErrorCode.LEDGER] = str(error)

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
            "asked_recipe": self._asked_recipe,
            "job": self._job_id,
            "last_part": self._last_sequence,
            "plc_connected": self.connected,
            "camera": {"state": camera.state.value, "detail": camera.detail, "model": camera.model, "serial_number": camera.serial_number}
            | {"delivered": camera.delivered, "missed": camera.missed, "incomplete": camera.incomplete, "reconnects": camera.reconnects},
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
    )
