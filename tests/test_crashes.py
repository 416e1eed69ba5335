"""Processes killed at random moments of a running line: no PASS for a part that was not inspected; the ledger explains every part."""

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import daemon, far_plc, make_home, station, until

SEED = 20
KILLS = 4


def rows(home: Path) -> int:
    """How many answers are in the ledger, read beside the daemon."""
    try:
        with sqlite3.connect(f"file:{home / 'data/ledger.sqlite'}?mode=ro", uri=True) as ledger:
            return int(ledger.execute("SELECT COUNT(*) FROM results").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def camera_process(daemon_pid: int) -> int | None:
    """The daemon's child that has loaded the camera's producer."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == daemon_pid and ".cti" in (path.parent / "maps").read_text():
                return int(path.parent.name)
        except OSError:
            continue
    return None


def assert_every_pass_was_inspected(home: Path) -> None:
    """A PASS in the ledger has a frame, a class that is good, and was judged within the deadline."""
    with sqlite3.connect(home / "data/ledger.sqlite") as ledger:
        passed = ledger.execute(
            "SELECT frame_id, class_name, probability, judged_ns - captured_ns FROM results WHERE verdict = 'PASS'"
        ).fetchall()
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert passed
    assert all(frame is not None and name == "good" and probability >= 0.5 and age >= 0 for frame, name, probability, age in passed)


def assert_the_plc_found_nothing_forbidden(counts: dict[str, Any]) -> None:
    assert counts["violations"] == []
    assert counts["passed"] + counts["rejected"] == counts["triggers"]
    assert len(counts["escapes"]) <= 1, "a defective part passes only where the network was wrong"


@pytest.mark.timeout(300)
def test_a_camera_process_killed_at_random_costs_parts_but_never_lets_one_pass(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    home = make_home(tmp_path / "home", plc={"port": str(tmp_path / "home/data/simulated/plc")}, simulation=None)
    with far_plc(home, "1:bulb:150") as plc, daemon(home) as process:
        for _ in range(KILLS):
            before = rows(home)
            until(lambda before=before: rows(home) > before + 5, 60, "parts")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            until(lambda: camera_process(process.pid) is not None, 20, "the camera process")
            os.kill(camera_process(process.pid) or 0, signal.SIGKILL)
            until(lambda: station(home, "status")["camera"]["state"] == "streaming", 15, "the camera's return")
        counts = json.loads(plc.communicate(timeout=120)[0])
        status = station(home, "status")
    assert process.returncode == 0, "the daemon stayed up"
    assert status["camera"]["reconnects"] == KILLS
    assert_the_plc_found_nothing_forbidden(counts)
    assert_every_pass_was_inspected(home)
    audit = station(home, "audit")
    assert audit["ok"], audit["findings"]


@pytest.mark.timeout(300)
def test_a_daemon_killed_at_random_leaves_a_ledger_that_explains_every_part(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    home = make_home(tmp_path / "home", plc={"port": str(tmp_path / "home/data/simulated/plc")}, simulation=None)
    with far_plc(home, "1:bulb:120") as plc:
        for _ in range(KILLS):
            with daemon(home) as process:
                before = rows(home)
                until(lambda before=before: rows(home) > before + 5, 60, "parts")  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.3))
                process.kill()
        with daemon(home):
            counts = json.loads(plc.communicate(timeout=120)[0])
    assert_the_plc_found_nothing_forbidden(counts)
    assert_every_pass_was_inspected(home)
    audit = station(home, "audit")
    assert audit["ok"], audit["findings"]
    with sqlite3.connect(home / "data/ledger.sqlite") as ledger:
        passed = ledger.execute("SELECT COUNT(*) FROM results WHERE verdict = 'PASS'").fetchone()[0]
    assert counts["passed"] <= passed, "the PLC never saw a PASS that is not in the ledger"
