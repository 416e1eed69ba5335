"""The ledger: one committed row for every answer, kept before the PLC is told, and `audit`, which proves it complete or names what is not.

Rows carry OPC 40100-1's words (ResultId, PartId, JobId, IsSimulated, CreationTime as snake_case columns). Each row holds a chain: the
SHA-256 of the row before it and of itself, so that a changed or removed row is found. Acknowledgements and events stand outside the
chain, in tables of their own. Verdicts come back as text: only `failsafe.Gate` makes a `Verdict` that says PASS.
"""

import hashlib
import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from station.audit import Acknowledgements, Audit, Parts, runs
from station.inspection import Reason, Result

SCHEMA_VERSION = 1
GRACE_NS = 1_000_000_000
"""How long the newest row of a running ledger may wait for its acknowledgement."""
RESERVE_BYTES = 16 << 20
"""With less free space than this the next parts may not fit: `writable` says no before a row is lost."""
LOCK_TIMEOUT_S = 0.1
EXPLAINING_EVENTS = ("error", "started", "stopped")

_COLUMNS = (
    "result_id, creation_time_ns, job_id, sequence, part_id, is_simulated, verdict, reason, class_index, class_name, probability, scores, "
    "defects, asked_recipe, recipe_number, recipe_hash, frame_id, captured_ns, triggered_ns, judged_ns, detail"
)
_INSERT = f"INSERT INTO results ({_COLUMNS}, chain) VALUES ({'?, ' * 21}?)"
_SCHEMA = f"""
CREATE TABLE results (
    result_id INTEGER PRIMARY KEY, creation_time_ns INTEGER NOT NULL, job_id INTEGER NOT NULL, sequence INTEGER NOT NULL,
    part_id TEXT NOT NULL, is_simulated INTEGER NOT NULL, verdict TEXT NOT NULL CHECK (verdict IN ('PASS', 'FAIL')),
    reason INTEGER NOT NULL, class_index INTEGER, class_name TEXT, probability REAL, scores TEXT NOT NULL, defects TEXT NOT NULL,
    asked_recipe INTEGER NOT NULL, recipe_number INTEGER NOT NULL, recipe_hash TEXT NOT NULL, frame_id INTEGER, captured_ns INTEGER,
    triggered_ns INTEGER NOT NULL, judged_ns INTEGER NOT NULL, detail TEXT NOT NULL, chain TEXT NOT NULL);
CREATE INDEX results_part ON results (job_id, sequence);
CREATE INDEX results_created ON results (creation_time_ns);
CREATE TABLE acknowledgements (result_id INTEGER PRIMARY KEY REFERENCES results, at_ns INTEGER NOT NULL);
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL,
    after_result_id INTEGER NOT NULL, after_acknowledged_id INTEGER NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""
_NEWEST_RESULT = "(SELECT COALESCE(MAX(result_id), 0) FROM results)"
_NEWEST_ACKNOWLEDGED = "(SELECT COALESCE(MAX(result_id), 0) FROM acknowledgements)"
_ROWS = "FROM results LEFT JOIN acknowledgements USING (result_id)"
_ACKNOWLEDGED = "at_ns IS NOT NULL AS acknowledged"

_READ: dict[str, Callable[[Any], object]] = {
    "reason": Reason,
    "is_simulated": bool,
    "acknowledged": bool,
    "scores": json.loads,
    "defects": json.loads,
}

_canonical = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class LedgerError(Exception):
    """The ledger cannot be read or written; the message says which file, what failed and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the ledger: what was answered to one part. Fields as in `inspection.Result`.

    Attributes:
        verdict: the text that was said, "PASS" or "FAIL".
        class_index, class_name, probability, frame_id, captured_ns: None when no frame was inspected.
        scores: class name to probability; a probability that is no number is None.
        defects: largest area first, each `{"class", "box": [x, y, width, height], "area_px", "peak"}`.
        acknowledged: the PLC took this result.
    """

    result_id: int
    creation_time_ns: int
    job_id: int
    sequence: int
    part_id: str
    is_simulated: bool
    verdict: str
    reason: Reason
    class_index: int | None
    class_name: str | None
    probability: float | None
    scores: dict[str, float | None]
    defects: list[dict[str, object]]
    asked_recipe: int
    recipe_number: int
    recipe_hash: str
    frame_id: int | None
    captured_ns: int | None
    triggered_ns: int
    judged_ns: int
    detail: str
    acknowledged: bool

    @property
    def elapsed_ms(self) -> float:
        """From trigger to verdict."""
        return (self.judged_ns - self.triggered_ns) / 1e6


class Ledger:
    """The one writer of a ledger, made if it is not there. Every call comes from the thread that made it; what returned is on disk."""

    def __init__(self, path: Path) -> None:
        """Opens the ledger, or makes it, with WAL, synchronous FULL and incremental vacuum.

        Raises:
            LedgerError: the file cannot be written, is no ledger, or was written by a newer station.
        """
        self._path = path
        with _explained(path, "be opened for writing (its folder must exist and belong to the station's user)"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                _prepare(self._connection, path)
                self._identity = _identity(path)
            except BaseException:
                self._connection.close()
                raise

    def append(self, result: Result, created_ns: int) -> int:
        """Keeps one answer and returns its result_id, counted from 1. It is committed and synced when this returns.

        Args:
            created_ns: OPC 40100-1 CreationTime, wall clock, ns since the epoch.

        Raises:
            LedgerError: the disk is full, read-only or broken; then nothing of the row is kept.
        """
        with self._transaction(f"keep part {result.sequence} of job {result.job_id}") as connection:
            newest = connection.execute("SELECT result_id, chain FROM results ORDER BY result_id DESC LIMIT 1").fetchone()
            result_id, chain = (newest[0] + 1, newest[1]) if newest else (1, "")
            row = _row(result, result_id, created_ns)
            connection.execute(_INSERT, (*row, _link(chain, row)))
        return result_id

    def acknowledge(self, result_id: int, at_ns: int) -> None:
        """Keeps that the PLC took a result; the first time counts. `at_ns`: wall clock.

        Raises:
            LedgerError: there is no such result, or the ledger cannot be written.
        """
        with self._transaction(f"acknowledge result {result_id}") as connection:
            connection.execute("INSERT INTO acknowledgements VALUES (?, ?) ON CONFLICT DO NOTHING", (result_id, at_ns))

    def note(self, event: str, detail: str, at_ns: int) -> None:
        """Keeps what happened between two answers: "started", "stopped", "error", "state", "recipe", what was refused; and
        "job" and "asked", which the next start reads back with `noted`. `at_ns`: wall clock.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        with self._transaction(f"note {event!r}") as connection:
            connection.execute(
                "INSERT INTO events (at_ns, event, detail, after_result_id, after_acknowledged_id) "
                f"VALUES (?, ?, ?, {_NEWEST_RESULT}, {_NEWEST_ACKNOWLEDGED})",
                (at_ns, event, detail),
            )

    def noted(self, event: str) -> str:
        """The detail of the newest such event; empty when there was none."""
        with _explained(self._path, "be read"):
            row = self._connection.execute("SELECT detail FROM events WHERE event = ? ORDER BY event_id DESC LIMIT 1", (event,)).fetchone()
        return str(row[0]) if row else ""

    def answer(self, job_id: int, sequence: int) -> Answer | None:
        """The newest answer to that part, or None. Sequences come round after 65535 parts: it may be that old."""
        return self._answer("WHERE job_id = ? AND sequence = ?", (job_id, sequence))

    def last(self) -> Answer | None:
        """The newest answer of all, or None in an empty ledger."""
        return self._answer("", ())

    def writable(self) -> bool:
        """Says whether the next row could be kept, within a millisecond: not locked, not read-only, not deleted, room on the disk."""
        try:
            with self._transaction("be written"):
                room = shutil.disk_usage(self._path.parent).free >= RESERVE_BYTES
                return room and _identity(self._path) == self._identity
        except (LedgerError, OSError):
            return False

    def close(self) -> None:
        """Gives the file back; calls after it raise `LedgerError`."""
        self._connection.close()

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        with _explained(self._path, doing):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _answer(self, where: str, values: Sequence[int]) -> Answer | None:
        with _explained(self._path, "be read"):
            query = f"SELECT {_COLUMNS}, {_ACKNOWLEDGED} {_ROWS} {where} ORDER BY result_id DESC LIMIT 1"
            row = self._connection.execute(query, values).fetchone()
        if row is None:
            return None
        fields = dict(row)
        for column, read in _READ.items():
            fields[column] = read(fields[column])
        return Answer(**fields)


def audit(path: Path, since_ns: int | None = None, now_ns: int | None = None) -> Audit:
    """Proves that every part got exactly one verdict and every verdict was acknowledged, or says what is wrong.

    Reads only; works while a daemon writes and after it was killed. One pass over the rows in the order they were kept:

    - Inside a job, sequences run on by 1, 65535 to 1. What is skipped is missing; a number that was answered before (looking back half a
      round) is a duplicate. Job 0 has no sequence to keep: before the first StartContinuous the numbers are the PLC's own.
    - A row without acknowledgement is explained by an event "error", "started" or "stopped" that was noted after the row was kept and
      before the next row that has an acknowledgement was acknowledged; the order is the ledger's own, no clock takes part.
    - The newest row of all may be younger than a second (creation_time_ns against `now_ns`): its acknowledgement is still on the way.
    - Each row's chain follows from the row before it, and no acknowledgement or event speaks of a row newer than the newest.

    Args:
        since_ns: wall clock; begins at the first row created then or later. None: at the first row.
        now_ns: wall clock. None: no row is given time.

    Raises:
        LedgerError: there is no ledger there, or it cannot be read.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: there is no ledger; check the home folder, or start the station once")
    read_only = f"{path.resolve().as_uri()}?mode=ro"
    with _explained(path, "be read"), closing(sqlite3.connect(read_only, uri=True, isolation_level=None)) as ledger:
        if _version(ledger, path) == 0:
            raise LedgerError(f"{path}: is empty; no station ever kept a row there")
        ledger.execute("BEGIN")
        return _audit(ledger, since_ns, now_ns)


def _audit(ledger: sqlite3.Connection, since_ns: int | None, now_ns: int | None) -> Audit:
    first = 1 if since_ns is None else _first_since(ledger, since_ns)
    before = ledger.execute("SELECT chain FROM results WHERE result_id < ? ORDER BY result_id DESC LIMIT 1", (first,)).fetchone()
    chain = before[0] if before else ""
    parts, acknowledgements, findings = Parts(), Acknowledgements(_explaining_events(ledger)), []
    newest_id = created_ns = rows = 0
    query = f"SELECT {_COLUMNS}, chain, {_ACKNOWLEDGED} {_ROWS} WHERE result_id >= ? ORDER BY result_id"
    for *row, kept_chain, acknowledged in ledger.execute(query, (first,)):
        newest_id, created_ns, job_id, sequence = row[:4]
        if _link(chain, row) != kept_chain:
            findings.append(f"result {newest_id}: the chain breaks; this row was changed, or a row before it was changed or removed")
        chain = kept_chain
        rows += 1
        parts.take(newest_id, job_id, sequence)
        acknowledgements.take(newest_id, acknowledged)
    unexplained = acknowledgements.unexplained()
    if unexplained[-1:] == [newest_id] and now_ns is not None and abs(now_ns - created_ns) <= GRACE_NS:
        unexplained.pop()
    findings += [*parts.findings(), *_unacknowledged(ledger, unexplained), *_cut(ledger)]
    answered, missing = rows - parts.duplicate, parts.missing
    return Audit(
        parts=answered + missing,
        answered=answered,
        acknowledged=acknowledgements.count,
        missing=missing,
        duplicate=parts.duplicate,
        unexplained=len(unexplained),
        findings=tuple(findings),
        ok=not findings,
    )


def _first_since(ledger: sqlite3.Connection, since_ns: int) -> int:
    query = f"SELECT COALESCE(MIN(result_id), {_NEWEST_RESULT} + 1) FROM results WHERE creation_time_ns >= ?"
    first: int = ledger.execute(query, (since_ns,)).fetchone()[0]
    return first


def _explaining_events(ledger: sqlite3.Connection) -> list[tuple[int, int]]:
    marks = ", ".join("?" * len(EXPLAINING_EVENTS))
    query = f"SELECT after_result_id, after_acknowledged_id FROM events WHERE event IN ({marks}) ORDER BY event_id"
    return ledger.execute(query, EXPLAINING_EVENTS).fetchall()


def _unacknowledged(ledger: sqlite3.Connection, result_ids: Sequence[int]) -> Iterator[str]:
    for first, last in runs(result_ids):
        job_id, sequence = ledger.execute("SELECT job_id, sequence FROM results WHERE result_id = ?", (first,)).fetchone()
        many = f"result {first} was" if first == last else f"results {first} to {last} ({last - first + 1}) were"
        yield f"{many} never acknowledged, from part {sequence} of job {job_id} on, and no error, start or stop explains it"


def _cut(ledger: sqlite3.Connection) -> Iterator[str]:
    known = f"SELECT {_NEWEST_RESULT}, MAX({_NEWEST_ACKNOWLEDGED}, (SELECT COALESCE(MAX(after_result_id), 0) FROM events))"
    newest, spoken_of = ledger.execute(known).fetchone()
    if spoken_of > newest:
        yield f"results {newest + 1} to {spoken_of} were removed: an acknowledgement or an event speaks of result {spoken_of}"


def _row(result: Result, result_id: int, created_ns: int) -> tuple[int | float | str | None, ...]:
    """A result in the order of `_COLUMNS`, as SQLite gives it back: the chain is computed over these very values."""
    seen = result.inspection
    scores = {name: _finite(score) for name, score in seen.scores.items()} if seen else {}
    defects = [
        {"class": defect.class_name, "box": [int(px) for px in defect.box], "area_px": int(defect.area_px), "peak": int(defect.peak)}
        for defect in (seen.defects if seen else ())
    ]
    return (
        *(result_id, created_ns, result.job_id, result.sequence, result.part_id, int(result.is_simulated)),
        *(result.verdict.value, int(result.reason)),
        *((int(seen.class_index), seen.class_name, _finite(seen.probability)) if seen else (None, None, None)),
        *(_canonical(scores), _canonical(defects)),
        *(result.asked_recipe, result.recipe_number, result.recipe_hash),
        *((_signed(seen.frame_id), int(seen.captured_ns)) if seen else (None, None)),
        *(result.triggered_ns, result.judged_ns, result.detail),
    )


def _signed(frame_id: int) -> int:
    """A camera's 64-bit count as SQLite holds it: the upper half of the range is negative."""
    return (int(frame_id) + 2**63) % 2**64 - 2**63


def _finite(number: float) -> float | None:
    """SQLite and JSON know no NaN."""
    return float(number) if math.isfinite(number) else None


def _link(chain: str, row: Sequence[int | float | str | None]) -> str:
    return hashlib.sha256((chain + _canonical(row)).encode()).hexdigest()


def _identity(path: Path) -> tuple[int, int]:
    entry = path.stat()
    return entry.st_dev, entry.st_ino


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the schema in an empty file; auto_vacuum has an effect only before the first table, and outside a transaction."""
    version = _version(connection, path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LedgerError(f"{path}: the file system refuses SQLite's WAL (journal_mode stays {mode!r}); keep the ledger on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: has schema version {version}, this station knows {SCHEMA_VERSION}; it was written by a newer station: use that one"
        )
    if version == 0 and connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        raise LedgerError(f"{path}: is an SQLite file but no ledger; move it away, or name another file")
    return version


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        raise LedgerError(f"{path}: the ledger cannot {doing}: {error}") from error
