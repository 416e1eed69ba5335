"""The judge at the PLC's end: which part may leave with PASS by the wire's page, and whether it should have, by what really lay there.

It counts on its own: each part and its number, which products were asked for, what every part really is and whether anybody can have seen
it, when it was triggered, answered and given up, the station's heartbeat, its states and its jobs as the PLC sees them. A PLC's own rules
(PLC.md, 1 to 5) decide from that what leaves with PASS; the truth about the part decides whether that was wrong. A part that has no answer
although the station ran all the while is found here too, and so is an answer that changes.

It takes from the station what stands on the wire, which is what is judged. A recipe's checksum is worked out by the suite, over the hash of
its folder before the station starts. The ledger excuses nothing here: `ledger_check` only adds to what is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

PASS_WORD, FAIL_WORD, WIRE_VERSION = 0x5AA5, 0x0000, 1
LONGEST_S = 2.0
"""The PLC rejects a part that has no answer by then: two frame windows and the recipe's deadline of the suite's home, and some."""
STILL_S = 1.5
"""The heartbeat may stand for the recipe's deadline and 500 ms (rule 5)."""
REASONS = ("none", "good", "defect", "uncertain", "late", "missed frame", "inspection error", "not running", "wrong recipe")
NOT_RUNNING = REASONS.index("not running")
CONTINUOUS = 8


@dataclass(slots=True)
class Part:
    """One part, from the moment it lies before the camera.

    Attributes:
        good: what it really is.
        product: the number of the recipe that knows it.
        asked: the recipe that the PLC had asked for when it triggered, and that recipe's checksum; -1 when there is no such recipe.
        taint: why this part must not pass however good it is: nobody can have seen it whole.
        disturbed: the fault that was under way during its life.
        shown: False for a number that was jumped over.
        excused: the PLC saw why no answer may come: the station was dead or did not run, or the PLC itself began anew.
        job: in which of the station's jobs it was answered, as the PLC counts them; 0 outside of any.
    """

    sequence: int
    part_id: str
    good: bool
    product: int
    asked: tuple[int, int]
    triggered_s: float
    taint: str = ""
    disturbed: str = ""
    shown: bool = True
    excused: bool = False
    job: int = 0
    answer: tuple[int, ...] | None = None
    passed: bool | None = None
    reason: str = ""
    answered_s: float = 0.0


@dataclass
class Judge:
    """Takes each block of registers that the PLC sees.

    Attributes:
        parts: all parts, oldest first.
        wrong: parts that left with PASS and should not have, in words.
        violations: what the station must never say, in words.
        numbers_itself: nobody counts for the station: it numbers its frames, and the PLC its parts, from 1 at StartContinuous.
    """

    fault: str = ""
    parts: list[Part] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    numbers_itself: bool = False
    acknowledge: int = 0
    _job: int = 0
    _runs: bool = False
    _known: dict[int, Part] = field(default_factory=dict)
    _before: set[int] = field(default_factory=set)
    _beat: int = -1
    _beat_s: float = -1e9

    def alive(self, now_s: float) -> bool:
        """True while the station's heartbeat moves."""
        return now_s - self._beat_s <= STILL_S

    def triggered(self, part: Part) -> None:
        """This part's trigger is on its way."""
        self.parts.append(part)
        self._known[part.sequence] = part
        self._before.discard(part.sequence)

    def anew(self) -> None:
        """The PLC begins another numbering: what it had asked for is rejected, and answers to it mean nothing any more."""
        self.excuse()
        for part in self._known.values():
            self._reject(part, "the PLC was restarted")
        self._before |= set(self._known)
        self._known.clear()
        self.acknowledge = 0

    def excuse(self) -> None:
        """The station need not answer what waits: the PLC stopped, started or reset it, or saw that it does not run."""
        for part in self._known.values():
            part.excused = part.excused or part.answer is None

    def see(self, words: Sequence[int], now_s: float) -> Part | None:
        """The station's 24 registers as they stand; returns the part that is answered by them, if one is."""
        if words[2] != self._beat:
            self._beat, self._beat_s = words[2], now_s
        self._see_state(words[1] == CONTINUOUS, now_s)
        sequence = words[5]
        if not sequence or sequence != words[23] or words[0] != WIRE_VERSION:
            return None
        answer = tuple(words[5:19])
        part = self._known.get(sequence)
        if part is None:
            if words[6] == PASS_WORD and sequence not in self._before:
                self._violation(f"PASS for {sequence}, which nobody asked for")
            self.acknowledge = sequence
            return None
        self.acknowledge = sequence
        if part.answer is not None:
            over = words[7] == NOT_RUNNING or not self._runs or part.job != self._job  # then it is a reject anew, asked for again
            if part.answer != answer and not (words[6] == FAIL_WORD and over):
                self._violation(f"the answer to {sequence} changed from {part.answer} to {answer}")
            return None
        part.answer = answer
        part.job = 0 if words[7] == NOT_RUNNING else self._job
        self._look(part, words, now_s)
        return part

    def give_up(self, now_s: float) -> list[Part]:
        """Parts whose time is over; they are rejected."""
        late = [part for part in self._known.values() if part.passed is None and part.shown and now_s - part.triggered_s > LONGEST_S]
        for part in late:
            self._reject(part, "no answer in time")
        return late

    def unanswered(self) -> list[str]:
        """Parts that had no answer although the station lived and ran from their trigger on, in words."""
        return [
            f"part {part.part_id} ({part.sequence}, during {part.disturbed or 'no fault'}) was never answered, and the station ran"
            for part in self.parts
            if part.answer is None and part.shown and not part.excused
        ]

    def _see_state(self, runs: bool, now_s: float) -> None:
        self._job += runs and not self._runs
        self._runs = runs
        if not (runs and self.alive(now_s)):
            self.excuse()

    def _look(self, part: Part, words: Sequence[int], now_s: float) -> None:
        verdict, reason = words[6], words[7]
        named = (words[17], words[18])
        if verdict not in (PASS_WORD, FAIL_WORD) or not 0 < reason < len(REASONS):
            self._violation(f"part {part.sequence} was answered 0x{verdict:04X} for reason {reason}")
        elif (verdict == PASS_WORD) != (reason == 1):
            self._violation(f"part {part.sequence} was answered 0x{verdict:04X} for reason {REASONS[reason]}")
        if part.passed is not None:
            return  # too late: it lies in the reject bin
        part.passed = verdict == PASS_WORD and named == part.asked and self.alive(now_s) and now_s - part.triggered_s <= LONGEST_S
        part.reason = REASONS[reason] if reason < len(REASONS) else str(reason)
        part.answered_s = now_s
        if verdict == PASS_WORD and named != part.asked and part.asked[1] >= 0:
            self._violation(f"part {part.sequence} passed by recipe {named}, asked for was {part.asked}")
        if part.passed:
            self._weigh(part)

    def _weigh(self, part: Part) -> None:
        """The truth about a part that leaves with PASS."""
        faults = [
            "it is defective" if not part.good else "",
            f"it was not seen: {part.taint}" if part.taint else "",
            f"it is a part for recipe {part.product}" if part.product != part.asked[0] else "",
            "it was never there" if not part.shown else "",
        ]
        if any(faults):
            self.wrong.append(
                f"{self.fault or 'no fault'}: part {part.part_id} ({part.sequence}) left with PASS: {', '.join(filter(None, faults))}"
            )

    def _reject(self, part: Part, why: str) -> None:
        if part.passed is None:
            part.passed, part.reason = False, why

    def _violation(self, text: str) -> None:
        words = f"{self.fault or 'no fault'}: {text}"
        if words not in self.violations:
            self.violations.append(words)
