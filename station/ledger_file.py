"""What a ledger's file holds: its tables, a row's columns, and the chain that joins a row to the one before it."""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from station.inspection import Result

SCHEMA_VERSION = 1
Value = int | float | str | None

COLUMNS = (
    "result_id, creation_time_ns, job_id, sequence, part_id, is_simulated, verdict, reason, class_index, class_name, probability, scores, "
    "defects, asked_recipe, recipe_number, recipe_hash, frame_id, captured_ns, triggered_ns, judged_ns, detail"
)
INSERT = f"INSERT INTO results ({COLUMNS}, chain) VALUES ({'?, ' * 21}?)"
NEWEST_RESULT = "(SELECT COALESCE(MAX(result_id), 0) FROM results)"
NEWEST_ACKNOWLEDGED = "(SELECT COALESCE(MAX(result_id), 0) FROM acknowledgements)"
ROWS = "FROM results LEFT JOIN acknowledgements USING (result_id)"
ACKNOWLEDGED = "at_ns IS NOT NULL AS acknowledged"

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
_LATER_INDEX = "CREATE INDEX IF NOT EXISTS events_named ON events (event)"
"""Ledgers of the first stations have none; with it they are still version 1."""
_WAL_BYTES = 8 << 20
"""A WAL that grew longer, because somebody read for long, is cut back to this."""

_canonical = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class LedgerError(Exception):
    """The ledger cannot be read or written; the message says which file, what failed and what to do."""


def row_of(result: Result, result_id: int, created_ns: int) -> tuple[Value, ...]:
    """A result in the order of `COLUMNS`, as SQLite gives it back: the chain is computed over these very values."""
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


def link(chain: str, row: Sequence[Value]) -> str:
    """The chain's value at a row; `chain` is the one at the row before, empty at the first."""
    return hashlib.sha256((chain + _canonical(row)).encode()).hexdigest()


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the schema in an empty file; auto_vacuum has an effect only before the first table, and outside a transaction.

    Raises:
        LedgerError: the file is no ledger, or a newer station's; or no WAL is possible there.
    """
    version = version_of(connection, path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LedgerError(f"{path}: the file system refuses SQLite's WAL (journal_mode stays {mode!r}); keep the ledger on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    connection.execute(_LATER_INDEX)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version; 0 when the file is empty.

    Raises:
        LedgerError: the file is no ledger, or a newer station's.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: has schema version {version}, this station knows {SCHEMA_VERSION}; it was written by a newer station: use that one"
        )
    if version == 0 and connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        raise LedgerError(f"{path}: is an SQLite file but no ledger; move it away, or name another file")
    return version


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Says of whatever goes wrong inside which ledger it was and what it could not do.

    Raises:
        LedgerError: SQLite or the disk refused.
    """
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        raise LedgerError(f"{path}: the ledger cannot {doing}: {error}") from error


def _signed(frame_id: int) -> int:
    """A camera's 64-bit count as SQLite holds it: the upper half of the range is negative."""
    return (int(frame_id) + 2**63) % 2**64 - 2**63


def _finite(number: float) -> float | None:
    """SQLite and JSON know no NaN."""
    return float(number) if math.isfinite(number) else None
