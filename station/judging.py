"""A part in, its one answer out: its frame is inspected, the Gate judges, and the row is committed before anybody hears of it."""

from collections.abc import Callable

from drivers.camera import Frame
from drivers.plc import ErrorCode
from station.condition import Condition
from station.failsafe import Gate, Part
from station.inspection import Inspection, Result, Verdict
from station.inspector import Inspector
from station.ledger import LedgerError
from station.matching import Match
from station.state import State

WARM_FOR_NS = 500_000_000
"""A network that did nothing for longer is kept warm."""


class Judging:
    """Owns the job: its number, how many of its parts were not answered PASS, and how many of them in a row.

    Attributes:
        job_id: the number of the newest job, from 1; 0 before the first.
        failed_parts: answers other than PASS since it was begun.
    """

    def __init__(self, condition: Condition, clock: Callable[[], int], *, job_id: int, rejects_in_a_row: int, is_simulated: bool) -> None:
        """`rejects_in_a_row`: after so many parts without PASS the line is stopped; 0 never is."""
        self.job_id = job_id
        self.failed_parts = 0
        self._condition, self._clock = condition, clock
        self._most_rejects, self._is_simulated = rejects_in_a_row, is_simulated
        self._rejects_in_a_row = 0
        self._gate = Gate()
        self._warm_ns = clock()

    def begin_job(self) -> None:
        """The next job: its parts are counted anew."""
        self.job_id += 1
        self.failed_parts = self._rejects_in_a_row = 0
        self._condition.note("job", str(self.job_id))

    def answer(self, match: Match, inspector: Inspector | None) -> tuple[Result, int | None]:
        """Inspects the part's frame, judges and commits. Returns the answer, and its row in the ledger or None when it has none.

        `inspector` is the prepared recipe's, None when none is.
        """
        inspection, detail = None, match.detail
        if match.frame is not None and self._condition.executing:
            inspection, detail = self._inspect(match.frame, inspector)
        part = Part(
            job_id=self.job_id if self._condition.executing and match.of_job else 0,
            sequence=match.count.sequence,
            part_id=match.count.part_id,
            triggered_ns=match.count.heard_ns,
            asked_recipe=match.count.asked.number,
            asked_hash=match.count.asked.hash,
            recipe=inspector.recipe if inspector else None,
            frame=match.frame,
            inspection=inspection,
            is_simulated=self._is_simulated,
            detail=detail,
        )
        result, result_id = self._keep(part)
        self._count(result)
        return result, result_id

    def keep_warm(self, inspector: Inspector | None) -> None:
        """While no part comes the network is kept as fast as it was, and found out about when its device is lost."""
        now_ns = self._clock()
        if inspector is None or ErrorCode.INSPECTION in self._condition.causes or now_ns - self._warm_ns < WARM_FOR_NS:
            return
        self._warm_ns = now_ns
        try:
            inspector.keep_warm()
        except Exception as error:  # noqa: BLE001 - as for a part: the line stops, here before one comes
            self._lose_device(error)

    def _inspect(self, frame: Frame, inspector: Inspector | None) -> tuple[Inspection | None, str]:
        """What is seen in a part's frame; when it is None, the words say why."""
        if frame.flaw:
            return None, frame.flaw
        if inspector is None:
            return None, "no recipe is prepared"
        try:
            return inspector.inspect(frame), ""
        except ValueError as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - whatever the network failed of, the part fails and the line stops
            self._lose_device(error)
            return None, str(error)
        finally:
            self._warm_ns = self._clock()

    def _keep(self, part: Part) -> tuple[Result, int | None]:
        """What cannot be kept is FAIL, whatever was seen."""
        result = self._gate.judge(part, self._condition.state, self._clock())
        try:
            return result, self._condition.keep(result)
        except LedgerError:
            failed = self._gate.judge(part, State.ERROR, self._clock())
            self._condition.keep_later(failed)
            return failed, None

    def _count(self, result: Result) -> None:
        rejected = result.verdict is not Verdict.PASS
        self.failed_parts += rejected
        self._rejects_in_a_row = self._rejects_in_a_row + 1 if rejected else 0
        if self._condition.executing and 0 < self._most_rejects <= self._rejects_in_a_row:
            rejects = f"{self._rejects_in_a_row} parts in a row were not answered PASS"
            self._condition.fail(ErrorCode.REJECTS, f"{rejects}: look at the parts, then reset")

    def _lose_device(self, error: Exception) -> None:
        self._condition.fail(ErrorCode.INSPECTION, f"{type(error).__name__}: {error}; reset when the device is well again")
