"""Which frame shows which part where a sensor fires the camera and the PLC counts (PLC.md, rule 10, `hardware`). No I/O.

A count is heard some time after its exposure, because the PLC has a scan time and the wire a turn; a frame arrives some time after it.
What is known for certain: the camera hands frames over in order and says when each was captured; the PLC counts in order; and an exchange
that began `count_delay_ns` after an exposure shows the count of that part, or the PLC never counted it. So frames and counts are compared
only up to such an exchange: as many of one as of the other belong together in order, where no later frame was captured before the last of
those counts was heard; more frames than counts is an error; and more counts than frames that stay so for the frame window cannot be told
apart and all fail. Whatever one thing goes wrong, however long the wire is silent, no part is given another one's frame. Of two at once one
pair escapes: a part that the camera did not see, and a pulse that only the camera saw just before or after it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from drivers.camera import Frame
from station.handshake import Asked


class MatchingError(Exception):
    """Frames and counts do not belong together; the message says what came without what."""


@dataclass(frozen=True, slots=True)
class Count:
    """A part that the PLC counted, as it was first heard: what was asked for then is what may pass it. `heard_ns`: monotonic."""

    sequence: int
    part_id: str
    heard_ns: int
    asked: Asked


@dataclass(frozen=True, slots=True)
class Match:
    """A part that can be answered now. `frame` is None when it has none for certain, or none that is certainly its; `detail` says it."""

    count: Count
    frame: Frame | None
    detail: str = ""
    of_job: bool = True
    """False for a number from before the job that runs: it is answered, and belongs to no job's count."""


@dataclass(frozen=True, slots=True)
class _Pending:
    count: Count
    after_ns: int
    """Began the last exchange that did not show it."""


@dataclass(frozen=True, slots=True)
class _Exposure:
    frame: Frame | None
    """None for one that the camera counted and lost before `captured_ns`."""
    captured_ns: int

    @property
    def words(self) -> str:
        return f"frame {self.frame.frame_id}" if self.frame else "a frame that was lost"


@dataclass(frozen=True, slots=True)
class _Lag:
    """By how much a frame was captured after its part was counted, at least and at most: what both ends' delays leave open."""

    least_ns: int
    most_ns: int

    def contradicts(self, other: "_Lag", tolerance_ns: int) -> bool:
        """True when no one lag, but for so much, explains both: then one of the two frames shows a neighbour."""
        return self.least_ns > other.most_ns + tolerance_ns or other.least_ns > self.most_ns + tolerance_ns


class Matching:
    """Owns the counts that have no answer yet, and the frames that no count was found for."""

    def __init__(self, window_ns: int, count_delay_ns: int) -> None:
        """Expects nothing yet.

        Args:
            window_ns: a count that is older has no frame any more.
            count_delay_ns: by how much later than the exposure the PLC's count can be read, and the frame be here, at the latest.
        """
        self._window_ns, self._delay_ns = window_ns, count_delay_ns
        self.forget()

    def forget(self) -> None:
        """Begins anew, with nothing counted and nothing seen."""
        self._counts: deque[_Pending] = deque()
        self._exposures: deque[_Exposure] = deque()
        self._given_up: deque[_Pending] = deque()
        self._begun_ns: int | None = None
        self._lag: _Lag | None = None
        self._has_seen = False

    def abandon(self) -> list[Match]:
        """Gives up every count that waits, and every frame."""
        abandoned = [Match(pending.count, None, "the line stopped before its frame was found") for pending in self._counts]
        self.forget()
        return abandoned

    def awaits(self, sequence: int) -> bool:
        """True when this part was counted and has no answer yet."""
        return any(pending.count.sequence == sequence for pending in self._counts)

    def heard(self, counts: list[Count], begun_ns: int) -> None:
        """Takes what one exchange told that began at `begun_ns`: the counts that were new in it, oldest first, or none."""
        after_ns = begun_ns if self._begun_ns is None else self._begun_ns
        self._counts.extend(_Pending(count, after_ns) for count in counts)
        self._begun_ns = begun_ns

    def see(self, frame: Frame) -> None:
        """Takes the camera's next frame, and those it counted and lost before it."""
        missed = frame.missed if self._has_seen else 0  # what was lost before the first one was another job's
        self._has_seen = True
        while missed and self._given_up:  # what was lost was theirs before it is anybody else's
            self._given_up.popleft()
            missed -= 1
        self._exposures.extend(_Exposure(None, frame.captured_ns) for _ in range(missed))
        self._exposures.append(_Exposure(frame, frame.captured_ns))

    def decide(self, now_ns: int) -> Iterator[Match]:
        """The parts that can be answered now, oldest first.

        Raises:
            MatchingError: a frame came without a count, or one that is not of the part it would be given to. What waits still waits.
        """
        decided = True
        while decided:
            decided = False
            for match in self._decide_next(now_ns):
                decided = True
                yield match

    def _decide_next(self, now_ns: int) -> Iterator[Match]:
        """What the oldest count and the oldest exposure allow to be said; nothing when they must wait."""
        while self._exposures and self._is_counted(self._exposures[0]) and not self._candidates(self._exposures[0]):
            self._drop_late(self._exposures[0])
        known = [*takewhile(self._is_counted, self._exposures)]
        if not self._counts:
            return
        closed_ns = self._counts[0].count.heard_ns + self._window_ns
        if self._exposures and closed_ns < self._exposures[0].captured_ns:
            if self._exposures[0].frame is None:
                self._exposures.popleft()
            yield self._without_frame()
            return
        candidates = [self._candidates(exposure) for exposure in known]
        for number, exposure in enumerate(known, 1):
            if candidates[number - 1] < number:
                raise MatchingError(f"the camera took {exposure.words}, and the PLC counted fewer parts than it took frames")
        for number, candidate in enumerate(candidates, 1):
            heard_ns = self._counts[number - 1].count.heard_ns
            if candidate == number and not self._taken_before(number, heard_ns):
                if now_ns >= heard_ns + self._delay_ns:
                    for _ in range(number):
                        yield self._join()
                return
        if now_ns > closed_ns and len(known) == len(self._exposures):
            yield from self._give_up(known, now_ns) if known else [self._without_frame()]

    def _is_counted(self, exposure: _Exposure) -> bool:
        """True when there was an exchange that must show this exposure's count."""
        return self._begun_ns is not None and self._begun_ns >= exposure.captured_ns + self._delay_ns

    def _candidates(self, exposure: _Exposure) -> int:
        """How many of the counts that wait can be this exposure's: all but those that were not shown when it had to be."""
        return sum(pending.after_ns < exposure.captured_ns + self._delay_ns for pending in self._counts)

    def _taken_before(self, number: int, heard_ns: int) -> bool:
        """True when the exposure after so many may be one of as many counts' too, the last of which was heard then."""
        return number < len(self._exposures) and self._exposures[number].captured_ns < heard_ns

    def _without_frame(self) -> Match:
        pending = self._counts.popleft()
        self._given_up.append(pending)
        return Match(pending.count, None, f"no frame within {self._window_ns / 1e6:.0f} ms of the PLC's count")

    def _drop_late(self, exposure: _Exposure) -> None:
        """An exposure without a count is one of a part that was given up before, or an error."""
        if not self._given_up or (exposure.frame and exposure.captured_ns > self._given_up[0].count.heard_ns + self._window_ns):
            raise MatchingError(
                f"the camera took {exposure.words}, and the PLC counted no part for it within {self._delay_ns / 1e6:.0f} ms"
            )
        self._given_up.popleft()
        self._exposures.popleft()

    def _join(self) -> Match:
        pending, exposure = self._counts[0], self._exposures[0]
        if self._given_up and exposure.captured_ns <= self._given_up[0].count.heard_ns + self._window_ns:
            late = self._given_up.popleft().count.sequence
            self._counts.popleft()
            self._exposures.popleft()
            return Match(pending.count, None, f"its frame may be part {late}'s, which had none in its window")
        if exposure.frame is not None:
            captured_ns = exposure.captured_ns
            lag = _Lag(captured_ns - pending.count.heard_ns, captured_ns - pending.after_ns + self._delay_ns)
            if self._lag and lag.contradicts(self._lag, self._delay_ns):
                raise MatchingError(
                    f"frame {exposure.frame.frame_id} was captured {lag.least_ns / 1e6:.0f} ms after the PLC's count "
                    f"{pending.count.sequence} was heard, the one before {self._lag.least_ns / 1e6:.0f} ms: they are not of the same part"
                )
            self._lag = lag
            self._given_up.clear()
        self._counts.popleft()
        self._exposures.popleft()
        return Match(pending.count, exposure.frame, "" if exposure.frame else "the camera lost the frame")

    def _give_up(self, known: list[_Exposure], now_ns: int) -> list[Match]:
        """Fewer frames than counts for the whole window: whose is whose cannot be told. Nothing while the last one's may be on its way."""
        number = self._candidates(known[-1])
        if now_ns < self._counts[number - 1].count.heard_ns + self._delay_ns:
            return []
        unclear = [self._counts.popleft() for _ in range(number)]
        for _ in known:
            self._exposures.popleft()
        self._given_up.extend(unclear[: len(unclear) - len(known)])
        detail = f"{len(unclear)} parts and {len(known)} frames: whose is whose cannot be told"
        return [Match(pending.count, None, detail) for pending in unclear]
