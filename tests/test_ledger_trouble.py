"""A ledger in trouble: killed between any two steps, on a full disk, on one that takes no writes, deleted under the running station."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import daemon, far_plc, make_home, station, until
from scripted_line import Bench
from test_ledger import full_disk, keep

from drivers.plc import Command, ErrorCode
from station import ledger as ledger_module
from station.ballast import Ballast
from station.inspection import Reason, Verdict
from station.ledger import BALLAST_BYTES, RESERVE_BYTES, Ledger, LedgerError, audit
from station.state import State

KILLED_LIVES = """
import os, random, select, signal, sqlite3, sys, time
from dataclasses import replace
from pathlib import Path
from station.ledger import Ledger
from test_ledger import PART

def live(path, job_id, tell, step, parts):
    connect = sqlite3.connect
    def traced(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(step)
        return connection
    sqlite3.connect = traced
    ledger = Ledger(path)
    ledger.note("started", "", 0)
    for sequence in range(1, parts + 1):
        ledger.writable()
        result_id = ledger.append(replace(PART, job_id=job_id, sequence=sequence), sequence)
        step()
        tell(f"answered {result_id}")
        ledger.acknowledge(result_id, sequence)
        step()
        tell(f"acknowledged {result_id}")
        ledger.note("state", "", sequence)
    ledger.close()

def life(number, path, killed_at):
    read, write = os.pipe()
    steps = iter(range(10**9))
    child = os.fork()
    if not child:
        def step(*_):
            if next(steps) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
        live(path, number, lambda text: os.write(write, f"{number} {text}\\n".encode()), step, 3 if killed_at is not None else 10**6)
        os._exit(0)
    os.close(write)
    if killed_at is None:
        heard = b"".join(os.read(read, 50) for _ in range(random.Random(number).randrange(1, 8)))
        time.sleep(random.Random(number).random() / 500)
        os.kill(child, signal.SIGKILL)
    else:
        heard = b""
    while more := os.read(read, 65536):
        heard += more
    os.close(read)
    print(heard.decode(), end="")
    return os.waitpid(child, 0)[1]

folder, how = Path(sys.argv[1]), sys.argv[2]
if how == "random":
    for number in range(1, 51):
        life(number, folder / "ledger.sqlite", None)
else:
    number = 0
    while life(number, folder / f"{number}.sqlite", number):
        number += 1
    print("lived", number)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for a ledger's reserve and ballast, and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=False, capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Somebody else's file, which takes all the room but so much."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        while (room := free(disk) - leave_bytes) > 0:
            with suppress(OSError):  # the station was faster
                os.posix_fallocate(file.fileno(), filler.stat().st_size, room)
    return filler


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def ballast(path: Path) -> Path:
    return path.with_name("ledger.sqlite-ballast")


def passed(disk: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{disk / 'ledger.sqlite'}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM results WHERE verdict = 'PASS'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def lives(folder: Path, how: str) -> list[list[str]]:
    environment = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}"}
    words = [sys.executable, "-c", KILLED_LIVES, str(folder), how]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True, env=environment)
    return [line.split() for line in ran.stdout.splitlines()]


def assert_nothing_told_is_lost(path: Path, told: list[list[str]]) -> None:
    """After one more start every row is explained, and what was said to be kept is kept."""
    with closing(Ledger(path)) as ledger:
        ledger.note("started", "after a kill", 1)
        keep(ledger, 1, job_id=1_000)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        answered = {row[0] for row in connection.execute("SELECT result_id FROM results")}
        acknowledged = {row[0] for row in connection.execute("SELECT result_id FROM acknowledgements")}
    assert answered >= {int(number) for _, what, number in told if what == "answered"}
    assert acknowledged >= {int(number) for _, what, number in told if what == "acknowledged"}
    found = audit(path)
    assert (found.findings, found.missing, found.duplicate) == ((), 0, 0)


# --- killed


def test_a_ledger_killed_before_any_statement_has_kept_what_it_said(tmp_path: Path) -> None:
    *told, (_, steps) = lives(tmp_path, "every")
    assert int(steps) > 50, "the schema, a start, and three parts with all that is kept of them"
    for step in range(int(steps)):
        assert_nothing_told_is_lost(tmp_path / f"{step}.sqlite", [line for line in told if line[0] == str(step)])


def test_a_ledger_killed_fifty_times_within_its_statements_has_kept_what_it_said(tmp_path: Path, path: Path) -> None:
    told = lives(tmp_path, "random")
    assert len({line[0] for line in told}) == 50
    assert_nothing_told_is_lost(path, told)


# --- a full disk


def test_on_a_full_disk_the_ballast_makes_room_for_what_is_due(disk: Path) -> None:
    path = disk / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        assert ledger.writable()
        assert ballast(path).stat().st_blocks * 512 == BALLAST_BYTES, "it holds room, not only a size"
        filler = fill(disk)
        keep(ledger, 2, 3)
        ledger.note("error", "LEDGER: the disk is full", 3)
        assert not ballast(path).exists()
        assert not ledger.writable()
        assert "MB are free on its disk" in ledger.trouble
        filler.unlink()
        assert ledger.writable()
        assert ledger.trouble == ""
        assert ballast(path).stat().st_size == BALLAST_BYTES
        keep(ledger, 4)
    found = audit(path)
    assert (found.parts, found.acknowledged, found.ok) == (4, 4, True)


def test_a_disk_is_only_writable_when_the_ballast_fits_beside_the_reserve(disk: Path) -> None:
    path = disk / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        fill(disk, leave_bytes=RESERVE_BYTES + BALLAST_BYTES - 4096)
        assert not ledger.writable()
        assert not ballast(path).exists()
        fill(disk, leave_bytes=RESERVE_BYTES + BALLAST_BYTES)
        assert ledger.writable()
        assert ledger.writable(), "what is asked for does not fall back below what it was"
        fill(disk, leave_bytes=RESERVE_BYTES - 4096)
        assert not ledger.writable()
        assert ballast(path).exists(), "it is for the full disk"


def test_the_ballast_is_enough_for_a_thousand_parts(disk: Path) -> None:
    with closing(Ledger(disk / "ledger.sqlite")) as ledger:
        assert ledger.writable()
        fill(disk)
        keep(ledger, *range(1, 1001))
        assert audit(disk / "ledger.sqlite").acknowledged == 1000


def test_when_the_ballast_is_used_up_too_nothing_is_half_kept(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BALLAST_BYTES", 65_536)
    with closing(Ledger(disk / "ledger.sqlite")) as ledger:
        assert ledger.writable()
        filler = fill(disk)
        kept: list[int] = []

        def keep_until_refused() -> None:
            for sequence in range(1, 1000):
                kept.extend(keep(ledger, sequence))

        with pytest.raises(LedgerError, match="full"):
            keep_until_refused()
        filler.unlink()
        last = ledger.last()
        assert last is not None
        assert last.result_id - len(kept) in (0, 1)
        assert len(kept) >= 2
        assert ledger.writable()
        ledger.note("error", "the disk was full", 1)
        keep(ledger, last.sequence + 1)
        assert audit(disk / "ledger.sqlite").ok


def test_a_station_starts_on_a_full_disk_with_the_ballast_of_the_one_before(disk: Path) -> None:
    path = disk / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        assert ledger.writable()
    fill(disk)
    with closing(Ledger(path)) as ledger:
        ledger.note("started", "on a full disk", 1)
        assert not ledger.writable()
    assert audit(path).ok


def test_a_line_on_a_full_disk_stops_tells_the_plc_and_loses_no_answer(disk: Path) -> None:
    bench = Bench(disk)
    bench.run()
    assert bench.part(1).verdict is Verdict.PASS
    filler = fill(disk)
    assert bench.part(2).reason is Reason.NOT_RUNNING
    assert (bench.plc.last.state, bench.plc.last.error_code) == (State.ERROR, ErrorCode.LEDGER)
    assert bench.part(3).verdict is Verdict.FAIL
    filler.unlink()
    bench.turn(3)
    assert bench.plc.last.state == State.READY
    bench.say(Command.START_CONTINUOUS)
    assert bench.part(4).verdict is Verdict.PASS
    bench.turn(2)
    found = bench.audit()
    assert (found.parts, found.acknowledged, found.findings) == (4, 4, ())
    bench.line.close()


def test_a_line_whose_ballast_is_used_up_keeps_its_answers_later(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BALLAST_BYTES", 32_768)
    bench = Bench(disk)
    bench.run()
    bench.part(1)
    filler = fill(disk)
    results = [bench.part(sequence) for sequence in range(2, 40)]
    bench.say(Command.RESET)
    assert {result.verdict for result in results} == {Verdict.FAIL}
    kept = bench.ledger.last()
    assert kept is not None
    assert kept.sequence < 39, "the ballast was not enough for all"
    filler.unlink()
    bench.turn(3)
    assert bench.plc.last.state == State.READY
    bench.say(Command.START_CONTINUOUS)
    assert bench.part(40).verdict is Verdict.PASS
    bench.turn(2)
    found = bench.audit()
    assert (found.parts, found.missing, found.duplicate, found.findings) == (40, 0, 0, ())
    bench.line.close()


# --- a disk that takes no writes


@pytest.mark.parametrize("holds", [True, False])
def test_a_ledger_on_a_disk_that_takes_no_writes_is_not_writable_until_it_does(
    path: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    if not holds:
        monkeypatch.setattr(Ballast, "hold", lambda _: None)
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        assert ledger.writable()
        with full_disk(at_bytes=0):
            with pytest.raises(LedgerError, match="keep part 2"):
                keep(ledger, 2)
            assert not ledger.writable()
            assert not ledger.writable()
        assert ledger.writable()
        keep(ledger, 2)
    assert audit(path).ok


def test_a_ledger_on_a_read_only_disk_can_be_audited_and_not_opened(disk: Path) -> None:
    path = disk / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1, 2)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert (audit(path).parts, audit(path).ok) == (2, True)
    with pytest.raises(LedgerError, match="opened for writing"):
        Ledger(path)


def test_a_disk_that_became_read_only_is_found_before_the_next_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger(path)) as ledger:
        assert ledger.writable()
        statvfs = os.statvfs

        def read_only(where: Path) -> os.statvfs_result:
            fields = list(statvfs(where))
            fields[8] |= os.ST_RDONLY
            return os.statvfs_result(fields)

        monkeypatch.setattr(os, "statvfs", read_only)
        assert not ledger.writable()
        assert "read-only" in ledger.trouble


def test_the_ballast_lies_on_the_disk_of_the_ledger_wherever_its_name_is(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "ledger.sqlite").symlink_to(tmp_path / "far/ledger.sqlite")
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.writable()
    assert ballast(tmp_path / "far/ledger.sqlite").exists()


def test_room_that_cannot_be_held_says_not_writable_and_leaves_no_half_ballast(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger(path)) as ledger:

        def refused(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(os, "posix_fallocate", refused)
            assert not ledger.writable()
        assert "No space left" in ledger.trouble
        assert not ballast(path).exists()
        ballast(path).write_bytes(b"half")
        assert ledger.writable()
        assert ballast(path).stat().st_size == BALLAST_BYTES


# --- a ledger that is not there any more


def test_nothing_is_kept_in_a_deleted_ledger_and_all_goes_on_when_it_is_put_back(path: Path, tmp_path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        path.rename(tmp_path / "away")
        with pytest.raises(LedgerError, match="deleted or replaced"):
            keep(ledger, 2)
        assert not ledger.writable()
        assert "put it back, or restart the station" in ledger.trouble
        Ledger(tmp_path / "other").close()
        (tmp_path / "other").rename(path)
        with pytest.raises(LedgerError, match="deleted or replaced"):
            keep(ledger, 2)
        (tmp_path / "away").rename(path)
        assert ledger.writable()
        keep(ledger, 2)
    assert audit(path).parts == 2


def test_a_line_whose_ledger_was_moved_away_stops_and_keeps_its_answers_when_it_is_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.part(1)
    (tmp_path / "ledger.sqlite").rename(tmp_path / "away")
    assert bench.part(2).verdict is Verdict.FAIL
    assert bench.plc.last.error_code == ErrorCode.LEDGER
    (tmp_path / "away").rename(tmp_path / "ledger.sqlite")
    bench.turn(3)
    assert bench.plc.last.state == State.READY
    bench.say(Command.START_CONTINUOUS)
    bench.part(3)
    bench.turn(2)
    found = bench.audit()
    assert (found.parts, found.findings) == (3, ())
    bench.line.close()


def test_after_a_deleted_ledger_the_next_start_makes_a_new_one(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        keep(ledger, 1)
        shutil.copy(f"{path}-wal", path.parent / "kept-wal")
        path.unlink()
    shutil.copy(path.parent / "kept-wal", f"{path}-wal")
    with closing(Ledger(path)) as ledger:
        assert ledger.last() is None
        keep(ledger, 1)
    assert audit(path).parts == 1


# --- the whole station


@pytest.mark.timeout(200)
def test_a_station_whose_disk_fills_up_says_so_and_goes_on_when_there_is_room(tmp_path: Path, disk: Path) -> None:
    home = make_home(
        tmp_path / "home", plc={"port": str(tmp_path / "home/data/simulated/plc")}, simulation=None, recording={"keep": "none"}
    )
    (home / "data").mkdir()
    (home / "data/ledger.sqlite").symlink_to(disk / "ledger.sqlite")
    with far_plc(home, "1:bulb:100000") as plc, daemon(home) as process:
        until(lambda: passed(disk) > 5, 60, "parts")
        filler = fill(disk)
        until(lambda: station(home, "status")["state"] == "Error", 20, "the error")
        status = station(home, "status")
        assert any("ledger" in alarm for alarm in status["alarms"])
        before = passed(disk)
        filler.unlink()
        until(lambda: passed(disk) > before + 5, 30, "parts that pass again")
        plc.send_signal(signal.SIGTERM)
        counts = json.loads(plc.communicate(timeout=60)[0])
    assert process.returncode == 0
    assert counts["violations"] == []
    assert counts["recoveries"] >= 1, "the PLC was told"
    found = station(home, "audit")
    assert (found["ok"], found["findings"]) == (True, [])
    assert found["parts"] >= counts["answered"]
