"""The Modbus RTU link as server: what it makes of any bytes, when its block changes, and what it promises to a loop that must not wait."""

import os
import select
import shutil
import struct
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU
from structured_text import Program

from drivers.modbus_map import encode_signals
from drivers.modbus_requests import RequestServer
from drivers.modbus_server import ModbusServerPlc
from drivers.plc import NO_RESULT, Command, CommandStatus, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals, Trigger
from drivers.serial_port import Port
from drivers.simulated.line import BatchSpec, LineSpec, SimulatedLine, Terminal
from drivers.simulated.rtu_client import PATIENCE_S, POLL_S, RtuClient
from drivers.simulated.rtu_server import RtuServer, crc

MANUAL = (Path(__file__).parent.parent / "docs" / "plc.md").read_text()
TIMEOUT_S = 0.05
PATIENCE = 10.0
RESULT = PlcResult(42, True, 1, 3, 0.9981, 2, 700, (10, 20, 30, 40), 87, 12, 0x9F3A)
SIGNALS = StationSignals(8, 77, 12, 0x9F3A, RESULT, 5, CommandStatus.DONE, 21, 6)
BLOCK = encode_signals(SIGNALS)


def telegram(body: bytes) -> bytes:
    return body + crc(body).to_bytes(2, "little")


def read(first: int, count: int, *, unit: int = 1, function: int = 3) -> bytes:
    return telegram(struct.pack(">BBHH", unit, function, first, count))


def write(first: int, *words: int, unit: int = 1) -> bytes:
    return telegram(struct.pack(f">BBHHB{len(words)}H", unit, 16, first, len(words), 2 * len(words), *words))


def write_one(at: int, word: int, *, unit: int = 1) -> bytes:
    return telegram(struct.pack(">BBHH", unit, 6, at, word))


def write_and_read(first: int, count: int, at: int, *words: int) -> bytes:
    return telegram(struct.pack(f">BBHHHHB{len(words)}H", 1, 23, first, count, at, len(words), 2 * len(words), *words))


def words_told(*words: int, unit: int = 1, function: int = 3) -> bytes:
    return telegram(struct.pack(f">BBB{len(words)}H", unit, function, 2 * len(words), *words))


def refused(function: int, code: int) -> bytes:
    return telegram(bytes([1, function | 0x80, code]))


def a_server(unit: int = 1, base: int = 0) -> RequestServer:
    server = RequestServer(unit, base)
    server.publish(BLOCK)
    return server


def ask(server: RequestServer, data: bytes) -> bytes:
    server.receive(data)
    return server.answer()


def met(server: RequestServer) -> RequestServer:
    """The server after its first contact."""
    ask(server, write(32, *[0] * 14))
    ask(server, read(0, 1))
    assert server.said() == PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),))
    return server


# What is asked.


@pytest.mark.parametrize("function", [3, 4])
def test_both_blocks_are_read(function: int) -> None:
    server = a_server()
    assert ask(server, read(0, 24, function=function)) == words_told(*BLOCK, function=function)
    assert ask(server, read(5, 2, function=function)) == words_told(42, 0x5AA5, function=function)
    assert ask(server, read(0, 46, function=function)) == words_told(*BLOCK, *[0] * 22, function=function)


def test_the_command_block_is_written_in_every_way() -> None:
    server = a_server()
    assert ask(server, write_one(37, 7)) == write_one(37, 7)
    assert ask(server, write(32, *range(100, 114))) == telegram(struct.pack(">BBHH", 1, 16, 32, 14))
    assert ask(server, read(32, 14)) == words_told(*range(100, 114))
    assert ask(server, write_and_read(31, 3, 32, 1, 2)) == words_told(0, 1, 2, function=23)
    assert ask(server, read(32, 3)) == words_told(1, 2, 102)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (telegram(b"\x01\x01\x00\x00\x00\x01"), 1),
        (telegram(b"\x01\x05\x00\x20\xff\x00"), 1),
        (telegram(b"\x01\x08\x00\x00\x12\x34"), 1),
        (telegram(b"\x01\x0f\x00\x20\x00\x08\x01\xff"), 1),
        (telegram(b"\x01\x11"), 1),
        (telegram(b"\x01\x16\x00\x20\x00\xf2\x00\x25"), 1),
        (telegram(b"\x01\x2b\x0e\x01\x00"), 1),
        (read(45, 2), 2),
        (read(46, 1), 2),
        (read(65535, 2), 2),
        (write_one(0, 1), 2),
        (write_one(31, 1), 2),
        (write_one(46, 1), 2),
        (write(6, 0x5AA5), 2),
        (write(31, 1, 2), 2),
        (write(45, 1, 2), 2),
        (write_and_read(0, 24, 23, 1, 2), 2),
        (write_and_read(45, 2, 32, 1), 2),
        (read(0, 0), 3),
        (read(0, 126), 3),
        (write_and_read(0, 0, 32, 1), 3),
        (write_and_read(0, 126, 32, 1), 3),
        (telegram(b"\x01\x10\x00\x20\x00\x00\x00"), 3),
        (telegram(b"\x01\x10\x00\x20\x00\x02\x02\x00\x01"), 3),
        (telegram(b"\x01\x10\x00\x20\x00\x01\x03\x00\x01\x02"), 3),
        (telegram(b"\x01\x17\x00\x00\x00\x01\x00\x20\x00\x02\x02\x00\x09"), 3),
        (telegram(b"\x01\x17\x00\x00\x00\x01\x00\x20\x00\x00\x00"), 3),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(request_: bytes, code: int) -> None:
    server = a_server()
    assert ask(server, request_) == refused(request_[1], code)
    assert ask(server, read(0, 46)) == words_told(*BLOCK, *[0] * 22)


def test_unit_and_base_address_are_the_stations() -> None:
    server = a_server(unit=9, base=1000)
    assert ask(server, read(1005, 1, unit=9)) == words_told(42, unit=9)
    assert ask(server, read(5, 1, unit=9)) == telegram(b"\x09\x83\x02")
    assert ask(server, write_one(1037, 3, unit=9)) == write_one(1037, 3, unit=9)
    assert ask(server, read(1005, 1)) == b""


def test_a_broadcast_is_done_and_not_answered() -> None:
    server = a_server()
    assert ask(server, write_one(37, 7, unit=0)) == b""
    assert ask(server, read(0, 1, unit=0)) == b""
    assert ask(server, write_one(0, 7, unit=0)) == b""
    assert not server.polled()
    assert ask(server, read(37, 1)) == words_told(7)


# What comes over a line.


def test_a_request_in_pieces_is_answered_once_it_is_whole() -> None:
    server = a_server()
    asked = write(32, *range(14))
    answers = [ask(server, asked[at : at + 1]) for at in range(len(asked))]
    assert answers == [b""] * (len(asked) - 1) + [telegram(struct.pack(">BBHH", 1, 16, 32, 14))]


@pytest.mark.parametrize(
    "before",
    [b"\x00", b"\xff\xff", write(32, *range(14))[:20], read(0, 24)[:-1] + b"\x00", b"\x01\x10\x00\x20\x00\x0e\xff", bytes(300)],
    ids=["glitch", "two", "cut", "wrong checksum", "a length that never comes", "long"],
)
def test_a_request_after_what_makes_no_sense_is_answered_at_once(before: bytes) -> None:
    server = a_server()
    assert ask(server, before) == b""
    assert ask(server, read(5, 1)) == words_told(42)
    assert ask(server, before + read(6, 1)) == words_told(0x5AA5)


def test_a_glitch_behind_a_request_does_not_hide_it_but_another_telegram_does() -> None:
    server = a_server()
    assert ask(server, read(5, 1) + b"\x00\xff\x00") == words_told(42)
    assert ask(server, read(5, 1) + read(5, 1)[:4]) == b""
    assert ask(server, read(5, 1)[4:]) == words_told(42)
    assert ask(server, b"") == b""


def test_what_others_say_on_the_line_is_stepped_over() -> None:
    server = a_server()
    others = [
        read(0, 60, unit=2) + words_told(*[0x0103] * 60, unit=2),
        write(32, *range(14), unit=3) + telegram(struct.pack(">BBHH", 3, 16, 32, 14)),
        telegram(b"\x02\x01\x00\x00\x00\x10") + telegram(b"\x02\x01\x02\xab\xcd"),
        telegram(b"\x02\x83\x02"),
        write(0, *struct.unpack(">4H", write_one(37, 9)), unit=3),
        words_told(*struct.unpack(">4H", write_one(37, 9)), unit=2),
    ]
    for other in others:
        assert ask(server, other) == b""
        assert ask(server, other + read(5, 1)) == words_told(42)
        assert ask(server, read(5, 1) + other) == b""
    assert ask(server, read(32, 14)) == words_told(*[0] * 14)


@pytest.mark.parametrize(("noise", "most"), [(bytes([1, 0x41]) * 128, 0), (bytes([2, 3]) * 128, 2)], ids=["no function", "other units"])
def test_noise_is_seen_through_without_adding_it_up_at_every_byte(noise: bytes, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server, added_up = a_server(), 0
    check = FramerRTU.check_CRC

    def counting(data: bytes, told: int) -> bool:
        nonlocal added_up
        added_up += 1
        return check(data, told)

    monkeypatch.setattr(FramerRTU, "check_CRC", counting)
    server.receive(noise)
    assert added_up <= most


@pytest.mark.parametrize("function", range(256))
def test_no_function_is_too_strange(function: int) -> None:
    for length in range(40):
        server = a_server()
        ask(server, bytes([1, function, 14, *range(length)]))
        ask(server, telegram(bytes([1, function, *range(length)])))
        assert ask(server, read(0, 24)) == words_told(*BLOCK)


def test_an_echo_of_an_answer_is_no_request() -> None:
    server = a_server()
    for asked in (read(0, 24), write(32, *range(14)), write_and_read(0, 24, 32, 1), read(60, 1)):
        assert ask(server, ask(server, asked)) == b""


def test_of_several_requests_each_is_done_and_the_last_is_answered() -> None:
    server = met(a_server())
    assert ask(server, write_one(37, 1) + write_one(36, 9) + write_one(37, 2) + read(36, 2)) == words_told(9, 2)
    assert server.answer() == b""
    said = server.said()
    assert said
    assert said.triggers == (Trigger(1), Trigger(2))
    assert said.acknowledged == 9


TELEGRAMS = st.one_of(
    st.builds(read, st.integers(0, 60), st.integers(0, 130)),
    st.builds(write_one, st.integers(28, 50), st.integers(0, 65535)),
    st.builds(lambda at, words: write(at, *words), st.integers(28, 48), st.lists(st.integers(0, 65535), max_size=20)),
    st.builds(
        lambda first, count, at, words: write_and_read(first, count, at, *words),
        st.integers(0, 50),
        st.integers(0, 130),
        st.integers(28, 48),
        st.lists(st.integers(0, 65535), max_size=20),
    ),
)


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(TELEGRAMS, max_size=12))
def test_another_server_written_from_the_specification_answers_the_same(asked: list[bytes]) -> None:
    server, other = a_server(), RtuServer([*BLOCK, *[0] * 22], writable=range(32, 46))
    for at, telegram_ in enumerate(asked):
        assert ask(server, telegram_) == other.receive(telegram_, float(at + 1))


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(st.binary(max_size=400) | TELEGRAMS | TELEGRAMS.map(lambda whole: whole[:-3]), max_size=12))
def test_no_bytes_at_all_move_the_stations_block_or_hide_the_next_request(pieces: list[bytes]) -> None:
    server = a_server()
    for piece in pieces:
        ask(server, piece)
    assert ask(server, read(0, 24)) == words_told(*BLOCK)


@pytest.mark.parametrize("piece", [bytes(1000), b"\x01\x10" * 500, b"\x01\x41" * 500, b"\x01\x17\x00\x00\x00\x01\x00\x20\x00\x79\xf2" * 90])
def test_a_long_babble_leaves_nothing_behind(piece: bytes) -> None:
    server = a_server()
    ask(server, piece)
    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            ask(server, piece)
        assert tracemalloc.get_traced_memory()[0] - began < 4096
    finally:
        tracemalloc.stop()
    assert ask(server, read(5, 1)) == words_told(42)


# What the station learns.


def test_nothing_is_said_before_the_plc_has_written_all_and_read() -> None:
    server = a_server()
    ask(server, read(0, 24))
    assert server.said() is None
    for register in range(32, 37):
        ask(server, write_one(register, 3))
        assert server.said() is None
    ask(server, write_one(37, 41))
    ask(server, write_one(37, 42))
    assert server.said() == PlcInput(3, PlcCommand(3, 3, 3), 3, (Trigger(42),))
    other = a_server()
    ask(other, write(32, *[0] * 14))
    assert other.said() is None
    ask(other, read(32, 14))
    assert other.said() is None
    ask(other, read(0, 1))
    assert other.said() is not None


def test_after_a_silence_everything_must_be_said_anew() -> None:
    server = met(a_server())
    ask(server, write(32, 1, 3, 0, 7, 41, 42, 0x4131))
    begun = write(32, *range(14))
    server.receive(read(0, 1) + begun[:3])
    server.forget()
    assert ask(server, begun[3:]) == b""
    server.receive(read(0, 1))
    server.forget()
    assert server.answer() == b""
    assert ask(server, read(32, 14)) == words_told(*[0] * 14)
    ask(server, write(33, 3, 0, 7, 41, 42))
    ask(server, read(0, 24))
    assert server.said() is None
    ask(server, write_one(32, 1))
    assert server.said() == PlcInput(1, PlcCommand(3, 0, 7), 41, (Trigger(42),))
    server.forget()
    ask(server, write(32, *range(14)))
    assert server.said() is None
    ask(server, read(0, 1))
    assert server.said() is not None


def test_what_was_asked_before_a_silence_is_no_sign_of_life_after_it() -> None:
    server = met(a_server())
    ask(server, read(0, 24))
    server.forget()
    assert (server.asked(), server.polled()) == (False, False)


def test_each_trigger_is_seen_once_in_order_and_the_last_one_stands() -> None:
    server = met(a_server())
    for sequence in (1, 2, 3):
        ask(server, write(37, sequence, 0x4130 + sequence))
    ask(server, write(37, 3, 0x4133))
    said = server.said()
    assert said
    assert said.triggers == (Trigger(1, "A1"), Trigger(2, "A2"), Trigger(3, "A3"))
    for _ in range(2):
        said = server.said()
        assert said
        assert said.triggers == (Trigger(3, "A3"),)
    ask(server, write_one(37, 0))
    ask(server, write_one(37, 1))
    said = server.said()
    assert said
    assert [trigger.sequence for trigger in said.triggers] == [0, 1]


def test_a_number_left_standing_acknowledges_no_result_that_was_not_read() -> None:
    server = met(a_server())
    server.publish(encode_signals(replace(SIGNALS, result=NO_RESULT)))
    ask(server, write_one(36, 42))
    server.publish(BLOCK)

    def acknowledged() -> int:
        said = server.said()
        assert said
        return said.acknowledged

    assert acknowledged() == 0
    for not_enough in (read(7, 10), read(5, 1), read(6, 1) + read(7, 1)):  # of several only the last is answered
        ask(server, not_enough)
        ask(server, write_one(36, 42))
        assert acknowledged() == 0
    ask(server, write_and_read(5, 2, 36, 42))
    assert acknowledged() == 0
    ask(server, write_one(36, 41))
    assert acknowledged() == 41
    ask(server, write_and_read(0, 24, 36, 42))
    assert acknowledged() == 42
    server.publish(encode_signals(replace(SIGNALS, heartbeat=78)))
    assert acknowledged() == 42
    server.publish(encode_signals(replace(SIGNALS, result=replace(RESULT, passed=False))))
    assert acknowledged() == 0


@pytest.mark.parametrize("read_of_it", [read(5, 1), read(6, 1), read(7, 17)])
def test_a_result_is_not_acknowledged_before_its_number_and_verdict_were_read(read_of_it: bytes) -> None:
    server = met(a_server())
    ask(server, read_of_it)
    ask(server, write_one(36, 42))
    said = server.said()
    assert said
    assert said.acknowledged == 0


def test_a_number_written_before_the_result_was_read_must_be_written_again() -> None:
    server = met(a_server())
    ask(server, write_one(36, 42))
    ask(server, read(0, 24))
    ask(server, write_one(32, 9))
    said = server.said()
    assert said
    assert (said.heartbeat, said.acknowledged) == (9, 0)


@pytest.mark.parametrize(
    "changes",
    [{"sequence": 43}, {"passed": False}, {"reason": 2}, {"elapsed_ms": 88}, {"recipe_number": 13}, {"recipe_checksum": 1}],
    ids=str,
)
def test_another_result_is_acknowledged_anew_whatever_differs(changes: dict[str, object]) -> None:
    server = met(a_server())
    ask(server, read(0, 24))
    ask(server, write_one(36, 42))
    server.publish(encode_signals(replace(SIGNALS, result=replace(RESULT, **{"sequence": 42, **changes}))))  # type: ignore[arg-type]
    said = server.said()
    assert said
    assert said.acknowledged == (42 if "sequence" in changes else 0)
    ask(server, write_one(36, 43 if "sequence" in changes else 42))
    said = server.said()
    assert said
    assert said.acknowledged == 0


def test_a_block_read_in_pieces_around_a_new_result_shows_two_sequences() -> None:
    for first, second in ((slice(0, 12), slice(12, 24)), (slice(12, 24), slice(0, 12))):
        server = a_server()
        seen = [0] * 24
        for piece, sequence in ((first, 42), (second, 43)):
            server.publish(encode_signals(replace(SIGNALS, result=replace(RESULT, sequence=sequence))))
            answer = ask(server, read(piece.start, 12))
            seen[piece] = struct.unpack(">12H", answer[3:-2])
        assert seen[5] != seen[23]


# The port.


class Line:
    """The far end of a serial line in the test's hands."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self.terminal = Terminal(port)

    def say(self, data: bytes) -> None:
        os.write(self.terminal.fileno(), data)

    def arrived(self, plc: ModbusServerPlc) -> None:
        """Waits until what was said stands in the station's port."""
        assert plc._port.wait(PATIENCE)

    def heard(self, wait_s: float = 0.0) -> bytes:
        select.select([self.terminal], [], [], wait_s)
        return self.terminal.read()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "plc")
    yield made
    made.terminal.close()


class Clock:
    """A clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plc(line: Line, clock: Clock) -> Iterator[ModbusServerPlc]:
    link = ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S, turn_s=0.002, clock=clock)
    with pytest.raises(PlcError, match="has not yet read its registers"):
        link.exchange(SIGNALS)
    yield link
    link.close()


def exchange(plc: ModbusServerPlc, signals: StationSignals = SIGNALS) -> PlcInput | str:
    """What the PLC said, or why it was not heard."""
    try:
        return plc.exchange(signals)
    except PlcError as error:
        return str(error)


def asked(line: Line, plc: ModbusServerPlc, request: bytes, signals: StationSignals = SIGNALS) -> tuple[bytes, PlcInput | str]:
    """The answer to a request, and what the exchange brought that gave it."""
    line.say(request)
    until_s = time.monotonic() + PATIENCE
    while True:
        outcome = exchange(plc, signals)
        if heard := line.heard(0.05):
            return heard, outcome
        assert time.monotonic() < until_s


def poll(line: Line, plc: ModbusServerPlc, signals: StationSignals = SIGNALS) -> PlcInput:
    """A write and a read of all, each in an exchange."""
    assert asked(line, plc, write(32, *[0] * 14))[0] == telegram(struct.pack(">BBHH", 1, 16, 32, 14))
    heard, said = asked(line, plc, read(0, 24), signals)
    assert heard == words_told(*encode_signals(signals))
    assert isinstance(said, PlcInput)
    return said


def test_the_signals_of_an_exchange_are_what_the_plc_reads_until_the_next(line: Line, plc: ModbusServerPlc) -> None:
    poll(line, plc)
    later = replace(SIGNALS, heartbeat=78)
    assert asked(line, plc, read(0, 24), later)[0] == words_told(*encode_signals(later))


def test_an_exchange_answers_one_request_and_does_not_wait_for_another(line: Line, clock: Clock) -> None:
    turn_s, began_s = 20.0, time.monotonic()
    plc = ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S, turn_s=turn_s, clock=clock)
    opener = threading.Thread(target=exchange, args=(plc,))
    opener.start()
    while opener.is_alive():  # what comes before the port is open is dropped
        line.say(read(0, 1))
        opener.join(0.02)
    while line.heard(0.1):
        pass
    assert asked(line, plc, write(32, *[0] * 14))[0]
    assert asked(line, plc, write_one(37, 5)) == (write_one(37, 5), PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(5),), told=False))
    assert time.monotonic() - began_s < turn_s
    plc.close()


def test_an_exchange_ends_with_its_turn_when_nothing_comes(line: Line, plc: ModbusServerPlc) -> None:
    poll(line, plc)
    began_s = time.monotonic()
    for _ in range(10):
        assert exchange(plc) == PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),), told=False)
    assert time.monotonic() - began_s < 2


def test_a_silence_of_three_and_a_half_characters_is_kept_before_an_answer(line: Line, clock: Clock) -> None:
    plc = ModbusServerPlc(str(line.port), baudrate=1200, timeout_s=TIMEOUT_S, clock=clock)
    exchange(plc)
    began_s = time.monotonic()
    assert asked(line, plc, read(0, 1))[0] == words_told(1)
    assert time.monotonic() - began_s >= 3.5 * 11 / 1200
    plc.close()


def test_who_goes_on_speaking_in_that_silence_is_not_answered(line: Line, clock: Clock) -> None:
    plc = ModbusServerPlc(str(line.port), baudrate=50, timeout_s=TIMEOUT_S, clock=clock)
    exchange(plc)
    line.say(read(0, 1))
    more = threading.Timer(0.1, line.say, [read(0, 1, unit=2)])  # the silence takes 0.77 s
    more.start()
    exchange(plc)
    more.join()
    for _ in range(3):
        exchange(plc)
    assert line.heard(0.05) == b""
    plc.close()


def test_a_plc_that_does_not_poll_is_an_error_until_it_polls_again(line: Line, plc: ModbusServerPlc, clock: Clock) -> None:
    poll(line, plc)
    clock.now_s += 2 * TIMEOUT_S - 0.001
    assert isinstance(exchange(plc), PlcInput)
    clock.now_s += 0.002
    why = str(exchange(plc))
    assert why.startswith(f"{line.port}: the PLC has not polled unit 1 for 100 ms; check wiring")
    assert why.endswith("that its program reads 0..23 and writes 32..45 in every cycle")
    assert "the PLC asks unit 1, but has not read 0..23 for 100 ms" in str(asked(line, plc, write_one(32, 7))[1])
    assert "has not yet read its registers and written all of 32..37" in str(asked(line, plc, read(0, 1))[1])


def test_what_was_written_long_before_the_plc_polls_again_counts_no_more(line: Line, plc: ModbusServerPlc, clock: Clock) -> None:
    poll(line, plc)
    clock.now_s += 1
    assert "has not polled" in str(exchange(plc))
    assert "asks unit 1, but has not read" in str(asked(line, plc, write(32, *range(14)))[1])
    clock.now_s += 2 * TIMEOUT_S + 0.001
    assert "has not polled" in str(exchange(plc))
    assert "has not yet read its registers and written" in str(asked(line, plc, read(0, 1))[1])
    clock.now_s += 1
    assert "has not polled" in str(exchange(plc))
    assert poll(line, plc) == PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),))


def test_a_plc_that_waited_while_the_station_was_busy_was_not_silent(line: Line, plc: ModbusServerPlc, clock: Clock) -> None:
    poll(line, plc)
    for _ in range(3):
        line.say(write(32, *[9] * 14))
        line.arrived(plc)
        clock.now_s += 1  # a frame and an inspection
        assert exchange(plc) == PlcInput(9, PlcCommand(9, 9, 9), 9, (Trigger(9),), told=False)
        assert line.heard(PATIENCE)
        assert isinstance(asked(line, plc, read(0, 24))[1], PlcInput)
    clock.now_s += 1
    assert "has not polled" in str(exchange(plc))


def test_before_the_port_was_open_nobody_waited(line: Line, clock: Clock) -> None:
    plc = ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S, turn_s=0.1, clock=clock)
    clock.now_s += 10
    opener = threading.Thread(target=exchange, args=(plc,))
    opener.start()
    while opener.is_alive():
        line.say(write_one(32, 7))
        opener.join(0.01)
    while line.heard(0.1):
        exchange(plc)
    clock.now_s += 2 * TIMEOUT_S + 0.001
    assert "has not polled unit 1" in str(exchange(plc))
    plc.close()


def test_a_plc_that_writes_and_never_reads_is_told_from_one_that_is_away(line: Line) -> None:
    plc = ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S)
    until_s = time.monotonic() + PATIENCE
    while "the PLC asks unit 1, but has not read 0..23" not in str(exchange(plc)):
        line.say(write_one(32, 7))
        assert time.monotonic() < until_s
    plc.close()


def test_a_cable_that_was_pulled_leaves_nothing_said(line: Line, plc: ModbusServerPlc, clock: Clock) -> None:
    poll(line, plc)
    line.terminal.close()
    assert "was lost" in str(exchange(plc))
    line.terminal = Terminal(line.port)
    clock.now_s += 10
    assert "has not yet read" in str(exchange(plc))
    assert "has not yet read" in str(asked(line, plc, read(0, 1))[1])
    poll(line, plc)


def test_an_answer_that_the_port_does_not_take_is_dropped(line: Line, plc: ModbusServerPlc, monkeypatch: pytest.MonkeyPatch) -> None:
    poll(line, plc)
    dropped: list[int] = []
    with monkeypatch.context() as full:
        full.setattr(Port, "write", lambda _, data: len(data) // 2)
        full.setattr(Port, "drop_unsent", lambda _: dropped.append(1))
        line.say(read(0, 24))
        until(lambda _: exchange(plc) and bool(dropped))
    assert dropped == [1]
    assert asked(line, plc, read(0, 1))[0] == words_told(1)


def test_a_port_that_was_lost_is_closed_without_waiting_for_what_has_not_left(
    line: Line, plc: ModbusServerPlc, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll(line, plc)
    done: list[str] = []
    monkeypatch.setattr(Port, "drop_unsent", lambda _: done.append("drop"))
    monkeypatch.setattr(Port, "close", lambda _: done.append("close"))
    line.terminal.close()
    assert "was lost" in str(exchange(plc))
    assert done == ["drop", "close"]
    monkeypatch.undo()
    line.terminal = Terminal(line.port)


def test_no_more_is_taken_from_a_port_than_was_asked_for(line: Line) -> None:
    port = Port(str(line.port), 19_200, "E")
    assert port.open()
    assert not port.open()
    line.say(bytes(600))
    assert port.wait(PATIENCE)
    until(lambda _: port._opened().in_waiting == 600)
    assert [len(port.read(256)) for _ in range(4)] == [256, 256, 88, 0]
    port.close()


def test_signals_that_cannot_be_told_leave_the_block_as_it_was(line: Line, plc: ModbusServerPlc) -> None:
    poll(line, plc)
    with pytest.raises(ValueError, match="state -1 does not fit the wire"):
        plc.exchange(replace(SIGNALS, state=-1))
    poll(line, plc)


def test_a_plc_is_told_when_it_has_read_the_result_and_not_before(line: Line, plc: ModbusServerPlc) -> None:
    poll(line, plc)
    later = replace(SIGNALS, result=replace(RESULT, sequence=43))

    def told(request: bytes) -> bool:
        said = asked(line, plc, request, later)[1]
        assert isinstance(said, PlcInput)
        return said.told

    assert [told(read(0, 3)), told(write_one(36, 42)), told(read(0, 24)), told(write_one(36, 43))] == [False, False, True, False]


def test_closing_waits_for_one_read_and_says_goodbye(line: Line, clock: Clock) -> None:
    plc = ModbusServerPlc(str(line.port), timeout_s=PATIENCE, clock=clock)
    exchange(plc)
    poll(line, plc)
    poll(line, plc, replace(SIGNALS, heartbeat=78))
    closing_ = threading.Thread(target=plc.close)
    closing_.start()
    began_s = time.monotonic()
    heard = b""
    line.say(write_one(32, 1))
    while closing_.is_alive():
        line.say(read(0, 24))
        heard += line.heard(0.2)
    closing_.join()
    assert time.monotonic() - began_s < PATIENCE  # half of what it would wait for a PLC that is away
    assert words_told(1, 1, 78, *[0] * 16, 5, 2, 21, 6, 0) in heard + line.heard(0.2)


def test_closing_does_not_wait_long_for_a_plc_that_is_away(line: Line, clock: Clock) -> None:
    plc = ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S, clock=clock)
    exchange(plc)
    poll(line, plc)
    began_s = time.monotonic()
    plc.close()
    assert 2 * TIMEOUT_S <= time.monotonic() - began_s < 5
    plc.close()


# Programs that others wrote; the contract's suite has more.


def test_mbpoll_reads_and_writes_the_station(line: Line, tmp_path: Path) -> None:
    program = shutil.which("mbpoll")
    if program is None:
        pytest.skip("there is no mbpoll (Debian: apt install mbpoll)")
    client = Terminal(tmp_path / "client")

    def mbpoll(*words: str) -> str:
        options = ["-m", "rtu", "-a", "1", "-b", "19200", "-P", "none", "-t", "4", "-0", "-1", "-q", "-o", "2"]
        running = subprocess.Popen(
            [program, *options, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        until_s = time.monotonic() + PATIENCE
        while running.poll() is None:
            assert time.monotonic() < until_s
            line.terminal.write(client.read())
            with_contact(SIGNALS)
            client.write(line.terminal.read())
        return running.communicate()[0]

    with closing(client), closing(ModbusServerPlc(str(line.port), timeout_s=TIMEOUT_S, clock=Clock())) as plc:

        def with_contact(signals: StationSignals) -> None:
            nonlocal said
            try:
                said = plc.exchange(signals)
            except PlcError:
                said = None

        said: PlcInput | None = None
        with_contact(SIGNALS)
        told = mbpoll("-r", "0", "-c", "24", str(tmp_path / "client"))
        assert [int(row.split(":")[1].split()[0]) & 0xFFFF for row in told.splitlines() if row.startswith("[")] == BLOCK
        assert "Written 6 references" in mbpoll("-r", "32", str(tmp_path / "client"), "--", "900", "1", "12", "5", "41", "42")
        assert said == PlcInput(900, PlcCommand(1, 12, 5), 41, (Trigger(42),), told=False)
        assert "Illegal data address" in mbpoll("-r", "6", str(tmp_path / "client"), "--", "23205", "1")


# The manual's program that polls.


class ClientBlock:
    """A PLC's Modbus client block, to the station: a rising edge of `xExecute` is one job, done in the call after it."""

    def __init__(self, job: Callable[[int, int, int], bool]) -> None:
        self.xDone = self.xError = False
        self._job, self._before = job, False

    def __call__(self, *, xExecute: bool, uiFunction: int = 0, uiAddress: int = 0, uiCount: int = 0, **_: int) -> None:  # noqa: N803
        self.xDone = self.xError = False
        if xExecute and self._before:
            self.xDone = self._job(uiFunction, uiAddress, uiCount)
            self.xError = not self.xDone
        self._before = xExecute


def test_the_manual_s_program_that_polls_writes_and_reads_whole_blocks_and_keeps_out_what_failed() -> None:
    (text,) = [part for part in MANUAL.split("```iecst\n")[1:] if "CASE iPoll OF" in part]
    server, spoil = a_server(), "nothing"
    mine, came = [0] * 32 + [*range(900, 906), *[0x4131] * 8], [0] * 24

    def job(function: int, address: int, count: int) -> bool:
        asked_ = read(address, count, function=function) if function == 3 else write(address, *mine[address : address + count])
        answer = ask(server, asked_)
        if spoil == "answer" or answer[1] != function:
            return False
        if function == 3:
            came[:] = struct.unpack(f">{count}H", answer[3:-2])
            came[23] += spoil == "block"
        return True

    program = Program(text.partition("```")[0], mine, lambda: 0.0)
    program.variables |= {"iPoll": 0, "fbWrite": ClientBlock(job), "fbRead": ClientBlock(job), "awIn": came, "ADR": lambda place: place}

    def cycle() -> PlcInput | None:
        for _ in range(6):
            program.scan()
        return server.said()

    assert cycle() == PlcInput(900, PlcCommand(901, 902, 903), 904, (Trigger(905, "A1" * 8),))
    assert mine[:24] == BLOCK
    for spoil in ("block", "answer", "nothing"):
        server.publish(encode_signals(replace(SIGNALS, result=replace(RESULT, sequence=43))))
        cycle()
        assert mine[5] == (43 if spoil == "nothing" else 42)


# The simulated PLC that polls.


def test_the_simulated_plc_writes_and_reads_in_turn() -> None:
    registers = [*range(100, 146)]
    plc = RtuClient(registers)
    assert plc.receive(b"", 1.0) == write(32, *range(132, 146))
    assert plc.receive(telegram(struct.pack(">BBHH", 1, 16, 32, 14))[:5], 1.0) == b""
    assert plc.receive(telegram(struct.pack(">BBHH", 1, 16, 32, 14))[5:], 1.01) == read(0, 24)
    assert plc.receive(words_told(*BLOCK), 1.02) == b""
    assert registers == [*BLOCK, *range(124, 146)]
    assert plc.speak(1.02 + POLL_S / 2) == b""
    assert plc.speak(1.03 + POLL_S) == write(32, *range(132, 146))
    assert plc.lost == 0


@pytest.mark.parametrize(
    "answer",
    [
        refused(16, 2),
        telegram(struct.pack(">BBHH", 1, 16, 32, 13)),
        telegram(struct.pack(">BBHH", 2, 16, 32, 14)),
        telegram(struct.pack(">BBHH", 1, 16, 32, 14))[:-1] + b"\x00",
        b"",
    ],
)
def test_the_simulated_plc_gives_up_what_was_not_answered_as_it_must_be(answer: bytes) -> None:
    plc = RtuClient([0] * 46)
    asked = plc.receive(b"", 1.0)
    assert plc.receive(answer, 1.1) == b""
    assert plc.receive(b"", 1.0 + PATIENCE_S - 0.01) == b""
    assert plc.receive(b"", 1.0 + PATIENCE_S + 0.01) == asked
    assert plc.lost == 1


def test_a_simulated_line_can_be_one_that_polls(tmp_path: Path) -> None:
    batches = (BatchSpec(1, "bulb", 1),)
    spec = LineSpec(tmp_path / "plc", tmp_path, "SIM-MQ042", batches, deadline_ms=1000, part_timeout_s=2.0, link="modbus-rtu-server")
    idle = StationSignals(6, 0, 0, 0, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)
    with closing(SimulatedLine(spec)) as simulated, closing(ModbusServerPlc(str(simulated.port))) as plc:

        def commanded(count: int) -> bool:
            try:
                return plc.exchange(replace(idle, heartbeat=count)).command.code == Command.PREPARE_RECIPE
            except PlcError:
                return False

        until(commanded)


def until(reached: Callable[[int], bool]) -> None:
    until_s = time.monotonic() + 2 * PATIENCE
    count = 0
    while not reached(count):
        count += 1
        assert time.monotonic() < until_s
