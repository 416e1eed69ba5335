"""The whole line as its users start it: simulated camera under Harvesters, network, ledger, Modbus RTU over a pty, the PLC's own counts."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import STATION, daemon, far_plc, make_home, station, until

PARTS = 60
BATCHES = [{"recipe": 1, "pictures": "bulb", "parts": 30}, {"recipe": 2, "pictures": "iron", "parts": 30}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run of two products, a third of the parts defective: its home and its summary."""
    home = make_home(tmp_path_factory.mktemp("line"), simulation={"batches": BATCHES, "defective": 0.33, "interval_ms": 0, "seed": 5})
    return home, station(home, "run", "--parts", str(PARTS))


def recording(home: Path) -> str:
    (found,) = station(home, "recording", "list")
    return str(found["recording"])


def test_triggers_are_ledger_rows_are_acknowledged_verdicts(run: tuple[Path, dict[str, Any]]) -> None:
    home, summary = run
    audit = station(home, "audit")
    assert summary["plc"]["triggers"] == summary["plc"]["answered"] == summary["plc"]["acknowledged"] == PARTS
    assert (audit["parts"], audit["answered"], audit["acknowledged"]) == (PARTS, PARTS, PARTS)
    assert (audit["missing"], audit["duplicate"], audit["unexplained"], audit["findings"], audit["ok"]) == (0, 0, 0, [], True)


def test_the_plc_and_the_station_count_the_same_without_knowing_of_each_other(run: tuple[Path, dict[str, Any]]) -> None:
    _, summary = run
    assert (summary["pass"], summary["fail"]) == (summary["plc"]["passed"], summary["plc"]["rejected"])
    assert summary["reasons"] == summary["plc"]["reasons"]
    assert summary["plc"]["violations"] == []
    assert summary["plc"]["timeouts"] == 0


def test_defective_parts_fail_or_are_listed_as_escapes(run: tuple[Path, dict[str, Any]]) -> None:
    _, summary = run
    classes = summary["plc"]["classes"]
    bad = {name: counts for name, counts in classes.items() if name != "good"}
    assert sum(counts["rejected"] for counts in bad.values()) >= 10
    assert sum(counts["passed"] for counts in bad.values()) == len(summary["plc"]["escapes"])
    assert len(summary["plc"]["escapes"]) + len(summary["plc"]["overkill"]) <= 2, "the demo networks know these parts"


def test_both_products_were_judged_by_the_recipe_that_was_asked_for(run: tuple[Path, dict[str, Any]]) -> None:
    _, summary = run
    assert summary["plc"]["recipes"] == {"1": 30, "2": 30}


def test_a_line_that_speaks_ascii_answers_every_part_too(tmp_path: Path) -> None:
    home = make_home(tmp_path, simulation={"batches": BATCHES, "defective": 0.33, "interval_ms": 0, "seed": 5}, plc={"link": "ascii"})
    summary = station(home, "run", "--parts", "36")
    plc = summary["plc"]
    assert (plc["triggers"], plc["answered"], plc["acknowledged"], plc["violations"], plc["timeouts"]) == (36, 36, 36, [], 0)
    assert (summary["pass"], summary["fail"], summary["reasons"]) == (plc["passed"], plc["rejected"], plc["reasons"])
    assert plc["recipes"] == {"1": 30, "2": 6}
    assert summary["audit"]["ok"]


@pytest.mark.parametrize(
    "site",
    [
        {"trigger": "hardware"},
        {"trigger": "free", "camera": {"trigger_source": "Line0"}},
        {"plc": {"role": "server"}},
        {"plc": {"fc23": True}},
    ],
    ids=["hardware", "free", "server", "fc23"],
)
def test_whoever_counts_and_whoever_polls_every_part_is_answered_once(site: dict[str, Any], tmp_path: Path) -> None:
    batches = [{"recipe": 1, "pictures": "bulb", "parts": 8}, {"recipe": 2, "pictures": "iron", "parts": 4}]
    home = make_home(tmp_path / "home", simulation={"batches": batches, "defective": 0.33, "interval_ms": 0, "seed": 5}, **site)
    summary = station(home, "run", "--parts", "12")
    assert summary["plc"]["triggers"] == summary["plc"]["answered"] == summary["plc"]["acknowledged"] == 12
    assert (summary["plc"]["violations"], summary["plc"]["escapes"], summary["plc"]["timeouts"]) == ([], [], 0)
    assert summary["pass"] >= 4
    assert summary["audit"]["ok"], summary["audit"]["findings"]


def test_a_replay_of_the_recording_decides_the_same(run: tuple[Path, dict[str, Any]]) -> None:
    home, _ = run
    replay = station(home, "replay", recording(home))
    assert (replay["parts"], replay["same"], replay["different"], replay["differences"]) == (PARTS, PARTS, 0, [])


def test_a_replay_with_a_changed_threshold_differs_exactly_where_it_follows(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    home, _ = run
    exported = tmp_path / "export"
    station(home, "recording", "export", recording(home), str(exported))
    parts = [json.loads(line) for line in (exported / "parts.jsonl").read_text().splitlines()]
    (picture,) = station(home, "inspect", "bulb", str(home / "recipes/bulb/good.jpg"))
    limit = picture["probability"]  # the highest at which the recipe still passes its own self-test
    good_bulbs = [part for part in parts if part["recipe_number"] == 1 and part["class_name"] == "good"]
    expected = {part["sequence"] for part in good_bulbs if part["probability"] < limit}
    assert 0 < len(expected) < len(good_bulbs), "the limit parts the good bulbs"
    changed = tmp_path / "home"
    shutil.copytree(home, changed, symlinks=True, ignore=shutil.ignore_patterns("control.sock", "simulated"))
    file = changed / "recipes" / "bulb" / "recipe.yaml"
    file.write_text(re.sub(r"minimum_probability: \S+", f"minimum_probability: {limit!r}", file.read_text()))
    replay = station(changed, "replay", recording(changed), code=1)
    verdicts = {difference["part"] for difference in replay["differences"] if difference["field"] == "verdict"}
    assert verdicts == expected
    assert {difference["field"] for difference in replay["differences"]} <= {"verdict", "reason"}
    assert replay["different"] == len(expected)


def test_what_would_be_under_the_other_product_s_recipe_is_told(run: tuple[Path, dict[str, Any]]) -> None:
    home, _ = run
    replay = station(home, "replay", recording(home), "--recipe", "iron", code=1)
    assert replay["recipe"] == "iron"
    assert replay["different"] > 0


def test_a_picture_of_the_line_is_inspected_as_the_line_did(run: tuple[Path, dict[str, Any]]) -> None:
    home, _ = run
    good, bad = station(home, "inspect", "bulb", str(home / "recipes/bulb/good.jpg"), str(home / "recipes/bulb/break.jpg"))
    assert (good["class"], good["verdict"], good["reason"], good["defects"]) == ("good", "PASS", "good", [])
    assert (bad["class"], bad["verdict"], bad["reason"]) == ("break", "FAIL", "defect")
    assert sum(bad["scores"].values()) == pytest.approx(1, abs=1e-5)
    x, y, width, height = bad["defects"][0]["box"]
    assert width > 0
    assert height > 0
    assert x >= 0
    assert y >= 0


def test_the_operator_changes_a_running_line_over_and_stops_it_cleanly(tmp_path: Path) -> None:
    """`run`, `status`, `recipe prepare`, SIGTERM: the outputs are left at reject and nothing is left behind."""
    home = make_home(tmp_path / "home", simulation={"batches": [{"recipe": 1, "pictures": "bulb", "parts": 100_000}]})
    daemon = subprocess.Popen([*STATION, "--home", str(home), "run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until((home / "data/control.sock").exists, 30, "the socket")
        until(lambda: station(home, "status")["parts"] > 3, 60, "some parts")
        refused = station(home, "recipe", "prepare", "bulp", code=1)
        assert "no recipe bulp" in refused["error"]
        assert station(home, "status")["recipe"] == "bulb", "the old recipe stays"
        assert station(home, "recipe", "prepare", "iron")["ok"]
        status = station(home, "status")
        assert (status["recipe"], status["asked_recipe"]) == ("iron", 1)
        until(lambda: station(home, "status")["reasons"].get("wrong_recipe", 0) > 0, 30, "parts by a recipe nobody asked for")
        second = subprocess.run([*STATION, "--home", str(home), "run"], capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert "another station runs" in second.stderr
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, said
    assert "Traceback" not in said
    assert not (home / "data/control.sock").exists()
    assert station(home, "audit")["ok"]


def test_a_changeover_while_parts_keep_coming_leaves_none_unanswered_and_passes_none_by_the_wrong_recipe(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", plc={"port": str(tmp_path / "home/data/simulated/plc")}, simulation=None)
    with far_plc(home, "1:bulb:20", "2:iron:20", more=["--keep-running"]) as plc, daemon(home):
        counts = json.loads(plc.communicate(timeout=90)[0])
        audit = station(home, "audit")
    assert counts["violations"] == []
    assert counts["triggers"] == counts["answered"] == counts["acknowledged"] == audit["parts"] > 40
    assert counts["reasons"]["wrong_recipe"] >= 1, "parts of the old product came while the new recipe was prepared"
    assert audit["ok"], audit["findings"]
    with sqlite3.connect(home / "data/ledger.sqlite") as ledger:
        wrong = ledger.execute("SELECT verdict, asked_recipe FROM results WHERE reason = 8").fetchall()
        passed = ledger.execute("SELECT asked_recipe, recipe_number FROM results WHERE verdict = 'PASS'").fetchall()
    assert wrong == [("FAIL", 2)] * counts["reasons"]["wrong_recipe"]
    assert set(passed) == {(1, 1), (2, 2)}


def test_help_is_printed_without_importing_torch() -> None:
    code = """
import sys, station.cli
try:
    station.cli.main(["--help"])
except SystemExit:
    print([name for name in ("torch", "numpy", "cv2") if name in sys.modules])
"""
    ran = subprocess.run([*STATION[:1], "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert ran.stdout.rstrip().endswith("[]")
    assert "replay" in ran.stdout


@pytest.mark.parametrize("words", [["audit"], ["replay", "nothing"], ["recipe", "check", "nothing"], ["inspect", "bulb", "nothing.png"]])
def test_an_error_is_a_message_and_an_exit_code_and_never_a_traceback(tmp_path: Path, words: list[str]) -> None:
    home = make_home(tmp_path / "home")
    ran = subprocess.run([*STATION, "--home", str(home), *words], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode in (2, 3)
    assert "Traceback" not in ran.stderr + ran.stdout
    assert "defect of the station" not in ran.stderr
    assert "nothing" in ran.stderr + ran.stdout or "ledger" in ran.stderr


def test_status_without_a_daemon_says_what_to_start(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    ran = subprocess.run([*STATION, "--home", str(home), "status"], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 3
    assert "station run" in ran.stderr
