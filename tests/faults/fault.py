"""What a row of the table is made of, and the words for what a PLC sees."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from judge import Part
from plant import BULB, CONTINUOUS, FREE, HARDWARE, LINKS, Event, NotSeenError, Plant, Sees, goes_on

Act = Callable[[Plant], AbstractContextManager[None]]
"""Does it to a running line, and undoes on leaving what can be undone."""
PLC_COUNTS = tuple(link for link in LINKS if link not in (HARDWARE, FREE))

__all__ = [
    "FREE",
    "LINKS",
    "PLC_COUNTS",
    "Act",
    "Fault",
    "act",
    "any_of",
    "dead",
    "done",
    "error",
    "failed",
    "goes_on",
    "refused",
    "rejected",
    "times_out",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row.

    Attributes:
        injected, seen: for the reader: what is done, and what the PLC must see within `within_s` of it.
        sees: the same for the suite.
        restarts: the daemon is another one afterwards.
    """

    name: str
    group: Literal["camera", "wire", "host"]
    injected: str
    seen: str
    sees: Sees
    within_s: float
    act: Act
    links: tuple[str, ...] = PLC_COUNTS
    restarts: bool = False

    def happen(self, line: Plant) -> float:
        """Does it to `line` at a random moment, and brings the line back. Returns the reaction time, in s.

        Raises:
            NotSeenError: the PLC did not see what it must, or what it would have seen without the fault too and nothing proves that it was
                injected; or the line did not come back.
        """
        line.judge.fault, line.late_s = self.name, 0.0
        sees = any_of(self.sees, error(8)) if line.link == HARDWARE else self.sees
        if line.link == FREE and self.sees(Event(1.0, "answer", part=_NOT_RUN), 0.0):
            sees = any_of(self.sees, stands)  # there the PLC sends no part to a line that does not run
        proofs = line.proofs + line.wire.harmed
        line.pause(line.chance.uniform(0, 0.15))
        line.mark()
        with self.act(line):
            reaction_s = line.wait(sees, self.within_s, self.seen)
        if line.proofs + line.wire.harmed == proofs and sees(Event(1.0, "answer", part=_HEALTHY), 0.0):
            raise NotSeenError(f"{self.seen}: nothing proves that it was injected")
        line.run(BULB)
        line.judge.fault = ""
        return reaction_s


act = contextmanager
_HEALTHY = Part(1, "", good=True, product=BULB, asked=(BULB, 0), triggered_s=0.5, passed=True)
"""What a line without a fault shows too."""
_NOT_RUN = Part(1, "", good=True, product=BULB, asked=(BULB, 0), triggered_s=0.5, passed=False, reason="not running")


def failed(*reasons: str) -> Sees:
    """A part is answered FAIL, for one of these reasons."""

    def sees(event: Event, since_s: float) -> bool:  # noqa: ARG001 - a Sees
        return event.kind == "answer" and event.part is not None and not event.part.passed and event.part.reason in reasons

    return sees


def stands(event: Event, _: float) -> bool:
    """The line does not run any more."""
    return event.kind == "state" and event.value != CONTINUOUS


def rejected(event: Event, since_s: float) -> bool:
    """A good part that was triggered after the fault is answered FAIL."""
    part = event.part
    return event.kind == "answer" and part is not None and part.good and not part.passed and part.triggered_s > since_s


def error(*codes: int) -> Sees:
    """State Error, for one of these reasons."""
    return lambda event, _: event.kind == "error" and event.value in codes


def refused(*codes: int) -> Sees:
    """The command fails with this code."""
    return lambda event, _: event.kind == "refused" and event.value in codes


def any_of(*those: Sees) -> Sees:
    """One of them."""
    return lambda event, since_s: any(sees(event, since_s) for sees in those)


def done(event: Event, _: float) -> bool:
    """The command is done."""
    return event.kind == "done"


def dead(event: Event, _: float) -> bool:
    """The heartbeat stood still for longer than the deadline and 500 ms."""
    return event.kind == "dead"


def times_out(event: Event, _: float) -> bool:
    """A part has no answer in the PLC's time, and is a reject."""
    return event.kind == "timeout"
