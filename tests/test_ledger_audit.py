"""An audit of a range, beside a writer, and after the clock was set: the ledger's own order decides, and only what is in the range."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_line import Bench
from test_ledger import PART, SECOND_NS, change, keep

from drivers.plc import Command
from station import ledger_audit
from station.inspection import Verdict
from station.ledger import Ledger, audit
from station.state import State

HOUR_NS = 3600 * SECOND_NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_audit, "PIECE_ROWS", 3)


def keep_at(ledger: Ledger, *created_s: int) -> None:
    """Parts that go on counting, created when the clock showed these seconds."""
    newest = ledger.last()
    for sequence, second in enumerate(created_s, start=newest.sequence + 1 if newest else 1):
        ledger.acknowledge(ledger.append(replace(PART, sequence=sequence), second * SECOND_NS), second * SECOND_NS)


def since(path: Path, second: int) -> tuple[int, tuple[str, ...]]:
    found = audit(path, since_ns=second * SECOND_NS)
    return found.parts, found.findings


def test_a_range_that_begins_with_a_repeated_part_misses_none(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1, 2, 3, 4, 5, 6)
        ledger.acknowledge(ledger.append(replace(PART, sequence=2), 7 * SECOND_NS), 1)
        keep(ledger, 7, 8, 9)
    found = audit(path, since_ns=7 * SECOND_NS)
    assert (found.parts, found.missing, found.duplicate) == (3, 0, 1)
    assert found.findings == ("job 1: part 2 was answered again, by result 7",)


def test_a_part_left_out_where_a_range_begins_is_missing_in_it_and_one_before_is_not(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1, 3, 5, 6)
    assert since(path, 5) == (3, ("job 1: part 4 was never answered",))
    assert since(path, 6) == (1, ())


def test_a_part_that_was_missing_before_the_range_and_answered_in_it_is_late(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1, 3)
        ledger.acknowledge(ledger.append(replace(PART, sequence=2), 9 * SECOND_NS), 1)
    assert since(path, 9) == (1, ("job 1: part 2 was answered out of order, by result 3",))


def test_a_range_takes_no_finding_from_before_it(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1, 1, acknowledged=False)
        keep(ledger, 2, 5, 6)
    assert since(path, 6) == (1, ())
    assert len(audit(path).findings) == 3


def test_an_event_explains_rows_on_both_sides_of_where_a_range_begins(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.note("started", "", 0)
        keep(ledger, 1, 2, 3, acknowledged=False)
        ledger.note("error", "the wire was cut", 3)
        keep(ledger, 4)
        keep(ledger, 5, acknowledged=False)
        keep(ledger, 6)
    unexplained = ("result 5 was never acknowledged, from part 5 of job 1 on, and no error, start or stop explains it",)
    assert [since(path, second) for second in (1, 2, 3, 4, 5, 6)] == [*((7 - second, unexplained) for second in range(1, 6)), (1, ())]


def test_every_piece_of_a_ledger_is_joined_to_the_one_before(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, *range(1, 12))
    assert audit(path).parts == 11
    change(path, "UPDATE results SET chain = 'x' WHERE result_id = 6")
    assert [finding[:26] for finding in audit(path).findings] == ["result 6: the chain breaks", "result 7: the chain breaks"]
    assert [finding[:26] for finding in since(path, 7)[1]] == ["result 7: the chain breaks"]


def test_rows_that_are_kept_while_an_audit_reads_are_left_to_the_next_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, *range(1, 10))
        link = ledger_audit.link

        def meanwhile(chain: str, row: tuple[int, ...]) -> str:
            keep(ledger, 10 + row[0], acknowledged=False)
            return link(chain, row)

        monkeypatch.setattr(ledger_audit, "link", meanwhile)
        found = audit(path)
    assert (found.parts, found.ok) == (9, True)


def test_a_long_audit_does_not_keep_the_wal_from_being_emptied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, *range(1, 10))
        emptied = []
        link = ledger_audit.link

        def meanwhile(chain: str, row: tuple[int, ...]) -> str:
            busy, in_wal, in_file = ledger._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            emptied.append((busy, in_wal == in_file))
            ledger.note("state", "", 1)
            return link(chain, row)

        monkeypatch.setattr(ledger_audit, "link", meanwhile)
        assert audit(path).ok
    assert emptied == [(0, True)] * 9


def test_a_wal_that_grew_long_is_cut_back(path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        keep(ledger, 1)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM results").fetchall()
        for _ in range(40):
            ledger.note("state", "x" * 300_000, 1)
        wal = Path(f"{path}-wal")
        assert wal.stat().st_size > 10 << 20
        reader.execute("COMMIT")
        keep(ledger, 2, 3)
        assert wal.stat().st_size <= 8 << 20


def test_no_statement_of_a_running_line_walks_through_what_has_grown(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        statements: list[str] = []
        ledger._connection.set_trace_callback(statements.append)
        keep(ledger, 2)
        ledger.note("asked", "3", 1)
        ledger.noted("asked")
        ledger.answer(1, 2)
        ledger.last()
        ledger.writable()
        ledger._connection.set_trace_callback(None)
        plans = {text: [step[3] for step in ledger._connection.execute(f"EXPLAIN QUERY PLAN {text}")] for text in set(statements)}
    steps = [step for plan in plans.values() for step in plan]
    assert "SEARCH events USING INDEX events_named (event=?)" in steps
    assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith(("SCAN events", "SCAN acknowledgements"))], plans


def test_a_ledger_of_a_station_that_knew_no_index_of_events_gets_one(path: Path) -> None:
    Ledger(path).close()
    change(path, "DROP INDEX events_named")
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        (plan,) = connection.execute("EXPLAIN QUERY PLAN SELECT detail FROM events WHERE event = 'job' ORDER BY event_id DESC")
    assert "events_named" in plan[3]


# --- the clock


def test_after_a_clock_was_set_back_a_range_begins_at_the_first_row_that_says_so_and_takes_all_after_it(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep_at(ledger, 10_000, 10_001, 10_002)
        keep_at(ledger, 6_402, 6_403, 6_404)
    assert audit(path).ok
    assert since(path, 10_001) == (5, ())
    assert since(path, 6_403) == (6, ()), "the first row says it is younger: rather too many rows than one too few"
    assert since(path, 10_003) == (0, ())


def test_after_a_clock_was_set_forward_a_range_begins_as_ever(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep_at(ledger, 10_000, 10_001)
        keep_at(ledger, 13_602, 13_603)
    assert audit(path).ok
    assert since(path, 10_001) == (3, ())
    assert since(path, 13_000) == (2, ())


@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS])
def test_a_clock_that_is_set_by_an_hour_changes_no_verdict_and_no_finding(tmp_path: Path, step_ns: int) -> None:
    bench = Bench(tmp_path)
    bench.wall_ns = 10 * HOUR_NS
    bench.run()
    for sequence in range(1, 7):
        if sequence == 4:
            bench.wall_ns += step_ns
        assert bench.part(sequence).verdict is Verdict.PASS
    bench.say(Command.STOP)
    assert bench.line.state is State.READY
    found = bench.audit()
    assert (found.parts, found.acknowledged, found.ok) == (6, 6, True)
    bench.line.close()
