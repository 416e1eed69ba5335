"""One turn of the loop: hear the PLC, answer every part that is due, tell the PLC. Straight line, one thread, no locks.

`Line` owns the station's state, the part numbers and the causes of error. It is the same object in `station run` and `station replay`;
what differs stands at its ends: the camera, the PLC, the clock and how a recipe is prepared.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import structlog

from drivers.camera import Camera, CameraError, CameraState, Feature, Frame
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
from station.changeover import Changeover, Finish, Prepare
from station.failsafe import Gate, Part
from station.handshake import Asked, Handshake
from station.inspection import Inspection, Result, Verdict
from station.inspector import Inspector
from station.ledger import Ledger, LedgerError
from station.matching import Count, Match, Matching, MatchingError
from station.sequence import due, following, is_ahead
from station.state import EXECUTING, Event, State, after

Counting = Literal["plc", "hardware", "free"]
"""Who counts the parts (PLC.md, rule 10)."""
SOFTWARE_TRIGGER: dict[str, Feature] = {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
"""What the site asks of the camera when the PLC triggers each part (`plc`)."""
MOST_FRAMES = 16
"""So many frames are taken in a turn at most, as many as a camera process holds; what comes meanwhile waits for the next one."""
WARM_FOR_NS = 500_000_000
"""A network that did nothing for longer is kept warm."""
WIRE_PATIENCE_NS = 500_000_000
"""So long may exchanges fail one after the other, as noise makes them, before the wire counts as cut."""

_log = structlog.get_logger()
_EVENTS = {
    Command.START_CONTINUOUS: Event.START,
    Command.STOP: Event.STOP,
    Command.UNPREPARE_RECIPE: Event.UNPREPARE,
    Command.RESET: Event.RESET,
    Command.HALT: Event.HALT,
}
_LEFT_BY_RESET = (ErrorCode.NOT_ACKNOWLEDGED, ErrorCode.PLC_RESTARTED, ErrorCode.INSPECTION, ErrorCode.COUNT, ErrorCode.REJECTS)
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
        self.state = State.PREOPERATIONAL
        self.causes: dict[ErrorCode, str] = {}
        self.hears = False
        """True when the last exchange went well."""
        self._camera, self._plc, self._ledger = camera, plc, ledger
        self._settings, self._clock, self._wall_clock = settings, clock, wall_clock
        self._gate = Gate()
        self._changeover = Changeover(camera, prepare, settings.site_features)
        self._answers = Answers(settings.acknowledge_ns)
        self._handshake = Handshake(Asked.parse(ledger.noted("asked")))
        self._first_recipe: str | int = self._handshake.asked.number or settings.prepare
        self._heard: PlcInput | None = None
        self._heard_asked = self._handshake.asked
        self._begun_ns = self._heard_ns = clock()
        self._unheard_since_ns: int | None = clock()
        self._beat = (0, clock())
        self._warm_ns = clock()
        self._heartbeat = 0
        self._resumes = self._closed = False
        self._waiting = Count(0, "", 0, Asked())
        self._matching = Matching(settings.frame_window_ns, settings.count_delay_ns)
        self._standing_trigger: int | None = None
        self._last_sequence = last.sequence if (last := ledger.last()) else 0
        self._job_id = int(ledger.noted("job") or 0)
        self._failed_parts = self._rejects_in_a_row = 0
        self._due: deque[Match] = deque()
        self._taken_since_ns = 0
        self._taken_for: Inspector | None = None
        self._unkept: list[Result] = []
        self._note("started", "")
        self._guard(self._changeover.start_camera)

    # ---- one turn

    def step(self) -> tuple[Answered, ...]:
        """One turn: what was answered in it, oldest part first. When it returns the PLC was told of the oldest, unless the wire is down."""
        now_ns = self._clock()
        if (heard := self._heard) is not None:
            self._take_acknowledgement(heard.acknowledged)
        self._watch(now_ns)
        self._guard(lambda: self._changeover.turn(self._camera.status(), now_ns))
        self._stop_on_causes()
        answered = self._take(heard) if heard is not None else []
        self._stop_on_causes()
        self._advance()
        self._exchange()
        if answered:
            self._warm_ns = self._clock()
        else:
            self._keep_warm()
        return tuple(answered)

    @property
    def connected(self) -> bool:
        """True once the PLC has seen the station's state, and until the wire counts as cut."""
        return self._heard is not None

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
            self._prepare(which, finish)
            return
        self._begin(event)
        self._move(event)
        finish(ErrorCode.NONE, "")

    def close(self) -> None:
        """Leaves the outputs at reject and lets go of PLC, camera and ledger. Never raises; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._plc.close()
        self._note("stopped", f"in {self.state.words}")
        self._camera.close()
        self._ledger.close()

    # ---- parts

    def _take(self, heard: PlcInput) -> list[Answered]:
        """Commands before parts, so that a part of the same exchange sees what was asked; but what came with a start came before it."""
        starts = heard.command.code == Command.START_CONTINUOUS
        if not starts:
            self._take_command(heard.command)
        answered = self._take_parts(heard)
        if starts:
            self._take_command(heard.command)
        return answered

    def _take_parts(self, heard: PlcInput) -> list[Answered]:
        if self._changeover.inspector is not self._taken_for:  # what was taken for another recipe is no picture for this one
            self._taken_for, self._taken_since_ns = self._changeover.inspector, self._clock()
            self._due.extend(self._matching.abandon())
        match self._settings.counting:
            case "plc":
                return [answer for trigger in heard.triggers for answer in self._take_trigger(trigger)]
            case "hardware":
                return self._take_counts(heard.triggers)
            case "free":
                return self._take_free()

    def _take_trigger(self, trigger: Trigger) -> list[Answered]:
        """`plc`: a new number fires the camera."""
        if trigger.sequence == self._standing_trigger:
            return []
        self._hear_first(trigger)
        waited_ns = self._clock() - self._waiting.heard_ns
        if self.state in EXECUTING and self._camera.status().state is CameraState.OPENING and waited_ns < self._settings.frame_window_ns:
            return []
        numbers, answered = self._new_numbers(trigger)
        if not numbers:
            return answered
        answered = [self._answer(self._part(number), None, f"missed before part {trigger.sequence}") for number in numbers[:-1]]
        frame, detail = self._fire() if self.state in EXECUTING else (None, "")
        return [*answered, self._answer(self._waiting, frame, detail)]

    def _take_counts(self, triggers: tuple[Trigger, ...]) -> list[Answered]:
        """`hardware`: new numbers wait for the frames that the sensor fired; frames wait for the count of their part."""
        answered: list[Answered] = []
        counts: list[Count] = []
        for trigger in triggers:
            if trigger.sequence == self._standing_trigger:
                continue
            self._hear_first(trigger)
            numbers, repeated = self._new_numbers(trigger)
            answered += repeated
            counts += [*map(self._part, numbers[:-1]), self._waiting] if numbers else []
        if self.state in EXECUTING:
            self._match(counts)
        else:
            self._frames(MOST_FRAMES)
            unanswered = [*self._due, *self._matching.abandon(), *(Match(count, None) for count in counts)]
            self._due = deque(replace(match, frame=None) for match in unanswered)
        return [*answered, *self._answer_due()]

    def _match(self, counts: list[Count]) -> None:
        self._matching.heard(counts, self._begun_ns)
        for frame in self._frames(MOST_FRAMES):
            self._matching.see(frame)
        try:
            for match in self._matching.decide(self._clock()):
                self._due.append(match)
        except MatchingError as error:
            self._fail(ErrorCode.COUNT, f"{error}; find out whose sensor or cable it was, then reset")
            self._due.extend(self._matching.abandon())

    def _answer_due(self) -> list[Answered]:
        """Answers up to the first part that takes an inspection: the heartbeat goes on between two of them."""
        answered: list[Answered] = []
        while self._due:
            match = self._due.popleft()
            answered.append(self._answer(match.count, match.frame, match.detail))
            if match.frame is not None:
                break
        return answered

    def _take_free(self) -> list[Answered]:
        """`free`: the station numbers the frames itself; one that the camera counted and lost has a number too."""
        if self.state not in EXECUTING:
            self._frames(MOST_FRAMES)
            return []
        answered = []
        for frame in self._frames(1):
            missed = frame.missed if self._last_sequence else 0  # what was lost before the first one was another job's
            for lost in [True] * missed + [False]:
                self._last_sequence = following(self._last_sequence)
                count = Count(self._last_sequence, "", frame.captured_ns, self._handshake.asked)
                answered.append(self._answer(count, None if lost else frame, "the camera lost the frame" if lost else ""))
        return answered

    def _frames(self, most: int) -> list[Frame]:
        """Up to so many of the frames that the camera took by itself, without those from before the start or for another recipe."""
        frames: list[Frame] = []
        with suppress(CameraError):  # its status says it too, and stops the line
            while len(frames) < most and (frame := self._camera.fetch(0)):
                frames.append(frame)
        return [frame for frame in frames if frame.captured_ns >= self._taken_since_ns]

    def _hear_first(self, trigger: Trigger) -> None:
        """Keeps when a number was heard for the first time, and what was asked for then."""
        if (self._waiting.sequence, self._waiting.part_id) != (trigger.sequence, trigger.part_id):
            asked = self._handshake.asked
            unchanged = asked == self._heard_asked
            self._waiting = Count(trigger.sequence, trigger.part_id, self._heard_ns, asked if unchanged else Asked(asked.number))

    def _part(self, sequence: int) -> Count:
        """A part whose own trigger was not heard, only a later one."""
        return replace(self._waiting, sequence=sequence, part_id="")

    def _new_numbers(self, trigger: Trigger) -> tuple[tuple[int, ...], list[Answered]]:
        """The parts that this trigger announces, oldest first; none for a number that does not follow, which is answered at once."""
        sequence = self._standing_trigger = trigger.sequence
        if sequence == 0:
            self._count_anew(f"the PLC's trigger sequence fell from {self._last_sequence} to 0")
            return (), []
        numbers = due(self._last_sequence, sequence)
        if numbers is None:
            return (), self._out_of_order(trigger)
        self._last_sequence = sequence
        return numbers, []

    def _out_of_order(self, trigger: Trigger) -> list[Answered]:
        """A number that does not follow: the same answer again if it had one in this job, else FAIL. Nothing is inspected."""
        sequence, last = trigger.sequence, self._last_sequence
        if self.state in EXECUTING:
            if self._awaits_frame(sequence) or self._answers.repeat(sequence, trigger.part_id):
                return []
            if self._ledger_knows(sequence):
                self._note("trigger refused", f"part {sequence} was answered long ago, or with another part id")
                return []
        ahead = is_ahead(last, sequence)
        if self.state not in EXECUTING or ahead:
            self._last_sequence = sequence
        return [self._answer(self._waiting, None, f"part {sequence} does not follow part {last}", of_job=ahead)]

    def _awaits_frame(self, sequence: int) -> bool:
        return self._matching.awaits(sequence) or any(match.count.sequence == sequence for match in self._due)

    def _ledger_knows(self, sequence: int) -> bool:
        try:
            return self._ledger.answer(self._job_id, sequence) is not None
        except LedgerError as error:
            self._fail(ErrorCode.LEDGER, str(error))
            return True

    def _count_anew(self, why: str) -> None:
        """The PLC begins a new numbering; while the line runs that is an error, because parts may have been lost with the old one."""
        self._drop_answers(why)
        if self.state in EXECUTING and self._last_sequence:
            self._fail(ErrorCode.PLC_RESTARTED, f"{why} while the line ran")
        self._answers.forget()
        self._last_sequence = 0

    def _drop_answers(self, why: str) -> None:
        """Leaves the wire at reject; answers that nobody acknowledged are explained in the ledger."""
        if not self._answers.settled():
            self._note("error", f"answers given up: {why}")
        self._answers.drop()

    def _fire(self) -> tuple[Frame | None, str]:
        """Fires the camera and waits for this part's frame; when there is none, the words say why."""
        window_ns = self._settings.frame_window_ns
        fired_ns = self._clock()
        if fired_ns - self._waiting.heard_ns > window_ns:
            return None, f"the trigger is {(fired_ns - self._waiting.heard_ns) / 1e6:.0f} ms old: the part has gone"
        try:
            self._camera.trigger()
            frame = self._camera.fetch(window_ns / 1e9)
        except CameraError as error:
            return None, str(error)
        if frame is None:
            return None, f"no frame within {window_ns / 1e6:.0f} ms of the trigger"
        if frame.captured_ns < fired_ns:
            return None, f"frame {frame.frame_id} was captured before the trigger"
        return frame, ""

    def _inspect(self, frame: Frame) -> tuple[Inspection | None, str]:
        """What is seen in a part's frame; when it is None, the words say why."""
        inspector = self._changeover.inspector
        if frame.flaw:
            return None, frame.flaw
        if inspector is None:
            return None, "no recipe is prepared"
        try:
            return inspector.inspect(frame), ""
        except ValueError as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - whatever the network failed of, the part fails and the line stops
            self._fail(ErrorCode.INSPECTION, f"{type(error).__name__}: {error}; reset when the device is well again")
            return None, str(error)

    def _keep_warm(self) -> None:
        """While no part comes the network is kept as fast as it was, and found out about when its device is lost."""
        inspector, now_ns = self._changeover.inspector, self._clock()
        if inspector is None or ErrorCode.INSPECTION in self.causes or now_ns - self._warm_ns < WARM_FOR_NS:
            return
        self._warm_ns = now_ns
        try:
            inspector.keep_warm()
        except Exception as error:  # noqa: BLE001 - as for a part: the line stops, here before one comes
            self._fail(ErrorCode.INSPECTION, f"{type(error).__name__}: {error}; reset when the device is well again")

    def _answer(self, count: Count, frame: Frame | None, detail: str, *, of_job: bool = True) -> Answered:
        """Inspects the part's frame, judges, commits, and only then queues the answer for the wire.

        `of_job`: whether the number is one of this job's; a number from before it is answered, and belongs to no job's count.
        """
        self._stop_on_causes()
        inspection = None
        if frame is not None and self.state in EXECUTING:
            inspection, detail = self._inspect(frame)
        inspector = self._changeover.inspector
        part = Part(
            job_id=self._job_id if self.state in EXECUTING and of_job else 0,
            sequence=count.sequence,
            part_id=count.part_id,
            triggered_ns=count.heard_ns,
            asked_recipe=count.asked.number,
            asked_hash=count.asked.hash,
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
            self._unkept.append(result)
        self._count_rejects(result)
        self._answers.add(result_id, count.part_id, told(result))
        return result, frame if frame is not None and not frame.flaw else None

    def _count_rejects(self, result: Result) -> None:
        rejected, most = result.verdict is not Verdict.PASS, self._settings.rejects_in_a_row
        self._failed_parts += rejected
        self._rejects_in_a_row = self._rejects_in_a_row + 1 if rejected else 0
        if self.state in EXECUTING and 0 < most <= self._rejects_in_a_row:
            self._fail(ErrorCode.REJECTS, f"{self._rejects_in_a_row} parts in a row were not answered PASS: look at the parts, then reset")

    # ---- the PLC

    def _exchange(self) -> None:
        self._heartbeat = (self._heartbeat + 1) % 65_536
        begun_ns = self._clock()
        try:
            heard = self._plc.exchange(self._signals())
        except PlcError as error:
            self.hears = False
            now_ns = self._clock()
            self._unheard_since_ns = now_ns if self._unheard_since_ns is None else self._unheard_since_ns
            if now_ns - self._unheard_since_ns > WIRE_PATIENCE_NS:
                self._heard = None
                self._drop_answers("the wire is cut")
                self._fail(ErrorCode.WIRE, str(error))
            return
        self.hears, self._unheard_since_ns = True, None
        self._heard, self._heard_asked = heard, self._handshake.asked
        self._begun_ns, self._heard_ns = begun_ns, self._clock()
        self.causes.pop(ErrorCode.WIRE, None)
        self._answers.told(self._heard_ns)
        if self._standing_trigger is None:
            self._meet(heard)

    def _meet(self, heard: PlcInput) -> None:
        """First contact: a trigger that stands there is an old part when it was the last one answered, else one that came while away."""
        standing = heard.triggers[-1].sequence if heard.triggers else 0
        self._standing_trigger = standing if standing in (0, self._last_sequence) else 0
        if due(self._last_sequence, standing) is None and standing != self._last_sequence:
            self._last_sequence = 0
        self._beat = (heard.heartbeat, self._heard_ns)
        self._handshake.take(heard.command)

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
            failed_parts=self._failed_parts,
        )

    def _take_acknowledgement(self, sequence: int) -> None:
        taken, result_id = self._answers.acknowledge(sequence)
        if taken and result_id is not None:
            self._record(lambda: self._ledger.acknowledge(result_id, self._wall_clock()))
        if self._answers.settled():
            self.causes.pop(ErrorCode.NOT_ACKNOWLEDGED, None)

    def _take_command(self, command: PlcCommand) -> None:
        if not self._handshake.take(command):
            return

        def finish(code: ErrorCode, why: str) -> None:
            self._handshake.finish(command.sequence, code)
            if code:
                self._note("command refused", f"PLC command {command.code}: {why}")

        if command.code not in set(Command):
            finish(ErrorCode.COMMAND_UNKNOWN, f"there is no command {command.code}")
        elif command.code == Command.PREPARE_RECIPE:
            self._prepare_for_plc(command, finish)
        else:
            self.command(Command(command.code), 0, finish)
            if command.code == Command.UNPREPARE_RECIPE and not self._handshake.error_code:
                self._handshake.release()
                self._note("asked", str(self._handshake.asked))

    def _prepare_for_plc(self, command: PlcCommand, finish: Finish) -> None:
        """From the moment it is asked for, only this recipe can pass a part; when it is refused, the one before it can again."""
        asking = self._handshake.ask(command.argument)
        self._note("asked", str(self._handshake.asked))

        def finish_asking(code: ErrorCode, why: str) -> None:
            inspector = self._changeover.inspector
            if code or inspector is None:
                self._handshake.refuse(asking)
            else:
                self._handshake.grant(asking, inspector.recipe.hash)
            self._note("asked", str(self._handshake.asked))
            finish(code, why)

        self.command(Command.PREPARE_RECIPE, command.argument, finish_asking)

    # ---- state

    def _prepare(self, which: str | int, finish: Finish) -> None:
        def finish_preparing(code: ErrorCode, why: str) -> None:
            inspector = self._changeover.inspector
            if not code and inspector is not None:
                self._note("recipe", f"{inspector.recipe.name} {inspector.recipe.number} {inspector.recipe.hash} {inspector.engine}")
            finish(code, why)

        self._changeover.begin(which, finish_preparing, self._clock())
        self._first_recipe = ""
        self._move(Event.PREPARING)

    def _prepare_first(self) -> None:
        """Prepares what the site or the PLC's last request names; again later when it was only interrupted."""
        which = self._first_recipe

        def finish(code: ErrorCode, why: str) -> None:
            if code == ErrorCode.COMMAND_SUPERSEDED:
                self._first_recipe = which
            elif code:
                self._note("recipe refused", why)

        self._prepare(which, finish)

    def _begin(self, event: Event) -> None:
        """What an allowed command does before the state moves."""
        if event is Event.START:
            self._job_id += 1
            self._failed_parts = self._rejects_in_a_row = 0
            self._taken_since_ns = self._clock()
            self._matching.forget()
            if self._settings.counting == "free":
                self._last_sequence = 0
            self._drop_answers("the next job was started")
            self._answers.forget()
            self._beat = (self._beat[0], self._clock())
            self._note("job", str(self._job_id))
        elif event is Event.UNPREPARE:
            self._changeover.unprepare()
            self._first_recipe = ""
        elif event in (Event.RESET, Event.HALT):
            self._changeover.abandon(f"{event.value} was commanded")
            self._drop_answers(f"{event.value} was commanded")
            if self._unkept and self._ledger.writable():  # then it is not the disk, but these
                self._note("error", f"{len(self._unkept)} answers, all FAIL, could not be kept and were given up")
                self._unkept.clear()
            for cause in _LEFT_BY_RESET:
                self.causes.pop(cause, None)

    def _watch(self, now_ns: int) -> None:
        """Collects the causes of error and lets those go that are gone."""
        camera = self._camera.status()
        if camera.state in (CameraState.ABSENT, CameraState.LOST) and not self._changeover.configuring:
            self._fail(ErrorCode.CAMERA, camera.detail)
        elif camera.state is CameraState.STREAMING:
            self.causes.pop(ErrorCode.CAMERA, None)
        if not self._ledger.writable():
            self._fail(ErrorCode.LEDGER, f"no part can pass until the ledger can be written: {self._ledger.trouble}")
        elif ErrorCode.LEDGER in self.causes:
            self._keep_unkept()
        if self._answers.overdue(now_ns):
            sequence = self._answers.standing().sequence
            self._fail(ErrorCode.NOT_ACKNOWLEDGED, f"the PLC does not acknowledge part {sequence}; reset when it listens again")
        if self._heard is not None:
            self._watch_heartbeat(self._heard.heartbeat, now_ns)

    def _watch_heartbeat(self, heartbeat: int, now_ns: int) -> None:
        before, since_ns = self._beat
        if heartbeat != before:
            self._beat = (heartbeat, self._heard_ns)
            self.causes.pop(ErrorCode.PLC_HEARTBEAT, None)
            steps, possible = (heartbeat - before) % 65_536, 50 + 2 * (self._heard_ns - since_ns) // 1_000_000
            if possible < steps < 65_535:  # faster than any scan, and no toggling bit
                self._count_anew(f"the PLC was restarted: its heartbeat fell from {before} to {heartbeat}")
        elif self.state in EXECUTING and 0 < self._settings.heartbeat_ns < now_ns - since_ns:
            self._fail(ErrorCode.PLC_HEARTBEAT, f"the PLC's heartbeat stands still at {before}; is its program running?")

    def _keep_unkept(self) -> None:
        """Writes what could not be written; the cause is gone when all of it is in the ledger. Nobody kept who took it meanwhile."""
        late = len(self._unkept)
        try:
            while self._unkept:
                self._ledger.append(self._unkept[0], self._wall_clock())
                self._unkept.pop(0)
            self._ledger.note("error", f"{ErrorCode.LEDGER.name}: over; {late} answers were kept late", self._wall_clock())
        except LedgerError:
            return
        self.causes.pop(ErrorCode.LEDGER, None)

    def _stop_on_causes(self) -> None:
        """Any cause of error stops the line, before a part is taken and after."""
        if self.causes and self.state not in (State.ERROR, State.HALTED):
            self._resumes = self._resumes or self.state in EXECUTING
            self._changeover.abandon(f"state Error: {'; '.join(self.causes.values())}")
            self._move(Event.FAIL)

    def _advance(self) -> None:
        """Moves by itself as far as the camera and the prepared recipe allow, once no cause of error is left."""
        if self.causes:
            return
        streaming = self._camera.status().state is CameraState.STREAMING
        if self.state is State.ERROR:
            self._move(Event.RESOLVE)
        if self.state is State.PREOPERATIONAL and streaming:
            self._move(Event.INITIALIZE)
        if self.state is State.READY and self._changeover.busy:
            self._move(Event.PREPARING)
        if self.state is State.INITIALIZED and streaming and not self._changeover.busy:
            if self._changeover.inspector:
                self._move(Event.PREPARED)
            elif self._first_recipe:
                self._prepare_first()
        if self.state is State.READY and self._resumes and self._settings.resume_automatically:
            self._resumes = False
            self.command(Command.START_CONTINUOUS, 0, lambda _code, _why: None)

    def _move(self, event: Event) -> None:
        state = after(self.state, event)
        assert state is not None, f"{event.name} in {self.state.words}"
        if state is not self.state:
            self._note("state", f"{self.state.words} -> {state.words}")
            self.state = state

    def _fail(self, cause: ErrorCode, why: str) -> None:
        if cause not in self.causes:
            self.causes[cause] = why
            self._note("error", f"{cause.name}: {why}")
        self.causes[cause] = why

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except CameraError as error:
            self._fail(ErrorCode.CAMERA, str(error))

    def _note(self, event: str, detail: str) -> None:
        with suppress(OSError):  # nobody reads the log any more: the line goes on
            _log.info(event, detail=detail, state=self.state.words)
        self._record(lambda: self._ledger.note(event, detail, self._wall_clock()))

    def _record(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LedgerError as error:
            self.causes[ErrorCode.LEDGER] = str(error)

    def wire(self) -> dict[str, Any]:
        """What the PLC is told now and what it said last, for `station plc watch`; plain data."""
        heard = asdict(self._heard) if self._heard else None
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
            "job": self._job_id,
            "last_part": self._last_sequence,
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
