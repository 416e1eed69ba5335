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
        self._begun: dict[int, int] = {}
        self._missing: dict[int, set[int]] = {}
        self._findings: list[str] = []

    def begin(self) -> None:
        """The audit begins here: what was taken before shows where each job was, and is neither counted nor found."""
        self.duplicate = 0
        self._findings.clear()
        self._begun = dict(self._newest)

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
        return sum(len(positions) for _, positions in self._skipped())

    def findings(self) -> Iterator[str]:
        """Every part that was repeated, out of order or skipped."""
        yield from self._findings
        for job_id, positions in self._skipped():
            for first, last in runs(positions):
                parts = f"part {_sequence(first)} was"
                if last > first:
                    parts = f"parts {_sequence(first)} to {_sequence(last)} ({last - first + 1}) were"
                yield f"job {job_id}: {parts} never answered"

    def _skipped(self) -> Iterator[tuple[int, list[int]]]:
        """Each job's skipped positions since `begin`, ascending."""
        for job_id, positions in self._missing.items():
            begun = self._begun.get(job_id)
            yield job_id, sorted(position for position in positions if begun is None or position > begun)


class Acknowledgements:
    """Follows which rows were acknowledged."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[int] = []
        self._overtaken: list[tuple[list[int], int]] = []

    def take(self, result_id: int, acknowledged: bool) -> None:
        """The next row."""
        if not acknowledged:
            self._waiting.append(result_id)
            return
        self.count += 1
        if self._waiting:
            self._overtaken.append((self._waiting, result_id))
            self._waiting = []

    def unexplained(self, events: Sequence[tuple[int, int]]) -> list[int]:
        """After the last row: the result_ids that were not acknowledged and that nothing explains.

        Rows that waited are explained by the last event before the row that overtook them was acknowledged.

        Args:
            events: (newest result_id, newest acknowledged result_id) as each explaining event was noted, oldest first: both only grow.
        """
        after_acknowledged = [acknowledged_id for _, acknowledged_id in events]
        found: list[int] = []
        for waiting, overtaken_by in self._overtaken:
            before = bisect_left(after_acknowledged, overtaken_by)
            found += _unexplained(waiting, events[before - 1 : before])
        return found + _unexplained(self._waiting, events[-1:])


def _unexplained(waiting: list[int], last_event: Sequence[tuple[int, int]]) -> list[int]:
    explained = last_event[0][0] if last_event else 0
    return waiting[bisect_right(waiting, explained) :]


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours in ascending numbers."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


def _sequence(position: int) -> int:
    return (position - 1) % LAST_SEQUENCE + 1
