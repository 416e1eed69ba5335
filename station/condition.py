"""How the line is: its state, the causes of error that stop it, and the ledger's word on both, which may be a cause itself."""

from collections.abc import Callable
from contextlib import suppress

import structlog

from drivers.plc import ErrorCode
from station.inspection import Result
from station.ledger import Ledger, LedgerError
from station.state import EXECUTING, Event, State, after

_LEFT_BY_RESET = (ErrorCode.NOT_ACKNOWLEDGED, ErrorCode.PLC_RESTARTED, ErrorCode.INSPECTION, ErrorCode.COUNT, ErrorCode.REJECTS)
_log = structlog.get_logger()


class Condition:
    """Owns the state, the causes of error, and what could not be kept yet. Every change is noted in log and ledger.

    Attributes:
        causes: why the line is or must be stopped, in words by the wire's number; one that is gone is not in it.
    """

    def __init__(self, ledger: Ledger, wall_clock: Callable[[], int]) -> None:
        self.state = State.PREOPERATIONAL
        self.causes: dict[ErrorCode, str] = {}
        self._ledger, self._wall_clock = ledger, wall_clock
        self._unkept: list[Result] = []
        self._taken: list[int] = []

    @property
    def executing(self) -> bool:
        """True in the states in which parts are inspected."""
        return self.state in EXECUTING

    def move(self, event: Event) -> None:
        """Goes where `event` leads, which must be allowed."""
        state = after(self.state, event)
        assert state is not None, f"{event.name} in {self.state.words}"
        if state is not self.state:
            self.note("state", f"{self.state.words} -> {state.words}")
            self.state = state

    def fail(self, cause: ErrorCode, why: str) -> None:
        """There is a cause of error, or there still is; the newest words count."""
        if cause not in self.causes:
            self.causes[cause] = why
            self.note("error", f"{cause.name}: {why}")
        self.causes[cause] = why

    def over(self, cause: ErrorCode) -> None:
        """That cause is gone, if it was there."""
        self.causes.pop(cause, None)

    def reset(self) -> None:
        """Lets go of the causes that do not go by themselves, and of what can never be kept."""
        if self._unkept and self._ledger.writable():  # then it is not the disk, but these
            self.note("error", f"{len(self._unkept)} answers, all FAIL, could not be kept and were given up")
            self._unkept.clear()
        for cause in _LEFT_BY_RESET:
            self.over(cause)

    def note(self, event: str, detail: str) -> None:
        """Keeps what happened."""
        with suppress(OSError):  # nobody reads the log any more: the line goes on
            _log.info(event, detail=detail, state=self.state.words)
        self._record(lambda: self._ledger.note(event, detail, self._wall_clock()))

    def keep(self, result: Result) -> int:
        """Commits an answer and returns its row.

        Raises:
            LedgerError: it is not kept, and that is a cause of error now.
        """
        try:
            return self._ledger.append(result, self._wall_clock())
        except LedgerError as error:
            self.fail(ErrorCode.LEDGER, str(error))
            raise

    def keep_later(self, result: Result) -> None:
        """An answer that was given although it could not be kept: kept as soon as the ledger can be written."""
        self._unkept.append(result)

    def keep_acknowledged(self, result_id: int) -> None:
        """Keeps that the PLC took the answer of that row, as soon as the ledger can be written.

        None is kept before what explains the rows that went before it: the audit goes by the ledger's own order.
        """
        self._taken.append(result_id)
        if ErrorCode.LEDGER not in self.causes:
            self._record(self._keep_taken)

    def knows(self, job_id: int, sequence: int) -> bool:
        """True when that part has an answer in the ledger, or when it cannot be read."""
        try:
            return self._ledger.answer(job_id, sequence) is not None
        except LedgerError as error:
            self.fail(ErrorCode.LEDGER, str(error))
            return True

    def watch_ledger(self) -> None:
        """A ledger that cannot be written is a cause of error until it can, and holds what it lacked."""
        if not self._ledger.writable():
            self.fail(ErrorCode.LEDGER, f"no part can pass until the ledger can be written: {self._ledger.trouble}")
        elif ErrorCode.LEDGER in self.causes:
            self._keep_unkept()

    def _keep_unkept(self) -> None:
        """Writes what could not be written; the cause is gone when all of it is in the ledger. Nobody kept who took it meanwhile."""
        late = len(self._unkept)
        try:
            while self._unkept:
                self._ledger.append(self._unkept[0], self._wall_clock())
                self._unkept.pop(0)
            self._ledger.note("error", f"{ErrorCode.LEDGER.name}: over; {late} answers were kept late", self._wall_clock())
            self._keep_taken()
        except LedgerError:
            return
        self.over(ErrorCode.LEDGER)

    def _keep_taken(self) -> None:
        while self._taken:
            self._ledger.acknowledge(self._taken[0], self._wall_clock())
            self._taken.pop(0)

    def _record(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LedgerError as error:
            self.causes[ErrorCode.LEDGER] = str(error)
