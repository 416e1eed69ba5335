"""What must be true of a ledger's rows: the arithmetic of `ledger.audit`, row by row in the order they were kept. No I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from drivers.plc import LAST_SEQUENCE


@dataclass(frozen=True, slots=True)
class Audit:
    """What `ledger.audit` found; `dataclasses.asdict` gives the JSON document.

    Attributes:
        parts: parts that should have an answer: `answered + missing`.
        answered: parts with an answer, each counted once.
        acknowledged: rows that the PLC acknowledged.
        missing: sequences that were skipped inside a job.
        duplicate: rows that answer a part again.
        unexplained: rows without acknowledgement that nothing explains.
        findings: one sentence for each thing wrong, neighbours summarised.
        ok: there are no findings.
    """

    parts: int
    answered: int
    acknowledged: int
    missing: int
    duplicate: int
    unexplained: int
    findings: tuple[str, ...]
    ok: bool


class Parts:
    """Follows each job's sequences. A position is a sequence that goes on counting where sequences come round."""

    def __init__(self) -> None:
        self.duplicate = 0
        self._newest: dict[int, int] = {}
        self._missing: dict[int, set[int]] = {}
        self._findings: list[str] = []

    def take(self, result_id: int, job_id: int, sequence: int) -> None:
        """The next row."""
        if job_id == 0:
            return
        newest = self._newest.setdefault(job_id, sequence - 1)
        step = (sequence - newest) % LAST_SEQUENCE
        if step == 1:
            self._newest[job_id] = newest + 1
        elif 0 < step <= LAST_SEQUENCE // 2:
            self._missing.setdefault(job_id, set()).update(range(newest + 1, newest + step))
            self._newest[job_id] = newest + step
        else:
            self._look_back(result_id, job_id, newest - (newest - sequence) % LAST_SEQUENCE)

    def _look_back(self, result_id: int, job_id: int, position: int) -> None:
        skipped = self._missing.get(job_id, set())
        if position in skipped:
            skipped.remove(position)
            how = "out of order"
        else:
            self.duplicate += 1
            how = "again"
        self._findings.append(f"job {job_id}: part {_sequence(position)} was answered {how}, by result {result_id}")

    @property
    def missing(self) -> int:
        """How many parts were skipped and never answered."""
        return sum(map(len, self._missing.values()))

    def findings(self) -> Iterator[str]:
        """Every part that was repeated, out of order or skipped."""
        yield from self._findings
        for job_id, positions in self._missing.items():
            for first, last in runs(sorted(positions)):
                parts = f"part {_sequence(first)} was"
                if last > first:
                    parts = f"parts {_sequence(first)} to {_sequence(last)} ({last - first + 1}) were"
                yield f"job {job_id}: {parts} never answered"


class Acknowledgements:
    """Follows which rows were acknowledged."""

    def __init__(self, events: Sequence[tuple[int, int]]) -> None:
        """`events`: (newest result_id, newest acknowledged result_id) as each explaining event was noted, oldest first."""
        self.count = 0
        self._after_result = [result_id for result_id, _ in events]
        self._after_acknowledged = [result_id for _, result_id in events]
        self._waiting: list[int] = []
        self._unexplained: list[int] = []

    def take(self, result_id: int, acknowledged: bool) -> None:
        """The next row."""
        if not acknowledged:
            self._waiting.append(result_id)
            return
        self.count += 1
        if self._waiting:
            self._settle(bisect_left(self._after_acknowledged, result_id))

    def unexplained(self) -> list[int]:
        """After the last row: the result_ids that were not acknowledged and that nothing explains."""
        self._settle(len(self._after_result))
        return self._unexplained

    def _settle(self, events: int) -> None:
        """Explains the rows that wait by the last of the first `events` events: both of its numbers only ever grow."""
        explained = self._after_result[events - 1] if events else 0
        self._unexplained += self._waiting[bisect_right(self._waiting, explained) :]
        self._waiting = []


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours in ascending numbers."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


def _sequence(position: int) -> int:
    return (position - 1) % LAST_SEQUENCE + 1
