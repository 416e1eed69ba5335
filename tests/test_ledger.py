"""The ledger keeps every answer, and the audit finds everything that is not as it must be."""

import json
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from station.inspection import Defect, Inspection, Reason, Result, Verdict
from station.ledger import Ledger, LedgerError, audit

SECOND_NS = 1_000_000_000
HASH = "5e" * 32
SEEN = Inspection(
    frame_id=7,
    captured_ns=1_000,
    recipe_hash=HASH,
    scores={"good": 0.1, "scratches": 0.9},
    class_name="scratches",
    class_index=1,
    probability=0.9,
    defects=(Defect("scratches", (10, 20, 30, 40), 800, 250),),
    heat_map=np.zeros((2, 2), np.uint8),
)
PART = Result(
    job_id=1,
    sequence=1,
    part_id="A-0001",
    verdict=Verdict.FAIL,
    reason=Reason.DEFECT,
    asked_recipe=3,
    recipe_number=3,
    recipe_hash=HASH,
    inspection=SEEN,
    triggered_ns=1_000,
    judged_ns=21_001_000,
    is_simulated=True,
    detail="seen by a test",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def keep(ledger: Ledger, *sequences: int, job_id: int = 1, acknowledged: bool = True) -> list[int]:
    result_ids = []
    for sequence in sequences:
        result_ids.append(ledger.append(replace(PART, job_id=job_id, sequence=sequence), sequence * SECOND_NS))
        if acknowledged:
            ledger.acknowledge(result_ids[-1], sequence * SECOND_NS + 1)
    return result_ids


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def full_disk(at_bytes: int) -> Iterator[None]:
    """No file of this process can grow past `at_bytes`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_an_answer_comes_back_as_it_was_given(ledger: Ledger) -> None:
    result_id = ledger.append(PART, created_ns=42)
    answer = ledger.answer(1, 1)
    assert answer is not None
    assert asdict(answer) == {
        "result_id": result_id,
        "creation_time_ns": 42,
        "job_id": 1,
        "sequence": 1,
        "part_id": "A-0001",
        "is_simulated": True,
        "verdict": "FAIL",
        "reason": Reason.DEFECT,
        "class_index": 1,
        "class_name": "scratches",
        "probability": 0.9,
        "scores": {"good": 0.1, "scratches": 0.9},
        "defects": [{"class": "scratches", "box": [10, 20, 30, 40], "area_px": 800, "peak": 250}],
        "asked_recipe": 3,
        "recipe_number": 3,
        "recipe_hash": HASH,
        "frame_id": 7,
        "captured_ns": 1_000,
        "triggered_ns": 1_000,
        "judged_ns": 21_001_000,
        "detail": "seen by a test",
        "acknowledged": False,
    }
    assert answer.elapsed_ms == 21.0


def test_an_answer_without_inspection_has_nothing_seen(ledger: Ledger) -> None:
    ledger.append(replace(PART, inspection=None, reason=Reason.MISSED_FRAME), 1)
    answer = ledger.last()
    assert answer is not None
    assert (answer.class_index, answer.class_name, answer.probability, answer.frame_id, answer.captured_ns) == (None,) * 5
    assert (answer.scores, answer.defects) == ({}, [])


def test_numpy_numbers_and_nan_are_kept_and_audited(ledger: Ledger, path: Path) -> None:
    box = tuple(np.arange(4, dtype=np.int64))
    defect = Defect("scratches", box, np.int64(5), np.uint8(6))  # type: ignore[arg-type]
    seen = replace(SEEN, scores={"good": float("nan")}, probability=np.float32("nan"), class_index=np.int64(0), defects=(defect,))
    ledger.append(replace(PART, inspection=seen), 1)
    answer = ledger.last()
    assert answer is not None
    assert (answer.scores, answer.probability, answer.class_index) == ({"good": None}, None, 0)
    assert answer.defects == [{"class": "scratches", "box": [0, 1, 2, 3], "area_px": 5, "peak": 6}]
    ledger.note("stopped", "", 2)
    assert audit(path).ok


def test_the_newest_answer_of_a_part_is_the_answer(ledger: Ledger) -> None:
    keep(ledger, 1, 2, 1)
    first, last = ledger.answer(1, 1), ledger.last()
    assert first is not None
    assert first == last
    assert first.result_id == 3


def test_a_part_that_was_never_answered_has_no_answer(ledger: Ledger) -> None:
    assert ledger.last() is None
    keep(ledger, 1)
    assert ledger.answer(1, 2) is None
    assert ledger.answer(2, 1) is None


def test_an_acknowledgement_counts_once_and_the_first_stays(ledger: Ledger, path: Path) -> None:
    (result_id,) = keep(ledger, 1, acknowledged=False)
    ledger.acknowledge(result_id, 10)
    ledger.acknowledge(result_id, 20)
    answer = ledger.last()
    assert answer is not None
    assert answer.acknowledged
    assert audit(path).acknowledged == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT at_ns FROM acknowledgements").fetchall() == [(10,)]


def test_a_result_that_is_not_there_cannot_be_acknowledged(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="acknowledge result 5"):
        ledger.acknowledge(5, 1)


def test_a_ledger_without_rows_knows_no_part_and_no_event(ledger: Ledger) -> None:
    assert ledger.last() is None
    assert ledger.noted("asked") == ""


def test_the_newest_event_of_a_name_is_what_was_noted(ledger: Ledger) -> None:
    for event, detail in (("asked", "3"), ("asked", "7"), ("job", "1")):
        ledger.note(event, detail, 1)
    assert ledger.noted("asked") == "7"


def test_an_opened_ledger_goes_on_where_it_ended(path: Path) -> None:
    for sequence in (1, 2):
        ledger = Ledger(path)
        keep(ledger, sequence)
        ledger.close()
    result = audit(path)
    assert (result.parts, result.answered, result.ok) == (2, 2, True)


def test_every_row_is_synced_and_the_file_can_shrink(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    pragmas = {name: ledger._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "auto_vacuum")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2}
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA auto_vacuum").fetchone()[0] == 2


APPENDING = """
import sys
from pathlib import Path
from dataclasses import replace
from station.ledger import Ledger
from test_ledger import PART
ledger = Ledger(Path(sys.argv[1]))
ledger.note("started", "", 0)
for sequence in range(1, 60000):
    result_id = ledger.append(replace(PART, sequence=sequence), sequence)
    ledger.acknowledge(result_id, sequence)
    print(result_id, flush=True)
"""


def test_a_killed_daemon_loses_no_acknowledged_row(path: Path) -> None:
    environment = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}"}
    with subprocess.Popen([sys.executable, "-c", APPENDING, path], stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        assert daemon.stdout is not None
        for _ in range(50):
            printed = int(daemon.stdout.readline())
        daemon.kill()
        printed = max([printed, *(int(line) for line in daemon.stdout if line.endswith("\n"))])
    found = audit(path)
    assert found.missing == found.duplicate == 0
    assert found.acknowledged >= printed >= 50
    assert found.answered - found.acknowledged in (0, 1)
    ledger = Ledger(path)
    ledger.note("started", "after a kill", 1)
    ledger.append(replace(PART, job_id=2), 2)
    ledger.note("stopped", "", 3)
    ledger.close()
    assert audit(path).findings == ()


def test_a_full_disk_raises_and_leaves_nothing_half_written(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    with full_disk(at_bytes=200_000), pytest.raises(LedgerError, match="keep part"):
        keep(ledger, *range(2, 1000))
    assert 2 < audit(path).parts < 999
    last = ledger.last()
    assert last is not None
    keep(ledger, last.sequence + 1)
    ledger.note("error", "disk full", 1)
    assert audit(path).ok


def test_a_ledger_that_reached_its_quota_raises(ledger: Ledger) -> None:
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="full"):
        keep(ledger, *range(1, 100))


def test_a_text_that_cannot_be_kept_raises_and_leaves_nothing(ledger: Ledger, path: Path) -> None:
    with pytest.raises(LedgerError, match="keep part 1 of job 1"):
        ledger.append(replace(PART, detail="half a surrogate \ud800"), 1)
    assert audit(path).parts == 0
    keep(ledger, 1)


def test_a_locked_ledger_raises_soon_and_says_not_writable(ledger: Ledger, path: Path) -> None:
    assert ledger.writable()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not ledger.writable()
        with pytest.raises(LedgerError, match="locked"):
            keep(ledger, 1)
    assert ledger.writable()
    keep(ledger, 1)


def test_a_deleted_ledger_is_not_writable(ledger: Ledger, path: Path) -> None:
    path.unlink()
    assert not ledger.writable()
    path.touch()
    assert not ledger.writable()


def test_a_disk_without_room_is_not_writable(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("station.ledger.RESERVE_BYTES", 1 << 62)
    assert not ledger.writable()


def test_a_closed_ledger_raises_and_is_not_writable(path: Path) -> None:
    ledger = Ledger(path)
    ledger.close()
    assert not ledger.writable()
    with pytest.raises(LedgerError, match="closed"):
        ledger.append(PART, 1)
    with pytest.raises(LedgerError, match="closed"):
        ledger.last()


def test_a_newer_ledger_is_refused(path: Path) -> None:
    Ledger(path).close()
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match=r"99.*newer station"):
        Ledger(path)
    with pytest.raises(LedgerError, match=r"99.*newer station"):
        audit(path)


def test_what_is_no_ledger_is_refused(path: Path) -> None:
    change(path, "CREATE TABLE foreign_table (x)")
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger(path)
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(path)
    with pytest.raises(LedgerError, match="not a database"):
        audit(path)


def test_a_ledger_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(LedgerError, match="opened for writing"):
        Ledger(tmp_path / "data" / "ledger.sqlite")


def test_an_audit_needs_a_ledger(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        audit(path)
    path.touch()
    with pytest.raises(LedgerError, match="is empty"):
        audit(path)


def test_an_audit_of_a_sound_ledger_is_its_json_document(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 2, 3)
    assert json.loads(json.dumps(asdict(audit(path)))) == {
        "parts": 3,
        "answered": 3,
        "acknowledged": 3,
        "missing": 0,
        "duplicate": 0,
        "unexplained": 0,
        "findings": [],
        "ok": True,
    }


def test_an_audit_changes_nothing_and_does_not_hinder_the_daemon(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    before = path.read_bytes()
    assert audit(path).parts == 1
    assert path.read_bytes() == before
    keep(ledger, 2)
    assert audit(path).parts == 2


def test_skipped_parts_are_missing_and_named(ledger: Ledger, path: Path) -> None:
    keep(ledger, 5, 7, 8, 12)
    found = audit(path)
    assert (found.parts, found.answered, found.missing, found.ok) == (8, 4, 4, False)
    assert found.findings == ("job 1: part 6 was never answered", "job 1: parts 9 to 11 (3) were never answered")


def test_each_job_counts_for_itself_and_begins_anywhere(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 2)
    keep(ledger, 40, 41, job_id=2)
    assert audit(path).ok


def test_before_the_first_job_numbers_are_the_plcs_own(ledger: Ledger, path: Path) -> None:
    keep(ledger, 5, 9, 9, 2, job_id=0)
    found = audit(path)
    assert (found.parts, found.answered, found.ok) == (4, 4, True)


def test_a_part_that_was_answered_twice_is_a_duplicate(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 2, 2, 3, 1)
    found = audit(path)
    assert (found.parts, found.answered, found.duplicate, found.missing) == (3, 3, 2, 0)
    assert found.findings == ("job 1: part 2 was answered again, by result 3", "job 1: part 1 was answered again, by result 5")


def test_a_part_that_was_answered_late_is_a_finding_but_not_missing(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 3, 2, 4)
    found = audit(path)
    assert (found.parts, found.answered, found.missing, found.duplicate) == (4, 4, 0, 0)
    assert found.findings == ("job 1: part 2 was answered out of order, by result 3",)


def test_sequences_run_from_65535_to_1(ledger: Ledger, path: Path) -> None:
    keep(ledger, 65534, 65535, 1, 2)
    assert audit(path).ok
    keep(ledger, 65535)
    assert audit(path).findings == ("job 1: part 65535 was answered again, by result 5",)


def test_a_gap_over_the_wrap_is_named(ledger: Ledger, path: Path) -> None:
    keep(ledger, 65533, 3)
    found = audit(path)
    assert found.missing == 4
    assert found.findings == ("job 1: parts 65534 to 2 (4) were never answered",)


def test_a_second_round_of_sequences_is_no_duplicate(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 30000, 60000, 1)
    found = audit(path)
    assert (found.answered, found.duplicate, found.missing) == (4, 0, 65535 - 3)


def test_what_a_killed_station_left_unacknowledged_is_said_to_wait_for_its_next_start(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    keep(ledger, 2, acknowledged=False)
    (finding,) = audit(path).findings
    assert finding.endswith("no error, start or stop explains it; if the station was killed, its next start does")
    ledger.note("started", "", 5)
    assert audit(path).ok


def test_an_unacknowledged_row_that_nothing_explains_is_found(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    keep(ledger, 2, 3, acknowledged=False)
    keep(ledger, 4)
    found = audit(path)
    assert (found.unexplained, found.acknowledged) == (2, 2)
    assert found.findings == (
        "results 2 to 3 (2) were never acknowledged, from part 2 of job 1 on, and no error, start or stop explains it",
    )


@pytest.mark.parametrize("event", ["error", "started", "stopped"])
def test_an_event_explains_the_rows_before_it(ledger: Ledger, path: Path, event: str) -> None:
    keep(ledger, 1, 2, acknowledged=False)
    ledger.note(event, "the wire was cut", 3)
    keep(ledger, 3)
    assert audit(path).ok


def test_a_change_of_recipe_or_job_explains_nothing(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, acknowledged=False)
    ledger.note("job", "", 3)
    ledger.note("recipe", "", 3)
    keep(ledger, 2)
    assert audit(path).unexplained == 1


def test_an_event_before_a_row_does_not_explain_it(ledger: Ledger, path: Path) -> None:
    ledger.note("started", "", 0)
    keep(ledger, 1)
    ledger.note("error", "", 0)
    keep(ledger, 2, acknowledged=False)
    keep(ledger, 3)
    assert audit(path).unexplained == 1


def test_an_event_after_the_next_acknowledgement_explains_nothing_before_it(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, acknowledged=False)
    keep(ledger, 2)
    ledger.note("error", "", 3)
    assert audit(path).unexplained == 1


def test_an_event_explains_until_the_next_row_is_acknowledged(ledger: Ledger, path: Path) -> None:
    first, second = keep(ledger, 1, 2, acknowledged=False)
    ledger.note("error", "", 3)
    ledger.acknowledge(second, 4)
    assert audit(path).ok
    ledger.acknowledge(first, 5)
    assert audit(path).acknowledged == 2


def test_only_the_newest_row_may_wait_and_only_for_a_second(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1)
    keep(ledger, 2, acknowledged=False)
    assert audit(path, now_ns=3 * SECOND_NS).ok
    assert audit(path, now_ns=3 * SECOND_NS + 1).unexplained == 1
    assert audit(path).unexplained == 1
    keep(ledger, 3, acknowledged=False)
    assert audit(path, now_ns=3 * SECOND_NS).unexplained == 1
    keep(ledger, 4)
    assert audit(path, now_ns=4 * SECOND_NS).unexplained == 2


@pytest.mark.parametrize("column", ["verdict = 'PASS'", "probability = 0.95", "detail = ''", "defects = '[]'", "creation_time_ns = 1"])
def test_a_changed_row_breaks_the_chain(ledger: Ledger, path: Path, column: str) -> None:
    keep(ledger, 1, 2, 3)
    change(path, f"UPDATE results SET {column} WHERE result_id = 2")
    found = audit(path)
    assert not found.ok
    assert found.findings[0].startswith("result 2: the chain breaks")
    assert len(found.findings) == 1


def test_a_removed_row_breaks_the_chain(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 2, 3)
    change(path, "DELETE FROM acknowledgements WHERE result_id = 1", "DELETE FROM results WHERE result_id = 1")
    assert audit(path).findings[0].startswith("result 2: the chain breaks")


@pytest.mark.parametrize("speaks", ["acknowledgement", "event"])
def test_removed_newest_rows_are_found_by_what_speaks_of_them(ledger: Ledger, path: Path, speaks: str) -> None:
    keep(ledger, 1, 2, 3, acknowledged=speaks == "acknowledgement")
    if speaks == "event":
        ledger.note("stopped", "", 4)
    change(path, "DELETE FROM results WHERE result_id > 1")
    assert audit(path).findings == ("results 2 to 3 were removed: an acknowledgement or an event speaks of result 3",)


def test_an_audit_since_a_time_begins_there(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 3, 4, 5)
    assert audit(path).missing == 1
    found = audit(path, since_ns=4 * SECOND_NS)
    assert (found.parts, found.ok) == (2, True)
    nothing = audit(path, since_ns=6 * SECOND_NS)
    assert (nothing.parts, nothing.ok) == (0, True)


def test_an_audit_since_a_time_still_checks_the_chain_to_the_row_before(ledger: Ledger, path: Path) -> None:
    keep(ledger, 1, 2, 3)
    change(path, "DELETE FROM acknowledgements WHERE result_id = 2", "DELETE FROM results WHERE result_id = 2")
    assert audit(path, since_ns=3 * SECOND_NS).findings[0].startswith("result 3: the chain breaks")
