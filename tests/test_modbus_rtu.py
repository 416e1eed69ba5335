"""The Modbus RTU link as client: its registers against the wire's page, its telegrams, its behaviour on a bad line."""

import os
import random
import select
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st
from serial.rs485 import RS485Settings

from drivers.ascii_line import AsciiLinePlc
from drivers.modbus_map import decode_command_block, encode_signals
from drivers.modbus_rtu import ModbusRtuPlc
from drivers.modbus_server import ModbusServerPlc
from drivers.plc import NO_RESULT, CommandStatus, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals, Trigger, crc16_modbus
from drivers.serial_port import open_port, rtu_silence_s
from drivers.simulated.rtu_server import RtuServer
from drivers.wire_words import clipped, exact

TIMEOUT_S = 0.1
PATIENT_S = 5.0
SLACK_S = 1.0
"""What a loaded machine may add to a bounded wait."""

RESULT = PlcResult(
    sequence=42,
    passed=True,
    reason=1,
    class_index=3,
    probability=0.9981,
    defects=2,
    defect_area_px=700,
    largest_defect_px=(10, 20, 30, 40),
    elapsed_ms=87,
    recipe_number=12,
    recipe_checksum=0x9F3A,
)
SIGNALS = StationSignals(
    state=8,
    heartbeat=77,
    recipe_number=12,
    recipe_checksum=0x9F3A,
    result=RESULT,
    command_echo=5,
    command_status=CommandStatus.DONE,
    error_code=21,
    failed_parts=6,
)
BLOCK = {
    0: 1,  # wire version
    1: 8,  # state
    2: 77,  # heartbeat
    3: 12,  # recipe number
    4: 0x9F3A,  # recipe checksum
    5: 42,  # result sequence
    6: 0x5AA5,  # verdict code word
    7: 1,  # reason
    8: 3,  # class index
    9: 9981,  # probability x 10000
    10: 2,  # number of defects
    11: 700,  # area of all defects
    12: 10,
    13: 20,
    14: 30,
    15: 40,  # largest defect x, y, width, height
    16: 87,  # trigger-to-answer time, ms
    17: 12,  # recipe number used for this result
    18: 0x9F3A,  # recipe checksum used for this result
    19: 5,  # command echo
    20: 2,  # command status
    21: 21,  # error code
    22: 6,  # parts not answered PASS since StartContinuous
    23: 42,  # result sequence again
}
COMMAND_BLOCK = [900, 1, 12, 5, 41, 42, 0x4131, 0x3233, 0x3400, 0, 0, 0, 0, 0]
SAID = PlcInput(900, PlcCommand(1, 12, 5), 41, (Trigger(42, "A1234"),))


# The registers.


def test_the_station_block_is_the_table_of_the_wire() -> None:
    assert encode_signals(SIGNALS) == [BLOCK[register] for register in range(24)]


def test_no_result_is_all_zeros() -> None:
    words = encode_signals(replace(SIGNALS, result=NO_RESULT))
    assert words[5:19] == [0] * 14
    assert words[23] == 0


@pytest.mark.parametrize("passed", [False, None, 1, np.True_, "yes", 0x5AA5])
def test_only_the_very_true_is_the_code_word(passed: object) -> None:
    result = replace(RESULT, passed=passed)  # type: ignore[arg-type]
    assert encode_signals(replace(SIGNALS, result=result))[6] == 0


def test_measures_are_clipped_to_what_a_register_says() -> None:
    result = replace(
        RESULT,
        class_index=-1,
        probability=1.5,
        defects=70_000,
        defect_area_px=1_000_000,
        largest_defect_px=(-3, 70_000, 5, 6),
        elapsed_ms=100_000,
    )
    words = encode_signals(replace(SIGNALS, result=result, error_code=70_000, failed_parts=1_000_000))
    assert words[8:17] == [0, 10_000, 65535, 65535, 0, 65535, 5, 6, 65535]
    assert words[21:23] == [65535, 65535]


def test_a_register_is_a_plain_integer_whatever_counted_it() -> None:
    assert [type(word) for word in (exact("state", np.uint16(8)), clipped(np.int64(3)))] == [int, int]  # type: ignore[arg-type]


PROBABILITIES = [
    (float("nan"), 0),
    (-0.5, 0),
    (float("-inf"), 0),
    (float("inf"), 10_000),
    (1.5, 10_000),
    (0.99996, 10_000),
    (0.00004, 0),
]


@pytest.mark.parametrize(("probability", "word"), PROBABILITIES)
def test_a_probability_is_rounded_and_one_that_is_none_is_clipped(probability: float, word: int) -> None:
    assert encode_signals(replace(SIGNALS, result=replace(RESULT, probability=probability)))[9] == word


def test_the_heartbeat_wraps_instead_of_standing_still() -> None:
    assert [encode_signals(replace(SIGNALS, heartbeat=count))[2] for count in (65535, 65536, 65537)] == [65535, 0, 1]


@pytest.mark.parametrize("name", ["recipe_number", "recipe_checksum", "sequence", "reason"])
@pytest.mark.parametrize("value", [-1, 65536])
def test_what_names_a_part_or_recipe_is_refused_rather_than_clipped(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{value} does not fit the wire"):
        encode_signals(replace(SIGNALS, result=replace(RESULT, **{name: value})))


@pytest.mark.parametrize("name", ["state", "recipe_number", "recipe_checksum", "command_echo"])
def test_what_names_the_station_s_state_is_refused_rather_than_clipped(name: str) -> None:
    with pytest.raises(ValueError, match="65536 does not fit the wire"):
        encode_signals(replace(SIGNALS, **{name: 65536}))  # type: ignore[arg-type]


def test_the_command_block_is_the_table_of_the_wire() -> None:
    assert decode_command_block(COMMAND_BLOCK) == SAID


def test_a_part_id_keeps_its_printable_characters_only() -> None:
    words = [*COMMAND_BLOCK[:6], *(int.from_bytes(pair, "big") for pair in (b"\x00B", b"\x07-", b"\xffz", b" 9", b"\x7f!", b"", b"", b""))]
    assert decode_command_block(words).triggers == (Trigger(42, "B-z 9!"),)


def test_a_command_block_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="14 registers"):
        decode_command_block(COMMAND_BLOCK[:-1])


# The far end of the wire.


class FarEnd:
    """The other end of a serial line that is found at `port`: gives every burst of bytes to `reply` and sends back what that returns."""

    def __init__(self, port: Path, reply: Callable[[bytes], bytes]) -> None:
        self.port = port
        self.reply = reply
        self.plug()

    def plug(self) -> None:
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._far))
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def pull(self) -> None:
        self.port.unlink()
        os.close(self._stopped)
        self._thread.join()
        for end in (self._near, self._far, self._stop):
            os.close(end)

    def send(self, data: bytes) -> None:
        os.write(self._near, data)

    def fill(self) -> None:
        """Leaves the station's side no room; the kernel makes some for a while, as it moves what it has."""
        os.set_blocking(self._far, False)
        refused = 0
        while refused < 20:
            try:
                os.write(self._far, bytes(32))
                refused = 0
            except BlockingIOError:
                refused += 1
                time.sleep(0.005)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._near, self._stop], [], [])
            if self._stop in ready:
                return
            self.send(self.reply(os.read(self._near, 4096)))


class Clock:
    """A clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def telegram(*body: int) -> bytes:
    return bytes(body) + crc16_modbus(bytes(body)).to_bytes(2, "little")


SAID_BYTES = b"".join(word.to_bytes(2, "big") for word in COMMAND_BLOCK)
WRITTEN = telegram(1, 16, 0, 0, 0, 24)
READ = telegram(1, 3, 28, *SAID_BYTES)
WRITTEN_AND_READ = telegram(1, 23, 28, *SAID_BYTES)


def good_plc(request: bytes) -> bytes:
    return {16: WRITTEN, 3: READ, 23: WRITTEN_AND_READ}[request[1]]


def recording(requests: list[bytes], reply: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Answers as `reply` does and keeps the requests."""

    def answer(request: bytes) -> bytes:
        requests.append(request)
        return reply(request)

    return answer


def silent(_: bytes) -> bytes:
    return b""


def simulated_server(registers: list[int], **wire: int) -> Callable[[bytes], bytes]:
    server = RtuServer(registers, writable=range(24), **wire)
    return lambda data: server.receive(data, time.monotonic())


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[FarEnd]:
    end = FarEnd(tmp_path / "plc", good_plc)
    yield end
    if end.port.is_symlink():
        end.pull()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plc(far_end: FarEnd, clock: Clock) -> Iterator[ModbusRtuPlc]:
    link = ModbusRtuPlc(str(far_end.port), timeout_s=TIMEOUT_S, clock=clock)
    yield link
    link.close()


@pytest.fixture
def patient(far_end: FarEnd, clock: Clock) -> Iterator[ModbusRtuPlc]:
    """For a line that works, on a machine that may be slow."""
    link = ModbusRtuPlc(str(far_end.port), timeout_s=PATIENT_S, clock=clock)
    yield link
    link.close()


@pytest.fixture
def patient23(far_end: FarEnd, clock: Clock) -> Iterator[ModbusRtuPlc]:
    link = ModbusRtuPlc(str(far_end.port), fc23=True, timeout_s=PATIENT_S, clock=clock)
    yield link
    link.close()


@pytest.fixture
def plc23(far_end: FarEnd, clock: Clock) -> Iterator[ModbusRtuPlc]:
    link = ModbusRtuPlc(str(far_end.port), fc23=True, timeout_s=TIMEOUT_S, clock=clock)
    yield link
    link.close()


def failure(plc: ModbusRtuPlc) -> str:
    """The message of an exchange that must fail within its bound."""
    began_s = time.monotonic()
    with pytest.raises(PlcError) as caught:
        plc.exchange(SIGNALS)
    assert time.monotonic() - began_s < 2 * TIMEOUT_S + SLACK_S
    return str(caught.value)


def works(plc: ModbusRtuPlc, clock: Clock) -> bool:
    """True when the link says what the PLC said; a loaded machine may lose an answer more."""
    until_s = time.monotonic() + 10
    while True:
        clock.now_s += 10
        try:
            return plc.exchange(SIGNALS) == SAID
        except PlcError:
            assert time.monotonic() < until_s


def recovers(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> bool:
    """True when the link works again once its pause is over and the PLC is well."""
    far_end.reply = good_plc
    return works(plc, clock)


# A line that works.


def test_an_exchange_carries_both_blocks(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    registers = [0] * 32 + COMMAND_BLOCK
    far_end.reply = simulated_server(registers)
    assert patient.exchange(SIGNALS) == SAID
    assert registers[:24] == encode_signals(SIGNALS)


def test_an_exchange_is_one_write_of_the_whole_block_and_one_read(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    requests: list[bytes] = []
    far_end.reply = recording(requests, good_plc)
    patient.exchange(SIGNALS)
    words = b"".join(word.to_bytes(2, "big") for word in encode_signals(SIGNALS))
    assert requests == [telegram(1, 16, 0, 0, 0, 24, 48, *words), telegram(1, 3, 0, 32, 0, 14)]


def test_with_fc23_an_exchange_is_one_telegram(far_end: FarEnd, patient23: ModbusRtuPlc) -> None:
    registers = [0] * 32 + COMMAND_BLOCK
    requests: list[bytes] = []
    far_end.reply = recording(requests, simulated_server(registers, base=0))
    assert patient23.exchange(SIGNALS) == SAID
    words = b"".join(word.to_bytes(2, "big") for word in encode_signals(SIGNALS))
    assert requests == [telegram(1, 23, 0, 32, 0, 14, 0, 0, 0, 24, 48, *words)]
    assert registers[:24] == encode_signals(SIGNALS)
    patient23.close()
    assert [request[1] for request in requests] == [23, 23]
    assert registers[1] == 1
    assert registers[3:19] == [0] * 16


def test_with_fc23_unit_and_base_address_are_those_of_the_plc(far_end: FarEnd) -> None:
    far_end.reply = simulated_server([0] * 32 + COMMAND_BLOCK, unit=17, base=1000)
    plc = ModbusRtuPlc(str(far_end.port), unit=17, base=1000, fc23=True, timeout_s=PATIENT_S)
    assert plc.exchange(SIGNALS) == SAID
    plc.close()


@pytest.mark.parametrize("baudrate", [1200, 9600, 38400, 115200, 230400, 460800, 921600])
@pytest.mark.parametrize("parity", ["N", "E", "O"])
def test_every_rate_and_parity_is_spoken(far_end: FarEnd, baudrate: int, parity: str) -> None:
    plc = ModbusRtuPlc(str(far_end.port), baudrate=baudrate, parity=parity, fc23=True, timeout_s=PATIENT_S)
    assert plc.exchange(SIGNALS) == SAID
    plc.close()


def test_a_station_that_comes_back_finds_the_line_again(far_end: FarEnd) -> None:
    for _ in range(3):
        plc = ModbusRtuPlc(str(far_end.port), parity="E", timeout_s=PATIENT_S)
        assert plc.exchange(SIGNALS) == SAID
        plc.close()


def test_unit_and_base_address_are_those_of_the_plc(far_end: FarEnd) -> None:
    registers = [0] * 32 + COMMAND_BLOCK
    far_end.reply = simulated_server(registers, unit=17, base=1000)
    plc = ModbusRtuPlc(str(far_end.port), unit=17, base=1000, baudrate=115200, parity="N", timeout_s=PATIENT_S, simulated=True)
    assert plc.exchange(SIGNALS) == SAID
    assert plc.simulated
    plc.close()


def test_a_slow_answer_in_pieces_is_one_answer(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    def dribble(request: bytes) -> bytes:
        answer = good_plc(request)
        for at in range(len(answer) - 1):
            far_end.send(answer[at : at + 1])
        return answer[-1:]

    far_end.reply = dribble
    assert patient.exchange(SIGNALS) == SAID


# A line that does not.

FAULTS = {
    "silence": silent,
    "truncated": lambda request: good_plc(request)[:-3],
    "wrong checksum": lambda request: good_plc(request)[:-1] + b"\x00",
    "another unit": lambda request: telegram(2, *good_plc(request)[1:-2]),
    "noise": lambda _: random.Random(1).randbytes(40),
    "an old read for a write": lambda _: READ,
    "an old write for a read": lambda _: WRITTEN,
    "fewer registers": lambda request: WRITTEN if request[1] == 16 else telegram(1, 3, 4, 0, 1, 0, 2),
    "another address written": lambda request: READ if request[1] == 3 else telegram(1, 16, 0, 1, 0, 24),
    "fewer written": lambda request: READ if request[1] == 3 else telegram(1, 16, 0, 0, 0, 23),
    "coils written": lambda request: READ if request[1] == 3 else telegram(1, 15, 0, 0, 0, 24),
    "input registers": lambda request: WRITTEN if request[1] == 16 else telegram(1, 4, *READ[2:-2]),
    "only the write is answered": lambda request: WRITTEN if request[1] == 16 else b"",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_line_is_an_error_in_bounded_time_and_passes(fault: str, plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = FAULTS[fault]
    message = failure(plc)
    assert message.startswith(f"{far_end.port}: ")
    assert "unit 1" in message
    assert "check" in message
    assert recovers(plc, far_end, clock)


def test_silence_costs_one_timeout(plc: ModbusRtuPlc, far_end: FarEnd) -> None:
    requests: list[bytes] = []
    far_end.reply = recording(requests, silent)
    began_s = time.monotonic()
    assert "FC16 to registers 0..23 within 100 ms" in failure(plc)
    assert time.monotonic() - began_s >= TIMEOUT_S
    assert len(requests) == 1


def test_a_refusal_names_the_exception_and_the_fix(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = lambda request: telegram(1, request[1] | 0x80, 2)
    message = failure(plc)
    assert "exception 2, illegal data address" in message
    assert "base address" in message
    clock.now_s += 10
    far_end.reply = lambda request: telegram(1, request[1] | 0x80, 1)
    assert "exception 1, illegal function; give the PLC registers 0..45" in failure(plc)
    assert recovers(plc, far_end, clock)


def test_a_plc_that_does_not_know_fc23_is_told_from_one_without_the_registers(plc23: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = lambda request: telegram(1, request[1] | 0x80, 1)
    assert failure(plc23).endswith("set plc.fc23 to false for a PLC that does not know this function")
    clock.now_s += 10
    far_end.reply = lambda request: telegram(1, request[1] | 0x80, 2)
    assert "correct the base address" in failure(plc23)
    assert recovers(plc23, far_end, clock)


FAULTS_OF_FC23 = {
    "silence": silent,
    "truncated": lambda _: WRITTEN_AND_READ[:-3],
    "wrong checksum": lambda _: WRITTEN_AND_READ[:-1] + b"\x00",
    "a read": lambda _: READ,
    "a write": lambda _: WRITTEN,
    "fewer registers": lambda _: telegram(1, 23, 4, 0, 1, 0, 2),
    "another unit": lambda _: telegram(2, *WRITTEN_AND_READ[1:-2]),
}


@pytest.mark.parametrize("fault", FAULTS_OF_FC23)
def test_a_fault_in_the_answer_to_fc23_is_an_error_and_passes(fault: str, plc23: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = FAULTS_OF_FC23[fault]
    assert "FC23 to registers 0..23 and of 32..45" in failure(plc23)
    assert recovers(plc23, far_end, clock)


def test_a_late_answer_to_fc23_is_not_taken_for_the_next_one(plc23: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = silent
    failure(plc23)
    far_end.send(telegram(1, 23, 28, *[7] * 28))
    clock.now_s += TIMEOUT_S
    assert "tried again in 100 ms" in failure(plc23)
    assert recovers(plc23, far_end, clock)


def test_a_line_that_babbles_without_end_is_left_in_time(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    link = ModbusRtuPlc(str(far_end.port), timeout_s=TIMEOUT_S)
    quiet = threading.Event()

    def babble(_: bytes) -> bytes:
        while not quiet.wait(0.002):
            far_end.send(b"\x01\x03\x1c")
        return b""

    far_end.reply = babble
    failure(link)
    quiet.set()
    link.close()
    assert recovers(plc, far_end, clock)


def test_an_answer_that_begins_in_time_and_goes_on_after_it_is_lost(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    def dawdle(request: bytes) -> bytes:
        clock.now_s += 1
        return good_plc(request)[:2]

    far_end.reply = dawdle
    assert "no good answer" in failure(plc)
    assert recovers(plc, far_end, clock)


def test_a_port_that_takes_nothing_is_an_error_in_bounded_time_and_passes(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    held = threading.Event()

    def hold(_: bytes) -> bytes:
        held.wait(10)
        return b""

    far_end.reply = hold
    failure(plc)
    far_end.fill()
    clock.now_s += 10
    assert "was lost in FC16" in failure(plc)
    far_end.reply = silent
    held.set()
    far_end.pull()
    far_end.plug()
    assert recovers(plc, far_end, clock)


def test_a_step_of_the_wall_clock_does_not_stretch_the_wait(plc: ModbusRtuPlc, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    years = iter(range(10_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(years) * 1e6)
    far_end.reply = silent
    assert "no good answer" in failure(plc)


def test_the_line_stays_quiet_after_a_lost_answer(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    requests: list[bytes] = []
    far_end.reply = recording(requests, silent)
    lost = failure(plc)
    for _ in range(3):
        clock.now_s += TIMEOUT_S / 2
        assert failure(plc).startswith(lost)
    assert len(requests) == 1
    clock.now_s += TIMEOUT_S
    assert recovers(plc, far_end, clock)


def test_a_late_answer_is_not_taken_for_the_next_one(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    far_end.reply = lambda request: WRITTEN if request[1] == 16 else b""
    failure(plc)
    far_end.send(telegram(1, 3, 28, *[7] * 28))
    assert recovers(plc, far_end, clock)


def test_a_pulled_cable_is_an_error_and_its_return_is_found(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    assert works(plc, clock)
    far_end.pull()
    assert "was lost" in failure(plc)
    clock.now_s += 10
    assert "cannot be opened" in failure(plc)
    far_end.plug()
    assert recovers(plc, far_end, clock)


def test_a_port_that_is_not_there_is_tried_with_growing_pauses(tmp_path: Path, clock: Clock) -> None:
    plc = ModbusRtuPlc(str(tmp_path / "nothing"), clock=clock)
    pauses_ms = []
    for _ in range(7):
        assert "cannot be opened" in failure(plc)
        clock.now_s += 1e-6
        pauses_ms.append(int(failure(plc).split("again in ")[1].split(" ms")[0]))
        clock.now_s += 10
    assert pauses_ms == [100, 200, 400, 800, 1600, 2000, 2000]
    plc.close()


def test_after_a_good_exchange_the_pauses_start_small_again(plc: ModbusRtuPlc, far_end: FarEnd, clock: Clock) -> None:
    for _ in range(2):
        far_end.pull()
        for pause_ms in (100, 200):
            failure(plc)
            assert f"again in {pause_ms} ms" in failure(plc)
            clock.now_s += 10
        far_end.plug()
        assert recovers(plc, far_end, clock)


def test_a_silence_of_three_and_a_half_characters_parts_two_telegrams(far_end: FarEnd) -> None:
    times_s: list[float] = []

    def timed(request: bytes) -> bytes:
        times_s.append(time.monotonic())
        return good_plc(request)

    far_end.reply = timed
    plc = ModbusRtuPlc(str(far_end.port), baudrate=1200, timeout_s=5.0)
    plc.exchange(SIGNALS)
    plc.close()
    assert times_s[1] - times_s[0] > 3.5 * 11 / 1200


def test_the_port_is_opened_for_one_only(patient: ModbusRtuPlc, far_end: FarEnd) -> None:
    assert patient.exchange(SIGNALS) == SAID
    second = ModbusRtuPlc(str(far_end.port), timeout_s=TIMEOUT_S)
    assert "cannot be opened" in failure(second)
    second.close()
    assert patient.exchange(SIGNALS) == SAID


@pytest.mark.parametrize(("baudrate", "silence_ms"), [(9_600, 4.0104), (19_200, 2.0052), (38_400, 1.75), (921_600, 1.75)])
def test_the_silence_between_telegrams_is_the_specification_s(baudrate: int, silence_ms: float) -> None:
    assert rtu_silence_s(baudrate) * 1e3 == pytest.approx(silence_ms, abs=1e-4)


# The port's driver.


def test_a_driver_without_rs485_is_refused_in_words(far_end: FarEnd, clock: Clock) -> None:
    errors = []  # as long as an error is kept, what its frames held is
    for link in (ModbusRtuPlc, ModbusServerPlc):
        plc = link(str(far_end.port), rs485=True, clock=clock)
        with pytest.raises(PlcError, match=r"cannot turn an RS-485 transceiver round by RTS: set plc.rs485 to false") as caught:
            plc.exchange(SIGNALS)
        errors.append(caught)
        plc.close()
    assert recovers(ModbusRtuPlc(str(far_end.port), clock=clock), far_end, clock)


def test_what_the_driver_can_is_set(far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(serial.Serial, "rs485_mode", property(lambda _: None, lambda _, mode: asked.append(mode)))
    monkeypatch.setattr(serial.Serial, "set_low_latency_mode", lambda _, mode: asked.append(mode))
    for rs485 in (True, False):
        port = open_port(str(far_end.port), 921_600, "E", rs485=rs485)
        assert port.exclusive
        port.close()
    settings_, *rest = asked
    assert isinstance(settings_, RS485Settings)
    assert (settings_.rts_level_for_tx, settings_.rts_level_for_rx) == (True, False)
    assert rest == [True, True]


@pytest.mark.parametrize("link", [ModbusRtuPlc, ModbusServerPlc, AsciiLinePlc])
def test_every_link_opens_its_port_as_it_was_told(link: type, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, dict[str, object]]] = []

    def port(path: str, **wire: object) -> None:
        opened.append((path, wire))
        raise OSError("it was only looked at")

    monkeypatch.setattr(serial, "Serial", port)
    with pytest.raises(PlcError, match="it was only looked at"):
        link("/dev/ttyUSB7", baudrate=38_400, parity="O").exchange(SIGNALS)
    ((path, wire),) = opened
    assert path == "/dev/ttyUSB7"
    assert wire.items() >= {"baudrate": 38_400, "parity": "O", "timeout": 0, "exclusive": True}.items()


@settings(max_examples=60, deadline=None)
@given(answers=st.lists(st.binary(max_size=40) | st.sampled_from([WRITTEN, READ, WRITTEN + READ, READ[:20]]), min_size=2, max_size=2))
def test_random_answers_are_an_error_or_the_truth(answers: list[bytes]) -> None:
    link = Path(tempfile.mkdtemp()) / "plc"
    left = iter(answers)
    far_end = FarEnd(link, lambda _: next(left, b""))
    plc = ModbusRtuPlc(str(link), timeout_s=0.01)
    try:
        assert plc.exchange(SIGNALS) == SAID
    except PlcError:
        pass
    finally:
        plc.close()
        far_end.pull()
        link.parent.rmdir()


# The end.


def test_closing_leaves_the_plc_at_reject(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    registers = [0] * 32 + COMMAND_BLOCK
    far_end.reply = simulated_server(registers)
    patient.exchange(SIGNALS)
    patient.close()
    assert registers[1] == 1
    assert registers[3:19] == [0] * 16
    assert registers[23] == 0


def test_closing_again_does_not_touch_the_line(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    patient.exchange(SIGNALS)
    patient.close()
    requests: list[bytes] = []
    far_end.reply = recording(requests, silent)
    patient.close()
    assert requests == []


def test_closing_a_line_that_failed_leaves_it_alone(far_end: FarEnd, plc: ModbusRtuPlc, clock: Clock) -> None:
    assert works(plc, clock)
    requests: list[bytes] = []
    far_end.reply = recording(requests, silent)
    failure(plc)
    plc.close()
    assert len(requests) == 1


def test_closing_a_line_that_works_again_leaves_the_plc_at_reject(far_end: FarEnd, plc: ModbusRtuPlc, clock: Clock) -> None:
    far_end.reply = silent
    failure(plc)
    assert recovers(plc, far_end, clock)
    requests: list[bytes] = []
    far_end.reply = recording(requests, good_plc)
    plc.close()
    assert [request[1] for request in requests] == [16]


def test_closing_a_dead_line_raises_nothing(far_end: FarEnd, patient: ModbusRtuPlc) -> None:
    patient.exchange(SIGNALS)
    far_end.pull()
    patient.close()
