"""What the PLC's triggers ask for: new parts, parts it jumped over, parts it was answered before, or a new numbering."""

from collections.abc import Iterable
from dataclasses import replace

from drivers.plc import ErrorCode, Trigger
from station.answers import Answers
from station.condition import Condition
from station.counting import Parts
from station.handshake import Asked
from station.judging import Judging
from station.matching import Count, Match
from station.numbering import Numbering
from station.sequence import is_ahead


class Triggers:
    """Tells new parts from old ones, by `Numbering` and by what was answered before."""

    def __init__(self, numbering: Numbering, parts: Parts, answers: Answers, judging: Judging, condition: Condition) -> None:
        self._numbering, self._parts, self._answers = numbering, parts, answers
        self._judging, self._condition = judging, condition
        self._suspicion = ""
        self._asked_again = False

    def hear(self, triggers: Iterable[Trigger], heard_ns: int, asked: Asked) -> tuple[list[Count], list[Match]]:
        """Takes the triggers of one exchange, oldest first.

        Args:
            asked: what the PLC had asked for, as far as it was told, when it said them.

        Returns:
            The parts that are new, those that were jumped over before them; and those that do not follow, which have no frame.
        """
        new: list[Count] = []
        strange: list[Match] = []
        for trigger in triggers:
            if not self._numbering.is_new(trigger.sequence):
                continue
            count = Count(trigger.sequence, trigger.part_id, heard_ns, asked)
            if trigger.sequence == 0:
                self.count_anew(f"the PLC's trigger sequence fell from {self._numbering.last} to 0")
            elif numbers := self._numbering.take(trigger.sequence):
                self._suspicion, self._asked_again = "", False
                new += [*(replace(count, sequence=number, part_id="") for number in numbers[:-1]), count]
            elif all(each.sequence != trigger.sequence for each in (*new, *(match.count for match in strange))):
                strange += self._out_of_order(count)
        return new, strange

    def suspect(self, why: str) -> None:
        """The PLC may have been restarted: if it asks for an old number before a new one, or just has, it counts anew."""
        self._suspicion = why
        if self._asked_again:
            self.count_anew(why)

    def count_anew(self, why: str) -> None:
        """The PLC begins a new numbering; while the line runs that is an error, because parts may have been lost with the old one."""
        self.drop_answers(why)
        if self._condition.executing and self._numbering.last:
            self._condition.fail(ErrorCode.PLC_RESTARTED, f"{why} while the line ran")
        self._answers.forget()
        self._numbering.begin_anew()
        self._suspicion, self._asked_again = "", False

    def drop_answers(self, why: str) -> None:
        """Leaves the wire at reject; answers that nobody acknowledged are explained in the ledger."""
        if not self._answers.settled():
            self._condition.note("error", f"answers given up: {why}")
        self._answers.drop()

    def _out_of_order(self, count: Count) -> list[Match]:
        """A number that does not follow: the same answer again if it had one in this job, else FAIL."""
        sequence, last = count.sequence, self._numbering.last
        ahead = is_ahead(last, sequence)
        if self._condition.executing and not ahead:
            self._asked_again = True
            if not self._suspicion and self._parts.awaits(sequence):
                return []
            if self._suspicion or not self._numbering.repeats(sequence):
                self.count_anew(f"the PLC's trigger sequence fell from {last} to {sequence}{self._suspicion and f'; {self._suspicion}'}")
                self._numbering.go_on_from(sequence)
            elif self._answers.repeat(sequence, count.part_id):
                return []
            elif self._condition.knows(self._judging.job_id, sequence):
                self._condition.note("trigger refused", f"part {sequence} was answered long ago, or with another part id")
                return []
        if ahead or not self._condition.executing:
            self._numbering.go_on_from(sequence)
        return [Match(count, None, f"part {sequence} does not follow part {last}", of_job=ahead)]
