"""The exchanges with one PLC: what it said last and when, whether it is still there, and whether its program runs. Knows no part."""

from collections import deque
from collections.abc import Callable

from drivers.plc import Plc, PlcError, PlcInput, StationSignals, Trigger

PATIENCE_NS = 500_000_000
"""So long may exchanges fail one after the other, as noise makes them, before the wire counts as cut."""

FASTEST_HEARTBEAT_PER_MS = 5
"""A heartbeat that a PLC counts in scans of 0.2 ms; one that moves faster was set."""
JUMPS = 8
"""So many ways in which it was set before are known: a counter that wraps early and a bit that toggles are set the same way again."""


class Wire:
    """Owns the wire to one PLC. Times are the monotonic clock's.

    Attributes:
        hears: the last exchange went well.
        heard: what the PLC said last; None before the first exchange that went well, and from when the wire counts as cut.
        begun_ns, heard_ns: when the exchange began and ended that `heard` is from.
    """

    def __init__(self, plc: Plc, clock: Callable[[], int]) -> None:
        """Says nothing yet."""
        self.hears = False
        self.heard: PlcInput | None = None
        self.begun_ns = self.heard_ns = clock()
        self._plc, self._clock = plc, clock
        self._unheard_since_ns: int | None = self.heard_ns
        self._triggers: tuple[Trigger, ...] = ()
        self._heartbeat: int | None = None
        self._moved_ns = self._said_after_ns = self.heard_ns
        self._jumps: deque[tuple[int, int]] = deque(maxlen=JUMPS)
        self._restarted = ""

    def exchange(self, signals: StationSignals) -> None:
        """Tells the PLC and hears it; one that fails is borne for a while.

        Raises:
            PlcError: the wire is cut.
        """
        begun_ns = self._clock()
        try:
            heard = self._plc.exchange(signals)
        except PlcError:
            self.hears = False
            now_ns = self._clock()
            self._unheard_since_ns = now_ns if self._unheard_since_ns is None else self._unheard_since_ns
            if now_ns - self._unheard_since_ns > PATIENCE_NS:
                self.heard = None
                raise
            return
        self.hears, self._unheard_since_ns = True, None
        self.heard, self._triggers = heard, heard.triggers
        before_ns = self.heard_ns
        self.begun_ns, self.heard_ns = begun_ns, self._clock()
        self._see(heard.heartbeat, before_ns)

    def triggers(self) -> tuple[Trigger, ...]:
        """The triggers of the last exchange, oldest first, once: what was heard once is not heard again because the next one failed."""
        triggers, self._triggers = self._triggers, ()
        return triggers

    def restarted(self) -> str:
        """Words when the PLC's heartbeat has moved since the last call as no count does, and as it never did before; else empty."""
        restarted, self._restarted = self._restarted, ""
        return restarted

    @property
    def stands_still_ns(self) -> int:
        """For how long the PLC's heartbeat had not moved in the last exchange."""
        return self.heard_ns - self._moved_ns

    def begin_to_watch(self, now_ns: int) -> None:
        """How long its heartbeat stood still before does not count."""
        self._moved_ns = now_ns

    def close(self) -> None:
        """See `Plc.close`."""
        self._plc.close()

    def _see(self, heartbeat: int, said_after_ns: int) -> None:
        """Said after the exchange before: a station that stood still hears late what was said at once."""
        before, since_ns = self._heartbeat, self._said_after_ns
        if heartbeat == before:
            return
        self._heartbeat, self._moved_ns, self._said_after_ns = heartbeat, self.heard_ns, said_after_ns
        if before is None:
            return
        passed_ms = (self.heard_ns - since_ns) // 1_000_000
        possible = 50 + FASTEST_HEARTBEAT_PER_MS * passed_ms
        if not possible < (heartbeat - before) % 65_536 < 65_535:  # no faster than a scan, or a bit that toggles
            return
        if not any(_apart(before, left) <= possible and _apart(heartbeat, reached) <= possible for left, reached in self._jumps):
            self._restarted = f"the PLC was restarted: its heartbeat went from {before} to {heartbeat} within {passed_ms} ms"
            self._jumps.append((before, heartbeat))


def _apart(one: int, other: int) -> int:
    return min((one - other) % 65_536, (other - one) % 65_536)
