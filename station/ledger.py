"""The ledger: one committed row for every answer, kept before the PLC is told; `audit` proves it complete or names what is not.

Rows carry OPC 40100-1's words (ResultId, PartId, JobId, IsSimulated, CreationTime as snake_case columns). Each row holds a chain: the
SHA-256 of the row before it and of itself, so that a changed or removed row is found. Acknowledgements and events stand outside the
chain, in tables of their own. Verdicts come back as text: only `failsafe.Gate` makes a `Verdict` that says PASS.

Beside the ledger lies its ballast: room on the disk that is given up when the disk is full, so that what is due still gets written.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from station.ballast import Ballast
from station.inspection import Reason, Result
from station.ledger_audit import audit
from station.ledger_file import (
    ACKNOWLEDGED,
    COLUMNS,
    INSERT,
    NEWEST_ACKNOWLEDGED,
    NEWEST_RESULT,
    ROWS,
    SCHEMA_VERSION,
    LedgerError,
    explained,
    link,
    prepare,
    row_of,
)

__all__ = ["Answer", "Ledger", "LedgerError", "audit"]

RESERVE_BYTES = 16 << 20
"""With less free space than this the next parts may not fit: `writable` says no before a row is lost."""
BALLAST_BYTES = 8 << 20
"""On a full disk the WAL can still grow to where it is emptied into the ledger (4 MB), and the ledger by some thousand rows."""
LOCK_TIMEOUT_S = 0.1

_DISK_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_READ: dict[str, Callable[[Any], object]] = {
    "reason": Reason,
    "is_simulated": bool,
    "acknowledged": bool,
    "scores": json.loads,
    "defects": json.loads,
}
_T = TypeVar("_T")


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
    """The one writer of a ledger, made if it is not there. Every call comes from the thread that made it; what returned is on disk.

    Attributes:
        trouble: why `writable` said no, and what to do; "" when it said yes.
    """

    def __init__(self, path: Path) -> None:
        """Opens the ledger, or makes it, with WAL, synchronous FULL and incremental vacuum; on a full disk with the ballast's room.

        Raises:
            LedgerError: the file cannot be written, is no ledger, or was written by a newer station.
        """
        self.trouble = ""
        self._path = path
        self._ballast = Ballast(Path(f"{path.resolve()}-ballast"), BALLAST_BYTES)
        self._doubtful = False
        with explained(path, "be opened for writing (its folder must exist and belong to the station's user)"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._relieved(self._open)
            self._identity = _identity(path)

    def append(self, result: Result, created_ns: int) -> int:
        """Keeps one answer and returns its result_id, counted from 1. It is committed and synced when this returns.

        Args:
            created_ns: OPC 40100-1 CreationTime, wall clock, ns since the epoch.

        Raises:
            LedgerError: the disk is full and no ballast is left, or it is read-only or broken, or the file is not there any more; then
                nothing of the row is kept.
        """

        def insert(connection: sqlite3.Connection) -> int:
            newest = connection.execute("SELECT result_id, chain FROM results ORDER BY result_id DESC LIMIT 1").fetchone()
            result_id, chain = (newest[0] + 1, newest[1]) if newest else (1, "")
            row = row_of(result, result_id, created_ns)
            connection.execute(INSERT, (*row, link(chain, row)))
            return result_id

        return self._write(f"keep part {result.sequence} of job {result.job_id}", insert)

    def acknowledge(self, result_id: int, at_ns: int) -> None:
        """Keeps that the PLC took a result; the first time counts. `at_ns`: wall clock.

        Raises:
            LedgerError: there is no such result, or the ledger cannot be written.
        """
        row = (result_id, at_ns)
        self._write(
            f"acknowledge result {result_id}",
            lambda connection: connection.execute("INSERT INTO acknowledgements VALUES (?, ?) ON CONFLICT DO NOTHING", row),
        )

    def note(self, event: str, detail: str, at_ns: int) -> None:
        """Keeps what happened between two answers: "started", "stopped", "error", "state", "recipe", what was refused; and
        "job" and "asked", which the next start reads back with `noted`. `at_ns`: wall clock.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        insert = (
            "INSERT INTO events (at_ns, event, detail, after_result_id, after_acknowledged_id) "
            f"VALUES (?, ?, ?, {NEWEST_RESULT}, {NEWEST_ACKNOWLEDGED})"
        )
        self._write(f"note {event!r}", lambda connection: connection.execute(insert, (at_ns, event, detail)))

    def noted(self, event: str) -> str:
        """The detail of the newest such event; empty when there was none."""
        with explained(self._path, "be read"):
            row = self._connection.execute("SELECT detail FROM events WHERE event = ? ORDER BY event_id DESC LIMIT 1", (event,)).fetchone()
        return str(row[0]) if row else ""

    def answer(self, job_id: int, sequence: int) -> Answer | None:
        """The newest answer to that part, or None. Sequences come round after 65535 parts: it may be that old."""
        return self._answer("WHERE job_id = ? AND sequence = ?", (job_id, sequence))

    def last(self) -> Answer | None:
        """The newest answer of all, or None in an empty ledger."""
        return self._answer("", ())

    def writable(self) -> bool:
        """Says whether the next row could be kept, within a millisecond; `trouble` says why not.

        It could when the file is not locked, deleted or replaced, when the disk takes writes and has room, and when the ballast is held,
        which is taken again here. After a write that failed, only one that succeeds says yes.
        """
        self.trouble = ""
        try:
            with explained(self._path, "be written"):
                self._commit(_rewrite_version if self._doubtful else _change_nothing)
                self._hold_room()
        except LedgerError as error:
            self.trouble = str(error)
        return not self.trouble

    def close(self) -> None:
        """Gives the file back; calls after it raise `LedgerError`. The ballast stays for the next start."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            prepare(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self, doing: str, change: Callable[[sqlite3.Connection], _T]) -> _T:
        with explained(self._path, doing):
            return self._relieved(lambda: self._commit(change))

    def _relieved(self, action: Callable[[], _T]) -> _T:
        """Does it; when the disk refuses, gives the ballast up and does it once more."""
        try:
            return action()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DISK_ERRORS or not self._ballast.give_up():
                raise
        return action()

    def _commit(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        self._doubtful = True
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if _identity(self._path) != self._identity:
                raise LedgerError(f"{self._path}: was deleted or replaced while the station ran; put it back, or restart the station")
            changed = change(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._doubtful = False
        return changed

    def _hold_room(self) -> None:
        disk = os.statvfs(self._path)
        if disk.f_flag & os.ST_RDONLY:
            raise LedgerError(f"{self._path}: its disk is read-only; the system's log says why, mount it for writing again")
        free = disk.f_bavail * disk.f_frsize
        needed = RESERVE_BYTES + (0 if self._ballast.held() else self._ballast.size_bytes)
        if free < needed:
            raise LedgerError(f"{self._path}: {free / 1e6:.0f} MB are free on its disk and {needed / 1e6:.0f} MB must be; free some")
        self._ballast.hold()

    def _answer(self, where: str, values: Sequence[int]) -> Answer | None:
        with explained(self._path, "be read"):
            query = f"SELECT {COLUMNS}, {ACKNOWLEDGED} {ROWS} {where} ORDER BY result_id DESC LIMIT 1"
            row = self._connection.execute(query, values).fetchone()
        if row is None:
            return None
        fields = dict(row)
        for column, read in _READ.items():
            fields[column] = read(fields[column])
        return Answer(**fields)


def _change_nothing(_: sqlite3.Connection) -> None:
    """Shows that the file is not locked."""


def _rewrite_version(connection: sqlite3.Connection) -> None:
    """Shows that the disk takes a write: SQLite writes the page whatever stood there."""
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None when there is none."""
    try:
        entry = path.stat()
    except FileNotFoundError:
        return None
    return entry.st_dev, entry.st_ino
