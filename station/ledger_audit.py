"""`audit`: proves a ledger complete, or names what is not. Reads only, in short pieces beside the station that writes."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from drivers.plc import LAST_SEQUENCE
from station.audit import Acknowledgements, Audit, Parts, runs
from station.ledger_file import ACKNOWLEDGED, COLUMNS, NEWEST_ACKNOWLEDGED, NEWEST_RESULT, ROWS, LedgerError, explained, link, version_of

GRACE_NS = 1_000_000_000
"""How long the newest row of a running ledger may wait for its acknowledgement."""
EXPLAINING_EVENTS = ("error", "started", "stopped")
PIECE_ROWS = 4096
"""So many rows are read at a time: a longer read would keep the writer's WAL from being emptied, and it would grow."""


def audit(path: Path, since_ns: int | None = None, now_ns: int | None = None) -> Audit:
    """Proves that every part got exactly one verdict and every verdict was acknowledged, or says what is wrong.

    Reads only; works while a daemon writes and after it was killed. One pass over the rows in the order they were kept, up to the one
    that was the newest at the beginning; no clock takes part in that order:

    - Inside a job, sequences run on by 1, 65535 to 1. What is skipped is missing; a number that was answered before (looking back half a
      round) is a duplicate. Job 0 has no sequence to keep: before the first StartContinuous the numbers are the PLC's own.
    - A row without acknowledgement is explained by an event "error", "started" or "stopped" that was noted after the row was kept and
      before the next row that has an acknowledgement was acknowledged; the order is the ledger's own.
    - The newest row of all may be younger than a second (creation_time_ns against `now_ns`): its acknowledgement is still on the way.
    - Each row's chain follows from the row before it, and no acknowledgement or event speaks of a row newer than the newest.

    Args:
        since_ns: wall clock; begins at the first row that says it was created then or later, and takes every row after it, whatever
            the clock was set to meanwhile. The rows before it are only looked at for where each job was. None: at the first row.
        now_ns: wall clock. None: no row is given time.

    Raises:
        LedgerError: there is no ledger there, or it cannot be read.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: there is no ledger; check the home folder, or start the station once")
    with explained(path, "be read"), closing(sqlite3.connect(_read_only(path), uri=True, isolation_level=None)) as ledger:
        if version_of(ledger, path) == 0:
            raise LedgerError(f"{path}: is empty; no station ever kept a row there")
        return _audit(ledger, since_ns, now_ns)


def _read_only(path: Path) -> str:
    """On a read-only disk SQLite cannot open a closed ledger's WAL beside it, and must be told that nobody writes."""
    file = path.resolve()
    nobody_writes = os.statvfs(file).f_flag & os.ST_RDONLY and not Path(f"{file}-wal").exists()
    return f"{file.as_uri()}?mode=ro{'&immutable=1' if nobody_writes else ''}"


def _audit(ledger: sqlite3.Connection, since_ns: int | None, now_ns: int | None) -> Audit:
    newest_id: int = ledger.execute(f"SELECT {NEWEST_RESULT}").fetchone()[0]
    first = 1 if since_ns is None else _first_since(ledger, since_ns, newest_id)
    chain, parts = _before(ledger, first)
    acknowledgements, findings = Acknowledgements(), []
    rows = created_ns = 0
    for *row, kept_chain, acknowledged in _rows(ledger, first, newest_id):
        result_id, created_ns, job_id, sequence = row[:4]
        if link(chain, row) != kept_chain:
            findings.append(f"result {result_id}: the chain breaks; this row was changed, or a row before it was changed or removed")
        chain = kept_chain
        rows += 1
        parts.take(result_id, job_id, sequence)
        acknowledgements.take(result_id, acknowledged)
    unexplained = acknowledgements.unexplained(_explaining_events(ledger, first))
    if unexplained[-1:] == [newest_id] and now_ns is not None and abs(now_ns - created_ns) <= GRACE_NS:
        unexplained.pop()
    findings += [*parts.findings(), *_unacknowledged(ledger, unexplained, newest_id), *_cut(ledger)]
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


def _rows(ledger: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[Any, ...]]:
    query = f"SELECT {COLUMNS}, chain, {ACKNOWLEDGED} {ROWS} WHERE result_id BETWEEN ? AND ? ORDER BY result_id LIMIT {PIECE_ROWS}"
    while piece := ledger.execute(query, (first, last)).fetchall():
        yield from piece
        first = piece[-1][0] + 1


def _before(ledger: sqlite3.Connection, first: int) -> tuple[str, Parts]:
    """The chain at the row before the first, and where each job was there: the first rows may repeat or leave out a part of before."""
    newest = ledger.execute("SELECT chain FROM results WHERE result_id < ? ORDER BY result_id DESC LIMIT 1", (first,)).fetchone()
    parts = Parts()
    query = "SELECT result_id, job_id, sequence FROM results WHERE result_id >= ? AND result_id < ? ORDER BY result_id"
    for result_id, job_id, sequence in ledger.execute(query, (first - LAST_SEQUENCE // 2, first)).fetchall():
        parts.take(result_id, job_id, sequence)
    parts.begin()
    return newest[0] if newest else "", parts


def _first_since(ledger: sqlite3.Connection, since_ns: int, newest_id: int) -> int:
    """Over the index of times: whatever the planner thinks, never through the table's rows."""
    query = "SELECT COALESCE(MIN(result_id), ?) FROM results INDEXED BY results_created WHERE creation_time_ns >= ?"
    first: int = ledger.execute(query, (newest_id + 1, since_ns)).fetchone()[0]
    return first


def _explaining_events(ledger: sqlite3.Connection, first: int) -> list[tuple[int, int]]:
    """Those that can explain a row from the first on. Read after the rows, so that none is missing that explains what was read."""
    marks = ", ".join("?" * len(EXPLAINING_EVENTS))
    query = f"SELECT after_result_id, after_acknowledged_id FROM events WHERE event IN ({marks}) AND after_result_id >= ? ORDER BY event_id"
    return ledger.execute(query, (*EXPLAINING_EVENTS, first)).fetchall()


def _unacknowledged(ledger: sqlite3.Connection, result_ids: Sequence[int], newest_id: int) -> Iterator[str]:
    for first, last in runs(result_ids):
        job_id, sequence = ledger.execute("SELECT job_id, sequence FROM results WHERE result_id = ?", (first,)).fetchone()
        many = f"result {first} was" if first == last else f"results {first} to {last} ({last - first + 1}) were"
        wrong = f"{many} never acknowledged, from part {sequence} of job {job_id} on, and no error, start or stop explains it"
        yield f"{wrong}; if the station was killed, its next start does" if last == newest_id else wrong


def _cut(ledger: sqlite3.Connection) -> Iterator[str]:
    known = f"SELECT {NEWEST_RESULT}, MAX({NEWEST_ACKNOWLEDGED}, (SELECT COALESCE(MAX(after_result_id), 0) FROM events))"
    newest, spoken_of = ledger.execute(known).fetchone()
    if spoken_of > newest:
        yield f"results {newest + 1} to {spoken_of} were removed: an acknowledgement or an event speaks of result {spoken_of}"
