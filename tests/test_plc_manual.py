"""What `docs/plc.md` says is so: its tables are the wire's numbers, its arithmetic adds up, and its Structured Text runs a line."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from structured_text import Program

from drivers.ascii_codec import line, result_line, status_line
from drivers.modbus_rtu import encode_signals
from drivers.plc import FAIL_WORD, NO_RESULT, PASS_WORD, Command, CommandStatus, ErrorCode, PlcResult, StationSignals
from station.inspection import Reason
from station.sequence import MOST_MISSED
from station.state import State

MANUAL = (Path(__file__).parent.parent / "docs" / "plc.md").read_text()
BLOCKS = re.findall(r"```iecst\n(.*?)```", MANUAL, re.DOTALL)
RESULT = PlcResult(1, True, 1, 3, 0.9981, 2, 700, (10, 20, 30, 40), 87, 12, 0x9F3A)
SIGNALS = StationSignals(5, 77, 0, 0, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)


def block(having: str) -> str:
    (found,) = [text for text in BLOCKS if having in text]
    return str(found)


@pytest.mark.parametrize("code", [code for code in ErrorCode if code])
def test_every_error_code_says_what_to_do(code: ErrorCode) -> None:
    assert len(re.findall(rf"^\| {code.value} \| [^|]{{9,}} \| [^|]{{9,}} \|$", MANUAL, re.MULTILINE)) >= 1


def test_how_far_a_number_may_jump_is_there() -> None:
    assert f"jump over numbers (at most {MOST_MISSED})" in MANUAL


def test_every_reason_state_and_command_is_there() -> None:
    for reason in Reason:
        assert not reason or re.search(rf"^\| {reason.value} {reason.name.lower().replace('_', ' ')} \|", MANUAL, re.MULTILINE)
    for state in State:
        assert f"{state.value} {state.words}" in MANUAL
    for command in Command:
        words = command.name.title().replace("_", "")
        assert not command or re.search(rf"^\| {command.value} \| {words}[,| ]", MANUAL, re.MULTILINE)


def test_the_baud_rates_add_up() -> None:
    telegrams = {"both": (106, 4), "fc23": (94, 2)}
    for rate in (9600, 19200, 38400, 57600, 115200):
        silence_ms = 3.5 * 11e3 / rate if rate <= 19200 else 1.75
        ways = {name: characters * 11e3 / rate + silences * silence_ms for name, (characters, silences) in telegrams.items()}
        (row,) = re.findall(rf"^\| {rate} \|.*$", MANUAL, re.MULTILINE)
        both, fc23, single, res, trg = re.findall(r"[\d.]+ ms", row)[0:3] + re.findall(r"[\d.]+ ms", row)[-2:]
        for told, ms in ((both, ways["both"]), (fc23, ways["fc23"]), (res, 560e3 / rate), (trg, 300e3 / rate)):
            assert float(told[:-3]) == pytest.approx(ms, rel=0.05)
        assert float(single[:-3]) == pytest.approx(65 * 11e3 / rate + 2 * silence_ms, rel=0.05)


class Plc:
    """The manual's function block over registers, and a station's words in them."""

    def __init__(self) -> None:
        self.registers = [0] * 46
        self.now_s = 0.0
        text = block("FUNCTION_BLOCK FB_Station")
        self.program = Program(text, self.registers, lambda: self.now_s, main="FB_Station")
        self.beat = 0

    def scan(self, station: StationSignals | None = None, *, part: bool = False, run: bool = True, recipe: int = 12) -> dict[str, object]:
        """One scan of 10 ms; a station that says something moves its heartbeat."""
        self.now_s += 0.01
        if station is not None:
            self.beat += 1
            self.registers[:24] = encode_signals(replace(station, heartbeat=self.beat))
        return self.program.scan(xRun=run, xReset=False, uiRecipe=recipe, xPart=part, auiPartId=[0x4131, 0, 0, 0, 0, 0, 0, 0])


def answered(plc: Plc, state: int, **changes: object) -> StationSignals:
    told = replace(SIGNALS, state=state, recipe_number=12, recipe_checksum=0x9F3A, command_echo=plc.registers[35])
    return replace(told, **changes)  # type: ignore[arg-type]


@pytest.fixture
def plc() -> Plc:
    """A PLC that has prepared recipe 12 and started the line, through all phases of both commands."""
    made = Plc()
    for _ in range(3):
        made.scan(SIGNALS)
    assert made.registers[33:36] == [Command.PREPARE_RECIPE, 12, 1]
    made.scan(replace(SIGNALS, command_echo=1, command_status=CommandStatus.EXECUTING))
    made.scan(answered(made, 6, command_status=CommandStatus.DONE))
    assert made.registers[33] == 0
    for _ in range(2):
        made.scan(answered(made, 6))
    made.scan(answered(made, 6))
    assert made.registers[33:36] == [Command.START_CONTINUOUS, 0, 2]
    made.scan(answered(made, 8, command_status=CommandStatus.DONE))
    seen = made.scan(answered(made, 8))
    made.scan(answered(made, 8))
    assert seen["xReady"]
    assert made.registers[33] == 0
    return made


def triggered(plc: Plc) -> None:
    assert not plc.scan(answered(plc, 8), part=True)["xDecided"]
    assert plc.registers[37:39] == [1, 0x4131]


def test_the_manuals_program_passes_a_part_that_passed_and_acknowledges_it(plc: Plc) -> None:
    triggered(plc)
    assert not plc.scan(answered(plc, 8))["xDecided"]
    seen = plc.scan(answered(plc, 8, result=RESULT))
    assert (seen["xDecided"], seen["xGood"]) == (True, True)
    assert plc.registers[36] == 1
    seen = plc.scan(answered(plc, 8, result=RESULT))
    assert (seen["xDecided"], seen["xGood"]) == (False, False)


@pytest.mark.parametrize(
    "changes",
    [{"passed": False}, {"recipe_number": 13}, {"recipe_checksum": 0x9F3B}],
    ids=str,
)
def test_the_manuals_program_rejects_everything_else(plc: Plc, changes: dict[str, object]) -> None:
    triggered(plc)
    seen = plc.scan(answered(plc, 8, result=replace(RESULT, **changes)))  # type: ignore[arg-type]
    assert (seen["xDecided"], seen["xGood"]) == (True, False)


def test_the_manuals_program_waits_for_this_parts_whole_answer(plc: Plc) -> None:
    triggered(plc)
    assert not plc.scan(answered(plc, 8, result=replace(RESULT, sequence=65535)))["xDecided"]
    plc.registers[5:19] = encode_signals(answered(plc, 8, result=RESULT))[5:19]
    seen = plc.scan()
    assert (plc.registers[23], seen["xDecided"], plc.registers[36]) == (65535, False, 65535)
    assert plc.scan(answered(plc, 8, result=RESULT))["xGood"]


def test_the_manuals_program_rejects_when_time_or_heartbeat_end(plc: Plc) -> None:
    triggered(plc)
    decided = [plc.scan(answered(plc, 8))["xDecided"] for _ in range(260)]
    assert decided.count(True) == 1
    assert 245 <= decided.index(True) <= 252
    late = plc.scan(answered(plc, 8, result=RESULT))
    assert (late["xDecided"], late["xGood"]) == (False, False)
    assert plc.registers[36] == 1
    plc.scan(answered(plc, 8), part=True)
    decided = [plc.scan()["xDecided"] for _ in range(160)]
    assert decided.count(True) == 1
    assert not plc.scan()["xAlive"]
    seen = plc.scan(part=False) and plc.scan(part=True)
    assert (seen["xDecided"], seen["xGood"], plc.registers[37]) == (True, False, 2)


def test_the_manuals_program_rejects_two_parts_at_once(plc: Plc) -> None:
    triggered(plc)
    plc.scan(answered(plc, 8))
    assert plc.scan(answered(plc, 8), part=True)["xDecided"]
    seen = plc.scan(answered(plc, 8, result=RESULT))
    assert (seen["xDecided"], seen["xGood"]) == (False, False)


def test_the_manuals_program_changes_the_recipe_and_trusts_nothing_meanwhile(plc: Plc) -> None:
    seen = plc.scan(answered(plc, 8), recipe=13)
    assert not seen["xReady"]
    assert plc.registers[33:36] == [Command.PREPARE_RECIPE, 13, 3]
    seen = plc.scan(answered(plc, 8, command_status=CommandStatus.FAILED, error_code=21), recipe=13)
    assert seen["uiError"] == 21
    assert not plc.scan(answered(plc, 8), recipe=13, part=True)["xGood"]
    for _ in range(205):
        plc.scan(answered(plc, 8), recipe=13)
    assert plc.registers[33:36] == [Command.PREPARE_RECIPE, 13, 4]
    done = answered(plc, 8, recipe_number=13, recipe_checksum=0x1111, command_status=CommandStatus.DONE)
    plc.scan(done, recipe=13)
    seen = plc.scan(replace(done, command_status=CommandStatus.IDLE), recipe=13)
    assert (seen["xReady"], seen["uiChecksum"]) == (True, 0x1111)


def test_the_manuals_lines_are_the_stations() -> None:
    registers = [0] * 46
    lines = Program(block("FUNCTION FC_Take"), registers, lambda: 0.0)
    assert lines.call("FC_Line", "TRG,42").encode() == line("TRG", 42)
    told = replace(RESULT, sequence=42)
    assert lines.call("FC_Take", result_line(told)[:-1].decode())
    expected = encode_signals(replace(SIGNALS, result=told))
    assert registers[5:11] + registers[16:19] + registers[23:24] == expected[5:11] + expected[16:19] + expected[23:24]
    assert registers[6] == PASS_WORD
    assert lines.call("FC_Take", result_line(replace(told, passed=False))[:-1].decode())
    assert registers[6] == FAIL_WORD
    assert lines.call("FC_Take", status_line(answered_status())[:-1].decode())
    assert (registers[0:5], registers[21]) == ([1, 3, 77, 12, 0x9F3A], 6)
    for body, echo in (("ACK,RCP,7", [7, 1]), ("DON,RCP,7,13,1111", [7, 2]), ("ACK,RCP,7", [7, 2]), ("ERR,RUN,8,20", [8, 3])):
        assert lines.call("FC_Take", lines.call("FC_Line", body)[:-1])
        assert registers[19:21] == echo
    assert registers[3:5] == [13, 0x1111]


def answered_status() -> StationSignals:
    return replace(SIGNALS, state=3, recipe_number=12, recipe_checksum=0x9F3A, error_code=6)


@pytest.mark.parametrize("spoilt", ["RES,00042,P*00", "RES,00042,P", "*00", "", "RES,00042,P,1,0,09981,0,12,9F3A,0087*5"])
def test_the_manuals_lines_take_nothing_that_is_not_whole(spoilt: str) -> None:
    registers = [0] * 46
    lines = Program(block("FUNCTION FC_Take"), registers, lambda: 0.0)
    assert not lines.call("FC_Take", spoilt)
    assert registers == [0] * 46


def test_the_manuals_discrete_lines_take_an_edge_in_the_window_of_a_station_that_was_ready() -> None:
    now = 0.0
    registers = [0] * 46
    program = Program(block("xInReady"), registers, lambda: now)
    names = "tonReady, tonWindow : TON; rtPass, rtPart : R_TRIG; xWindow, xBusy : BOOL;"
    declared = Program(f"PROGRAM X\nVAR\n    {names}\nEND_VAR\nEND_PROGRAM", registers, lambda: now, main="X")
    program.variables |= declared.variables

    def scans(count: int, *, ready: bool = True, passed: bool = False, part: bool = False) -> list[tuple[bool, bool]]:
        nonlocal now
        seen = []
        for _ in range(count):
            now += 0.01
            at = program.scan(xInReady=ready, xInPass=passed, xSensor=part)
            seen.append((at["xDecided"], at["xGood"]))
        return seen

    scans(20)
    assert scans(1, part=True) == [(False, False)]
    assert scans(3) == [(False, False)] * 3
    assert scans(2, passed=True) == [(True, True), (False, False)]
    assert scans(200) == [(False, False)] * 200
    scans(1, part=True)
    assert [good for decided, good in scans(200) if decided] == [False]  # no edge in the window
    scans(5, passed=True)
    assert scans(1, passed=True, part=True) == [(True, False)]  # PASS stood before the part
    scans(200)
    scans(1, part=True)
    assert scans(2, ready=False, passed=True) == [(True, False), (False, False)]
    assert scans(1, part=True) == [(True, False)]  # READY has not stood long enough


def discrete(parts_ms: list[int], edges_ms: list[int], away_ms: range = range(0), fails: Mapping[int, int] | None = None) -> list[bool]:
    """What the manual's program decides of parts at these times, with READY away for a while; `fails`: when the wire says FAIL of which."""
    now, registers = 0.0, [0] * 46
    program = Program(block("xInReady"), registers, lambda: now)
    names = "tonReady, tonWindow : TON; rtPass, rtPart : R_TRIG; xWindow, xBusy : BOOL;"
    program.variables |= Program(f"PROGRAM X\nVAR\n    {names}\nEND_VAR\nEND_PROGRAM", registers, lambda: now, main="X").variables
    decided = []
    for ms in range(-300, 4000, 10):
        now = (ms + 300) / 1000
        registers[37] += ms in parts_ms
        if number := (fails or {}).get(ms):
            registers[5] = registers[23] = number
        edge = any(at <= ms < at + 50 for at in edges_ms)
        seen = program.scan(xInReady=ms not in away_ms, xInPass=edge, xSensor=any(at <= ms < at + 20 for at in parts_ms))
        if seen["xDecided"]:
            decided.append(seen["xGood"])
    return decided


def test_the_manuals_discrete_lines_give_no_part_the_edge_of_the_one_before() -> None:
    assert not any(discrete([0, 200, 400], [250, 450]))  # the third is bad
    assert not any(discrete([0, 450], [480], range(10, 320)))  # READY was away, and the edge came in the next part's window


def test_the_manuals_discrete_lines_go_on_after_a_reject_on_the_wire() -> None:
    assert discrete([0, 500, 1000], [530, 1030], fails={100: 1}) == [False, True, True]
    assert discrete([0, 500, 1000], [530, 1030])[-1] is False
