"""`station plc watch` and `station plc test`: the wire in plain words, and a dry handshake that passes nothing."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import STATION, daemon, make_home, station, until

from drivers.modbus_rtu import ModbusRtuPlc
from drivers.plc import NO_RESULT, CommandStatus, ErrorCode, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals, Trigger
from drivers.simulated.line import Terminal
from station import plc_test
from station.config import PlcConfig
from station.control import Control, ControlError, ask
from station.inspection import Reason
from station.plc_watch import BEATS_WITHIN_S, ERRORS, REASONS, STATES, Change, Watch, follow
from station.state import State

RESULT = PlcResult(42, True, 1, 0, 0.9981, 0, 0, (0, 0, 0, 0), 87, 12, 0x9F3A)
SIGNALS = StationSignals(8, 7, 12, 0x9F3A, NO_RESULT, 3, CommandStatus.IDLE, 0, 6)
HEARD = PlcInput(900, PlcCommand(0, 0, 3), 41, (Trigger(41, "A1"),))


def wire(signals: StationSignals = SIGNALS, heard: PlcInput | None = HEARD, **more: Any) -> dict[str, Any]:
    """What the daemon answers, as it comes through the socket."""
    answer = {"ok": True, "signals": asdict(signals), "heard": asdict(heard) if heard else None, "hears": True, "link": "modbus-rtu"}
    document: dict[str, Any] = json.loads(json.dumps(answer | more))
    return document


# What is on the wire.


def looked(watch: Watch, document: dict[str, Any], now_s: float = 0.0) -> list[tuple[str, str, str]]:
    return [(change.says, change.where, change.words) for change in watch.look(document, now_s)]


def test_the_first_look_tells_all_that_stands() -> None:
    assert looked(Watch(), wire()) == [
        ("wire", "modbus-rtu", "the exchange with the PLC works"),
        ("PLC", "33-35", "command: 0, no command, sequence 3"),
        ("PLC", "37-45", "trigger: part 41, part id A1"),
        ("station", "1", "state: 8, ContinuousExecution: inspects what is triggered"),
        ("station", "3-4", "recipe prepared: 12, checksum 0x9F3A"),
        ("station", "5-18,23", "result: none: nothing stands, the part is a reject"),
        ("station", "19", "command taken, sequence: 3"),
        ("station", "20", "command status: 0, idle"),
        ("station", "21", "error: 0, no error"),
        ("station", "22", "parts not passed since StartContinuous: 6"),
        ("PLC", "36", "result taken, sequence: 41"),
    ]


def test_a_part_is_told_step_by_step_and_nothing_twice() -> None:
    watch = Watch()
    looked(watch, wire())
    assert looked(watch, wire()) == []
    triggered = replace(HEARD, triggers=(Trigger(42),))
    assert looked(watch, wire(heard=triggered)) == [("PLC", "37-45", "trigger: part 42")]
    told = replace(SIGNALS, result=RESULT)
    both = looked(Watch(), wire(told, replace(triggered, acknowledged=42)))
    assert [where for _, where, _ in both if where in ("37-45", "5-18,23", "36")] == ["37-45", "5-18,23", "36"], "also in one look"
    assert looked(watch, wire(told, triggered)) == [
        ("station", "5-18,23", "result: part 42 PASS, good; class 0 at 0.9981; recipe 12, checksum 0x9F3A; 87 ms")
    ]
    assert looked(watch, wire(told, replace(triggered, acknowledged=42))) == [("PLC", "36", "result taken, sequence: 42")]


def test_a_failed_part_says_why() -> None:
    failed = replace(RESULT, passed=False, reason=2, class_index=1, defects=2, largest_defect_px=(10, 20, 30, 40))
    (told,) = [words for _, where, words in looked(Watch(), wire(replace(SIGNALS, result=failed))) if where == "5-18,23"]
    assert "part 42 FAIL, defect; class 1 at 0.9981, 2 defects, the largest 30 x 40 px at 10,20; recipe 12" in told


def test_a_recipe_change_and_its_refusal_are_told() -> None:
    watch = Watch()
    looked(watch, wire())
    asked = replace(HEARD, command=PlcCommand(1, 13, 4))
    assert looked(watch, wire(heard=asked)) == [("PLC", "33-35", "command: 1, PrepareRecipe(13), sequence 4")]
    refused = replace(SIGNALS, command_echo=4, command_status=CommandStatus.FAILED, error_code=21)
    assert looked(watch, wire(refused, asked)) == [
        ("station", "19", "command taken, sequence: 4"),
        ("station", "20", "command status: 3, failed"),
        ("station", "21", "error: 21, the recipe was refused"),
    ]


def test_the_lines_words_stand_in_place_of_the_registers() -> None:
    places = [where for _, where, _ in looked(Watch(), wire(replace(SIGNALS, result=RESULT), link="ascii"))]
    assert places == ["ascii", "RCP...HLT", "TRG", "STS", "STS", "RES", "ACK", "DON/ERR", "STS", "-", "TAK"]


def test_what_the_wire_does_not_know_is_said_so() -> None:
    words = [text for *_, text in looked(Watch(), wire(heard=replace(HEARD, command=PlcCommand(0x300, 0, 4), triggers=(Trigger(0),))))]
    assert "command: 768, which the wire does not know, sequence 4" in words
    assert "trigger: none: the numbering begins" in words


def test_a_heartbeat_is_told_when_it_moves_and_when_it_stops() -> None:
    watch = Watch()
    looked(watch, wire(), 0.0)

    def both(station_beat: int, plc_beat: int, now_s: float) -> list[tuple[str, str, str]]:
        return looked(watch, wire(replace(SIGNALS, heartbeat=station_beat), replace(HEARD, heartbeat=plc_beat)), now_s)

    assert both(8, 901, 0.1) == [("station", "2", "heartbeat: moves, now at 8"), ("PLC", "32", "heartbeat: moves, now at 901")]
    assert both(9, 902, 0.2) == []
    assert both(10, 902, 0.2 + BEATS_WITHIN_S) == []
    assert both(11, 902, 0.3 + BEATS_WITHIN_S) == [("PLC", "32", "heartbeat: STANDS STILL at 902 for 1.6 s")]
    assert both(12, 902, 5.0) == []
    assert both(13, 903, 6.0) == [("PLC", "32", "heartbeat: moves, now at 903")]


def test_a_heartbeat_that_never_moved_is_told() -> None:
    watch = Watch()
    looked(watch, wire(), 0.0)
    assert ("PLC", "32", "heartbeat: STANDS STILL at 900 for 2.0 s") in looked(watch, wire(), 2.0)


def test_a_wire_that_fails_is_told_and_what_was_heard_is_called_old() -> None:
    watch = Watch()
    looked(watch, wire())
    ((says, _, words),) = looked(watch, wire(heard=None, hears=False))
    assert says == "wire"
    assert "DOES NOT WORK" in words


def test_every_number_of_the_wire_has_words() -> None:
    assert set(STATES) == set(State)
    assert set(ERRORS) == set(ErrorCode)
    assert [name.replace(" ", "_").upper() for name in REASONS[1:]] == [reason.name for reason in Reason if reason]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Path]]:
    """A control socket that gives one answer."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    control = Control(home / "data" / "control.sock")
    answers: list[dict[str, Any]] = []
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.005):
            if request := control.request():
                request.reply.set_result(answers[0] if request.words == {"command": "wire"} else {"ok": False, "error": str(request.words)})

    thread = threading.Thread(target=serve)
    thread.start()

    def answer(document: dict[str, Any]) -> Path:
        answers[:] = [document]
        return home

    yield answer
    ended.set()
    thread.join()
    control.close()


def watched(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STATION, "--home", str(home), "plc", "watch", "--seconds", "1", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_watch_prints_a_line_a_change(answering: Callable[[dict[str, Any]], Path]) -> None:
    home = answering(wire())
    ran = watched(home)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert len(lines) == 11
    assert lines[-1].endswith("PLC      36         result taken, sequence: 41")
    documents = [json.loads(line) for line in watched(home, "--json").stdout.splitlines()]
    assert documents[-1].items() >= {"says": "PLC", "where": "36", "words": "result taken, sequence: 41"}.items()


def test_watch_without_a_station_says_so(tmp_path: Path, answering: Callable[[dict[str, Any]], Path]) -> None:
    ran = watched(tmp_path)
    assert ran.returncode == 3
    assert "no running station answers" in ran.stderr
    ran = watched(answering({"ok": False, "error": "unknown command"}))
    assert ran.returncode == 3
    assert "does not tell what stands on the wire: unknown command" in ran.stderr


def test_following_ends_with_its_time() -> None:
    seen: list[Change] = []
    follow(wire, seen.append, 0.12)
    assert len(seen) == 11
    with pytest.raises(ControlError, match="no"):
        follow(lambda: {"ok": False, "error": "no"}, seen.append, 5)


# The dry handshake.

CONFIG = PlcConfig(port="unused")


class ScriptedPlc:
    """A PLC that says what a function of the exchange's number says."""

    simulated = False

    def __init__(self, says: Callable[[int], PlcInput]) -> None:
        self._says = says
        self.told: list[StationSignals] = []

    def exchange(self, signals: StationSignals) -> PlcInput:
        self.told.append(signals)
        return self._says(len(self.told))

    def close(self) -> None:
        raise AssertionError("whoever opened it closes it")


def healthy(number: int) -> PlcInput:
    return PlcInput(number, PlcCommand(0, 0, 7), 41, (Trigger(41),))


def tried(says: Callable[[int], PlcInput], config: PlcConfig = CONFIG) -> tuple[dict[str, Any], dict[str, str]]:
    """The document, and the details of the checks that failed."""
    document = plc_test.run(ScriptedPlc(says), config, 0.3)
    assert all(bool(one["fix"]) == (one["status"] == "fail") for one in document["checks"])
    assert document["ok"] == all(one["status"] == "ok" for one in document["checks"])
    return document, {one["check"]: one["detail"] for one in document["checks"] if one["status"] == "fail"}


def test_a_healthy_plc_has_nothing_to_mend() -> None:
    document, failed = tried(healthy)
    assert failed == {}
    assert document["reached"]
    assert document["exchanges"] > 5
    assert [one["check"] for one in document["checks"]] == [
        *("answers", "no telegram lost", "round trip", "heartbeat", "byte order", "commands", "acknowledgement", "triggers")
    ]


def test_the_dry_handshake_says_that_nothing_is_ready_and_nothing_passed() -> None:
    plc = ScriptedPlc(healthy)
    plc_test.run(plc, CONFIG, 0.1)
    assert {replace(told, heartbeat=0) for told in plc.told} == {StationSignals(1, 0, 0, 0, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)}
    assert [told.heartbeat for told in plc.told] == list(range(1, len(plc.told) + 1))


def raising(error: Exception) -> PlcInput:
    raise error


@pytest.mark.parametrize(
    ("check", "says", "words"),
    [
        ("heartbeat", lambda _: replace(healthy(1), heartbeat=5), "moved 0 times"),
        ("heartbeat", lambda at: replace(healthy(at), heartbeat=min(at, 3)), "moved 2 times"),
        ("byte order", lambda at: replace(healthy(at), heartbeat=at * 256 % 65536), "the heartbeat moves by 256"),
        ("byte order", lambda at: replace(healthy(at), heartbeat=at % 2 * 256), "the heartbeat moves by 256, 65280"),
        ("commands", lambda at: replace(healthy(at), command=PlcCommand(9, 0, 1)), "command code 9 is none"),
        ("commands", lambda at: replace(healthy(at), command=PlcCommand(3, 0, 0)), "sequence 0"),
        ("acknowledgement", lambda at: replace(healthy(at), acknowledged=at), "it changed to 2, 3, 4, 5, ..."),
        ("triggers", lambda at: replace(healthy(at), triggers=(Trigger(41 + (at > 3)),)), "42 was triggered"),
        ("no telegram lost", lambda at: raising(PlcError("no good answer")) if at == 4 else healthy(at), "1 of"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(check: str, says: Callable[[int], PlcInput], words: str) -> None:
    document, failed = tried(says)
    assert list(failed) == [check]
    assert words in failed[check]
    assert document["reached"]


def test_swapped_bytes_are_seen_in_a_command_too() -> None:
    _, failed = tried(lambda at: replace(healthy(at), command=PlcCommand(0x100, 0, 0x100)))
    assert list(failed) == ["byte order", "commands"]


def test_registers_that_fall_to_0_when_the_station_comes_are_no_fault() -> None:
    _, failed = tried(lambda at: replace(healthy(at), acknowledged=41 * (at < 4), triggers=(Trigger(41 * (at < 5)),)))
    assert failed == {}


def test_a_slow_plc_is_told_before_it_is_too_slow() -> None:
    ticks = iter(range(1_000_000))
    document = plc_test.run(ScriptedPlc(healthy), CONFIG, 3, clock=lambda: next(ticks) * 0.13)
    (failed,) = [one for one in document["checks"] if one["status"] == "fail"]
    assert failed["check"] == "round trip"
    assert "raise plc.timeout_ms" in failed["fix"]


def test_lines_have_no_round_trip_to_judge() -> None:
    document, failed = tried(healthy, PlcConfig(port="unused", link="ascii"))
    assert failed == {}
    assert "round trip" not in [one["check"] for one in document["checks"]]


def test_a_silent_plc_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plc_test, "_BEFORE_CONTACT_S", 0.3)
    with closing(Terminal(tmp_path / "plc")), closing(ModbusRtuPlc(str(tmp_path / "plc"), timeout_s=0.02)) as plc:
        document = plc_test.run(plc, CONFIG, 1)
    assert (document["reached"], document["ok"], document["ms"]) == (False, False, {})
    (only,) = document["checks"]
    assert "check wiring, baud rate, parity and unit id" in only["detail"]
    assert plc_test.lines(document).startswith("fail  answers ")


# Through the command.


@pytest.mark.parametrize("link", ["modbus-rtu", "ascii"])
def test_the_repositorys_home_tries_its_simulated_plc(tmp_path: Path, link: str) -> None:
    home = make_home(tmp_path / "home", plc={"link": link})
    document = station(home, "plc", "test", "--seconds", "1")
    assert (document["ok"], document["simulated"], document["link"]) == (True, True, link)


def test_a_port_that_is_not_there_is_not_reached(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", plc={"port": str(tmp_path / "none")}, simulation=None)
    document = station(home, "plc", "test", code=3)
    assert "cannot be opened" in document["checks"][0]["detail"]


def state(home: Path) -> str:
    try:
        return str(ask(home / "data" / "control.sock", {"command": "status"})["state"])
    except ControlError:
        return ""


def test_a_running_station_is_watched_and_not_tried(tmp_path: Path) -> None:
    batch = {"recipe": 1, "pictures": "bulb", "parts": 1_000_000}
    home = make_home(tmp_path / "home", simulation={"interval_ms": 10, "batches": [batch]})
    with daemon(home):
        until(lambda: state(home) == "ContinuousExecution", 60, "the line")
        said = [json.loads(line) for line in watched(home, "--json").stdout.splitlines()]
        assert {change["says"] for change in said} == {"wire", "station", "PLC"}
        assert any(change["words"].startswith("result: part ") for change in said)
        assert "another station runs in this home" in station(home, "plc", "test", code=2)
