"""The judging half of the simulated PLC: which part may go to the good bin, and what the station did that it must never do.

It knows the wire's version 1 from its page alone and shares no line with the station or its drivers. A part is a reject until
everything that is said about it fits.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

STATION_REGISTERS = range(24)
WIRE_VERSION = 1
PASS_WORD, FAIL_WORD = 0x5AA5, 0x0000
INITIALIZED, READY, SINGLE, CONTINUOUS = 5, 6, 7, 8
STATES = frozenset({1, 2, 3, INITIALIZED, READY, SINGLE, CONTINUOUS})
REASONS = ("none", "good", "defect", "uncertain", "late", "missed_frame", "inspection_error", "not_running", "wrong_recipe")
GOOD_REASON = 1
HEARTBEAT_MARGIN_S = 0.5


class StationBlock:
    """The station's 24 registers, by name. `answer` is everything that is said about one part (registers 5 to 18)."""

    def __init__(self, words: Sequence[int]) -> None:
        self.version, self.state, self.heartbeat, self.recipe, self.checksum = words[:5]
        self.sequence, self.verdict, self.reason = words[5:8]
        self.answer = tuple(words[5:19])
        self.answer_recipe, self.answer_checksum = words[17:19]
        self.command_echo, self.command_status, self.error_code = words[19:22]
        self.sequence_again = words[23]


@dataclass
class Counts:
    """What the PLC saw of the station. `latencies_s` run from the trigger in the registers to the answer in them."""

    triggers: int = 0
    answered: int = 0
    passed: int = 0
    rejected: int = 0
    timeouts: int = 0
    repeats: int = 0
    acknowledged: int = 0
    recoveries: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    recipes: dict[int, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))

    def violation(self, text: str) -> None:
        """Notes what the station must never do, each thing once."""
        if text not in self.violations:
            self.violations.append(text)


class HeartbeatWatch:
    """Says whether a counter still moves: alive from its first change until it stood still for longer than `limit_s`."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._count: int | None = None
        self._moved_s: float | None = None
        self._now_s = 0.0

    def see(self, count: int, now_s: float) -> float:
        """Looks at the counter at `now_s` and returns for how long it had stood still if it just moved again too late, else 0."""
        self._now_s = now_s
        if self._count is None:
            self._count = count
        if count == self._count:
            return 0.0
        still_s = 0.0 if self._moved_s is None else now_s - self._moved_s
        self._count, self._moved_s = count, now_s
        return still_s if still_s > self._limit_s else 0.0

    @property
    def alive(self) -> bool:
        """True when it moved within the limit before the last look."""
        return self._moved_s is not None and self._now_s - self._moved_s <= self._limit_s


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as results name it: its number, and the checksum that the station reported when it was prepared."""

    number: int = 0
    checksum: int = 0


class Judge:
    """Sees every block the station writes and judges the part in flight.

    Attributes:
        counts: what was seen so far.
        station: the block seen last.
        acknowledge: the sequence to be written as acknowledged.
        asked: the number of the recipe that was asked for last.
    """

    def __init__(self, deadline_ms: int) -> None:
        """The station is dead when its heartbeat stands still for longer than `deadline_ms` + 500 ms."""
        self.counts = Counts()
        self.station = StationBlock([0] * len(STATION_REGISTERS))
        self.acknowledge = 0
        self.asked = 0
        self._heartbeat = HeartbeatWatch(deadline_ms / 1000 + HEARTBEAT_MARGIN_S)
        self._met = False
        self._in_flight = 0
        self._expected = Recipe()
        self._overdue: set[int] = set()
        self._taken: dict[int, tuple[int, ...]] = {}

    @property
    def alive(self) -> bool:
        """True while the station's heartbeat moves."""
        return self._heartbeat.alive

    @property
    def running(self) -> bool:
        """True while the station is alive in ContinuousExecution."""
        return self.alive and self.station.state == CONTINUOUS

    @property
    def usable(self) -> bool:
        """True while the station is alive, speaks this wire and can prepare a recipe."""
        return self.alive and self.station.version == WIRE_VERSION and self.station.state in (INITIALIZED, READY, CONTINUOUS)

    def see(self, words: Sequence[int], now_s: float) -> None:
        """Takes the station's registers as they stand at `now_s`."""
        before, self.station = self.station, StationBlock(words)
        station = self.station
        still_s = self._heartbeat.see(station.heartbeat, now_s)
        if not self._met:
            return
        if still_s and station.state in (SINGLE, CONTINUOUS):
            self.counts.violation(f"the heartbeat stood still for {still_s:.1f} s while state {station.state} ran on")
        if station.version != WIRE_VERSION:
            self.counts.violation(f"wire version {station.version} instead of {WIRE_VERSION}")
        if station.state not in STATES:
            self.counts.violation(f"unknown state {station.state}")
        if station.sequence != station.sequence_again:
            self.counts.violation(f"torn: register 5 says {station.sequence}, register 23 {station.sequence_again}")
        elif station.sequence:
            self._see_answer(before)

    def _see_answer(self, before: StationBlock) -> None:
        sequence = self.station.sequence
        if sequence in self._taken:
            if self.station.answer != self._taken[sequence]:
                self.counts.violation(f"the answer to {sequence} changed after it was acknowledged")
            if before.sequence != sequence:
                self.counts.repeats += 1
                self.acknowledge = sequence
        elif sequence in self._overdue:
            self._take()
        elif sequence != self._in_flight:
            self.counts.violation(f"an answer to {sequence}, which was never triggered")

    def meet(self) -> None:
        """Begins to watch. What stands there from before is taken, so that it is not mistaken for an answer."""
        self._met = True
        if self.station.sequence:
            self._taken[self.station.sequence] = self.station.answer
            self.acknowledge = self.station.sequence

    def trigger(self, sequence: int, expected: Recipe) -> None:
        """Part `sequence` is on its way, and only `expected` may pass it."""
        self._taken.pop(sequence, None)
        self._in_flight = sequence
        self._expected = expected
        self.counts.triggers += 1

    def verdict(self) -> bool | None:
        """True for the good bin and False for the reject bin once the answer to the part in flight stands there, None until then."""
        if not self._in_flight or not self.station.sequence == self.station.sequence_again == self._in_flight:
            return None
        good = self._judge()
        self._take()
        self._settle(good)
        return good

    def time_out(self) -> None:
        """The part in flight is rejected; an answer that still comes is taken and changes nothing."""
        self._overdue.add(self._in_flight)
        self.counts.timeouts += 1
        self._settle(good=False)

    def _settle(self, good: bool) -> None:
        self._in_flight = 0
        self.counts.passed += good
        self.counts.rejected += not good

    def _take(self) -> None:
        sequence = self.station.sequence
        self._overdue.discard(sequence)
        self._taken[sequence] = self.station.answer
        self.acknowledge = sequence
        self.counts.acknowledged += 1

    def _judge(self) -> bool:
        """The code word, from the recipe that was asked for, of a station that is alive and speaks this wire."""
        station, expected = self.station, self._expected
        named = Recipe(station.answer_recipe, station.answer_checksum)
        passed = station.verdict == PASS_WORD
        self._count(passed)
        changing = expected.number != self.asked
        if passed and named != expected and not (changing and named.number == self.asked):
            self.counts.violation(f"part {station.sequence} passed by {named}, not by {expected}")
        return passed and named == expected and self.alive and station.version == WIRE_VERSION

    def _count(self, passed: bool) -> None:
        station, counts = self.station, self.counts
        known = station.reason < len(REASONS)
        reason = REASONS[station.reason] if known else str(station.reason)
        counts.answered += 1
        counts.reasons[reason] = counts.reasons.get(reason, 0) + 1
        counts.recipes[station.answer_recipe] = counts.recipes.get(station.answer_recipe, 0) + 1
        if not known or not station.reason:
            counts.violation(f"part {station.sequence} was answered for reason {station.reason}")
        if station.verdict not in (PASS_WORD, FAIL_WORD):
            counts.violation(f"part {station.sequence} was answered with code word 0x{station.verdict:04X}")
        if passed != (station.reason == GOOD_REASON):
            counts.violation(f"part {station.sequence} was answered {'PASS' if passed else 'FAIL'} for reason {reason}")
