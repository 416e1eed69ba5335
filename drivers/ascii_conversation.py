"""The station's end of the ASCII dialect without the port: what was said to and by one PLC, and what is to be said next. No I/O."""

from collections import deque

from drivers.ascii_codec import (
    Beat,
    LineBuffer,
    Ordered,
    Refused,
    Said,
    StatusWanted,
    Taken,
    acknowledge_line,
    error_line,
    heartbeat_line,
    outcome_line,
    parse,
    refusal_line,
    result_line,
    status_line,
)
from drivers.plc import NO_RESULT, CommandStatus, ErrorCode, PlcCommand, PlcInput, StationSignals, Trigger

_ANSWER_BYTES = 512
"""What the PLC asks for is not answered, and no result repeated, while so much still waits to leave; 45 ms at 115200 baud."""
_OUT_BYTES = 1024
"""Results and outcomes of commands wait when so much has not been given to the port."""
_COMMANDS_WAITING = 8
_PARTS_KNOWN = 256
_TELLINGS = 4
"""So often is a result told that is asked for again after it was taken (PLC.md, rule 6); who does not take it then has it."""


class Conversation:
    """What was said to and by one PLC. Does no I/O; times are the caller's monotonic clock, in seconds.

    Only the newest trigger of a turn is shown: whoever is triggered late must not look at the next part. The numbers it jumped over are
    known to be missed. Of several commands each is shown in a turn of its own, in order, and so is a trigger 0.

    Attributes:
        out: what is still to be sent, oldest first; never more than 1 kB and a few lines.
        contact: True once the PLC has said something that could be taken, until `cut`.
    """

    def __init__(self, acknowledge_s: float) -> None:
        """A result is told again each `acknowledge_s` until the PLC takes it."""
        self.out = bytearray()
        self.contact = False
        self._acknowledge_s = acknowledge_s
        self._lines = LineBuffer()
        self._met = False
        self._heartbeat = 0
        self._trigger = Trigger(0)
        self._next_trigger: Trigger | None = None
        self._counts_anew = False
        self._part_ids: dict[int, str] = {}
        self._result = NO_RESULT
        self._result_part_id: str | None = None
        self._sent_s: float | None = None
        self._taken = False
        self._tellings: int | None = None
        self._command = PlcCommand(0, 0, 0)
        self._ordered: Ordered | None = None
        self._outcome = b""
        self._waiting: deque[Ordered] = deque()

    def hear(self, data: bytes, signals: StationSignals, unsent: int = 0) -> None:
        """Takes bytes as they came and answers what can be answered at once; `unsent` bytes said before have not left the port yet."""
        self._look(signals)
        for line in self._lines.feed(data):
            said = parse(line)
            if said is None:
                continue
            answer = refusal_line(said) if isinstance(said, Refused) else self._take(said, signals)
            if len(self.out) + unsent < _ANSWER_BYTES:
                self.out += answer

    def tell(self, signals: StationSignals, now_s: float, unsent: int = 0) -> None:
        """Says what the PLC is waiting for: how its command ended, and the result that stands, again and again until it is taken."""
        self._look(signals)
        if len(self.out) >= _OUT_BYTES:
            return
        ended = signals.command_status in (CommandStatus.DONE, CommandStatus.FAILED)
        if self._ordered and self._command.code and ended and signals.command_echo == self._command.sequence:
            self._outcome = outcome_line(self._ordered, signals)
            self.out += self._outcome
            self._command = PlcCommand(0, 0, self._command.sequence)
        if self._result.sequence and not self._taken and self._is_due(now_s, len(self.out) + unsent):
            self._sent_s = now_s
            self.out += result_line(self._result)
            if self._tellings is not None:
                self._tellings -= 1
                self._taken = self._tellings == 0

    def said(self, drained: bool) -> PlcInput | None:
        """What the PLC says as of this turn; None while there is no contact.

        In the turn of first contact nothing new stands in it: who meets the PLC takes what stands there for old. A trigger that came
        while the port was not `drained` waits for the turn that knows whether it is the newest.
        """
        if not self.contact:
            return None
        if self._met:
            if self._counts_anew:
                self._trigger, self._counts_anew = Trigger(0), False
                self._part_ids.clear()
            elif drained and self._next_trigger is not None:
                self._show_trigger(self._next_trigger)
            if self._waiting and len(self.out) < _OUT_BYTES:
                self._show_command(self._waiting.popleft())
        self._met = True
        acknowledged = self._result.sequence if self._taken else 0
        return PlcInput(self._heartbeat, self._command, acknowledged, (self._trigger,))

    def cut(self) -> None:
        """The line was cut: what was under way in either direction is lost, and what was not shown yet is too old to be."""
        self.out.clear()
        self._lines.clear()
        self.contact = self._met = self._counts_anew = False
        self._next_trigger = None
        self._waiting.clear()
        self._sent_s = None

    def _look(self, signals: StationSignals) -> None:
        """Another result stands: nobody has heard it yet."""
        if signals.result != self._result:
            self._result, self._result_part_id = signals.result, self._part_ids.get(signals.result.sequence, "")
            self._sent_s, self._taken, self._tellings = None, False, None

    def _is_due(self, now_s: float, unsent: int) -> bool:
        """At once, and then in time again; but copies do not pile up before a slow line."""
        return self._sent_s is None or (now_s - self._sent_s >= self._acknowledge_s and unsent < _ANSWER_BYTES)

    def _take(self, said: Said, signals: StationSignals) -> bytes:
        """Notes what was said and returns the immediate answer, possibly nothing."""
        self.contact = True
        match said:
            case Trigger():
                return self._take_trigger(said)
            case Ordered():
                return self._take_command(said)
            case Taken(sequence):
                self._taken = self._taken or (sequence == self._result.sequence and self._sent_s is not None)
                return b""
            case Beat(count):
                self._heartbeat = count
                return heartbeat_line(signals)
            case StatusWanted():
                return status_line(signals)

    def _take_trigger(self, trigger: Trigger) -> bytes:
        """A new part, or an old one asked for again; the result that stands is not sent again for another part with its number."""
        if trigger.sequence == 0:
            self._counts_anew, self._next_trigger, self._result_part_id = True, None, None
            return b""
        newest = self._next_trigger or (Trigger(0) if self._counts_anew else self._trigger)
        if trigger.sequence == newest.sequence and trigger != newest:
            return refusal_line(Refused("ARG"))
        if trigger.sequence == self._result.sequence:
            if trigger.part_id != self._result_part_id:
                return refusal_line(Refused("ARG"))
            if self._taken:
                self._tellings = _TELLINGS
            self._sent_s, self._taken = None, False
        self._next_trigger = trigger
        return b""

    def _take_command(self, ordered: Ordered) -> bytes:
        """A new command waits for its turn; the last one again is answered again and not executed again."""
        last = self._waiting[-1] if self._waiting else self._ordered
        if last and last.command.sequence == ordered.command.sequence:
            ended = self._outcome if last is self._ordered else b""
            return acknowledge_line(ordered) + ended if last == ordered else refusal_line(Refused("ARG"))
        if len(self._waiting) >= _COMMANDS_WAITING:
            return refusal_line(Refused("BSY"))
        self._waiting.append(ordered)
        return acknowledge_line(ordered)

    def _show_trigger(self, trigger: Trigger) -> None:
        self._trigger, self._next_trigger = trigger, None
        self._part_ids.setdefault(trigger.sequence, trigger.part_id)
        if len(self._part_ids) > _PARTS_KNOWN:
            self._part_ids.pop(next(iter(self._part_ids)))

    def _show_command(self, ordered: Ordered) -> None:
        if self._ordered and self._command.code:
            self.out += error_line(self._ordered, ErrorCode.COMMAND_SUPERSEDED)
        self._ordered, self._command, self._outcome = ordered, ordered.command, b""
