"""Every dialect and role keeps the promises of `drivers.plc`, to the simulated PLC and to PLCs that others wrote.

A dialect added later joins by one line in SIMULATED, another PLC for it by one in OTHERS.
"""

import functools
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from foreign.plcs import ForeignPlc, PymodbusClient, PymodbusServer, ascii_lines, libmodbus

from drivers.ascii_line import AsciiLinePlc
from drivers.modbus_rtu import ModbusRtuPlc
from drivers.modbus_server import ModbusServerPlc
from drivers.plc import NO_RESULT, Command, CommandStatus, Plc, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals, Trigger
from drivers.simulated.ascii_plc import AsciiPlc
from drivers.simulated.judge import STATION_REGISTERS
from drivers.simulated.line import Terminal
from drivers.simulated.plc import COMMAND_REGISTERS, Batch, PlcProgram
from drivers.simulated.rtu_client import RtuClient
from drivers.simulated.rtu_server import RtuServer

TIMEOUT_S = 0.1
EXCHANGE_S = 2 * TIMEOUT_S + 1.0
"""Two telegrams' time, and what a loaded machine may add."""
UNHEARD_S = 0.5
"""A polling PLC may be silent for twice that; its thread here shares a loaded machine."""
PATIENCE_S = 10.0


class FarEnd(Protocol):
    """The PLC's serial side over its registers."""

    def receive(self, data: bytes, now_s: float) -> bytes: ...


@dataclass(frozen=True)
class Dialect:
    """One dialect under test.

    Attributes:
        link: the station's end, at a port; its clock may be another.
        simulated: the PLC's end, over its 46 registers.
        foreign: the PLC's end by others, at a port of its own.
        carries: the station's registers that reach the PLC whatever it does; the others reach it with a command or not at all.
    """

    name: str
    link: Callable[..., Plc]
    simulated: Callable[[list[int]], FarEnd] | None = None
    foreign: Callable[[Path], ForeignPlc] | None = None
    carries: frozenset[int] = frozenset(STATION_REGISTERS)


client = functools.partial(ModbusRtuPlc, timeout_s=TIMEOUT_S)
client23 = functools.partial(ModbusRtuPlc, timeout_s=TIMEOUT_S, fc23=True)
server = functools.partial(ModbusServerPlc, baudrate=115200, timeout_s=UNHEARD_S)
lines = functools.partial(AsciiLinePlc, turn_s=0.005)
polled = functools.partial(RtuServer, writable=STATION_REGISTERS)
LINES_CARRY = frozenset({*range(11), *range(16, 19), 21, 23})
SIMULATED = (
    Dialect("modbus-client", client, polled),
    Dialect("modbus-client-fc23", client23, polled),
    Dialect("modbus-server", server, functools.partial(RtuClient, patience_s=0.1)),
    Dialect("ascii", lines, AsciiPlc, carries=LINES_CARRY),
)
OTHERS = (
    Dialect("modbus-server-fc23", server, functools.partial(RtuClient, patience_s=0.1, fc23=True)),
    Dialect("modbus-client-of-libmodbus", client, foreign=functools.partial(libmodbus, role="server")),
    Dialect("modbus-client-of-pymodbus", client, foreign=PymodbusServer),
    Dialect("modbus-client-fc23-of-libmodbus", client23, foreign=functools.partial(libmodbus, role="server")),
    Dialect("modbus-client-fc23-of-pymodbus", client23, foreign=PymodbusServer),
    Dialect("modbus-server-for-libmodbus", server, foreign=functools.partial(libmodbus, role="client")),
    Dialect("modbus-server-for-libmodbus-fc23", server, foreign=functools.partial(libmodbus, role="client23")),
    Dialect("modbus-server-for-pymodbus", server, foreign=PymodbusClient),
    Dialect("modbus-server-for-pymodbus-fc23", server, foreign=functools.partial(PymodbusClient, fc23=True)),
    Dialect("ascii-of-another", lines, foreign=ascii_lines, carries=LINES_CARRY),
)

RESULT = PlcResult(42, True, 1, 3, 0.9981, 2, 700, (10, 20, 30, 40), 87, 12, 0x9F3A)
SIGNALS = StationSignals(8, 77, 12, 0x9F3A, RESULT, 5, CommandStatus.DONE, 21, 6)
BLOCK = [1, 8, 77, 12, 0x9F3A, 42, 0x5AA5, 1, 3, 9981, 2, 700, 10, 20, 30, 40, 87, 12, 0x9F3A, 5, 2, 21, 6, 42]
CHECKSUMS = {0: 0, 1: 0x1111, 2: 0x2222}
IDLE = StationSignals(6, 1, 12, 0x9F3A, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)


class Bench:
    """A PLC at the far end of a pseudo terminal, turning in a thread, and the link under test."""

    def __init__(self, dialect: Dialect, port: Path) -> None:
        self.dialect, self.port = dialect, port
        self.foreign = dialect.foreign(port.with_name("foreign")) if dialect.foreign else None
        self.registers: Any = self.foreign or [0] * COMMAND_REGISTERS.stop
        self.far_end: FarEnd = self.foreign or dialect.simulated(self.registers)
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        self.program: PlcProgram | None = None
        self.now_s: float | None = None
        self._ended = threading.Event()
        self.plug()
        self.plc = dialect.link(str(port), clock=self.clock)

    def clock(self) -> float:
        return time.monotonic() if self.now_s is None else self.now_s

    def plug(self) -> None:
        self._terminal = Terminal(self.port)
        self._ended.clear()
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def pull(self) -> None:
        self._ended.set()
        self._thread.join()
        self._terminal.close()

    def close(self) -> None:
        self.plc.close()
        if not self._ended.is_set():
            self.pull()
        if self.foreign:
            self.foreign.close()

    def _turn(self) -> None:
        while not self._ended.is_set():
            select.select([self._terminal, *([self.foreign] if self.foreign else [])], [], [], 0.005)
            self._terminal.write(self.spoil(self.far_end.receive(self._terminal.read(), time.monotonic())))
            if self.program:
                station = self.registers[: STATION_REGISTERS.stop]
                self.registers[COMMAND_REGISTERS.start :] = self.program.scan(station, time.monotonic())

    def say(self, first: int, *words: int) -> None:
        """Writes the PLC's own registers."""
        self.registers[first : first + len(words)] = words

    def exchange(self, signals: StationSignals = IDLE) -> PlcInput | None:
        """One exchange, in time; None when it failed."""
        began_s = time.monotonic()
        try:
            return self.plc.exchange(signals)
        except PlcError:
            return None
        finally:
            assert time.monotonic() - began_s < EXCHANGE_S

    def until(self, reached: Callable[[PlcInput], bool], signals: StationSignals = IDLE) -> PlcInput:
        """Exchanges until the PLC said it, and returns that; `signals` with a heartbeat that moves."""
        until_s = time.monotonic() + PATIENCE_S
        for turn in range(1_000_000):
            heard = self.exchange(replace(signals, heartbeat=signals.heartbeat + turn % 2))
            if heard and reached(heard):
                return heard
            if heard is None and self.now_s is not None:  # a clock that stands would never let it try again
                self.now_s += 10
            assert time.monotonic() < until_s, f"the PLC said {heard}, its registers are {self.registers}"
        raise AssertionError

    def meet(self) -> None:
        self.until(lambda _: True)
        self.until(lambda _: True)


def named(dialect: Dialect) -> str:
    return dialect.name


@pytest.fixture(params=SIMULATED + OTHERS, ids=named)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path / "plc")
    yield made
    made.close()


to_the_simulated_one = pytest.mark.parametrize("bench", SIMULATED, ids=named, indirect=True)
"""What depends on the station's end alone."""

# What is said.


def test_the_plc_learns_all_that_the_dialect_carries(bench: Bench) -> None:
    bench.meet()
    carried = sorted(bench.dialect.carries - {2})
    bench.until(lambda _: [bench.registers[at] for at in carried] == [BLOCK[at] for at in carried], SIGNALS)
    assert bench.registers[2] in (77, 78)


@to_the_simulated_one
@pytest.mark.parametrize("passed", [False, None, 1, np.True_, "yes"])
def test_only_the_very_true_is_a_pass(bench: Bench, passed: object) -> None:
    bench.meet()
    bench.until(lambda _: bench.registers[23] == 42, replace(SIGNALS, result=replace(RESULT, passed=passed)))
    assert bench.registers[6] == 0


@to_the_simulated_one
@pytest.mark.parametrize("changes", [{"sequence": 65536}, {"recipe_number": -1}, {"recipe_checksum": 65536}])
def test_what_names_a_part_or_recipe_is_refused_rather_than_clipped(bench: Bench, changes: dict[str, int]) -> None:
    bench.meet()
    with pytest.raises(ValueError, match=r"must be 0\.\.65535"):
        bench.plc.exchange(replace(SIGNALS, result=replace(RESULT, **changes)))
    bench.meet()
    assert bench.registers[5:19] == [0] * 14


# What is heard.


def test_a_trigger_and_its_part_id_stand_until_the_next(bench: Bench) -> None:
    bench.meet()
    bench.say(37, 42, 0x4131, 0x3233, 0x3400)
    bench.until(lambda said: said.triggers == (Trigger(42, "A1234"),))
    for _ in range(20):
        assert bench.until(lambda _: True).triggers == (Trigger(42, "A1234"),)
    bench.say(37, 43, 0, 0, 0)
    bench.until(lambda said: said.triggers == (Trigger(43),))
    bench.say(37, 0)
    bench.until(lambda said: said.triggers == (Trigger(0),))


def test_the_plc_s_heartbeat_arrives(bench: Bench) -> None:
    for count in (7, 8, 65535, 0):
        bench.say(32, count)
        bench.until(lambda said, count=count: said.heartbeat == count)


@to_the_simulated_one
@pytest.mark.parametrize("command", [command for command in Command if command])
@pytest.mark.parametrize(("status", "error"), [(CommandStatus.DONE, 0), (CommandStatus.FAILED, 21)])
def test_a_command_is_four_phase(bench: Bench, command: Command, status: CommandStatus, error: int) -> None:
    bench.meet()
    argument = 12 if command is Command.PREPARE_RECIPE else 0
    bench.say(33, command, argument, 5)
    bench.until(lambda said: said.command == PlcCommand(command, argument, 5))
    bench.until(lambda _: bench.registers[19:21] == [5, 1], replace(IDLE, command_echo=5, command_status=CommandStatus.EXECUTING))
    ended = replace(IDLE, command_echo=5, command_status=status, error_code=error)
    bench.until(lambda _: bench.registers[19:22] == [5, status, error], ended)
    bench.say(33, 0, 0)
    bench.until(lambda said: said.command.code == 0, ended)
    bench.until(lambda _: bench.registers[20] == 0, replace(IDLE, command_echo=5))


def test_a_result_is_acknowledged_by_its_sequence(bench: Bench) -> None:
    bench.meet()
    told = replace(SIGNALS, command_status=CommandStatus.IDLE)
    for sequence in (42, 43, 65535, 1):
        signals = replace(told, result=replace(RESULT, sequence=sequence))
        bench.until(lambda _, sequence=sequence: bench.registers[23] == sequence, signals)
        assert bench.until(lambda _: True, signals).acknowledged != sequence
        bench.say(36, sequence)
        bench.until(lambda said, sequence=sequence: said.acknowledged == sequence, signals)


# A line that does not work.


@to_the_simulated_one
def test_a_plc_that_was_never_heard_is_an_error_until_it_is(bench: Bench) -> None:
    bench.spoil = lambda _: b""
    for _ in range(3):
        with pytest.raises(PlcError, match=f"^{bench.port}: .*; check|tried again"):
            bench.plc.exchange(IDLE)
    bench.spoil = lambda data: data
    bench.meet()


@to_the_simulated_one
@pytest.mark.parametrize("seed", range(2))
def test_noise_is_an_error_or_nothing_and_passes(bench: Bench, seed: int) -> None:
    bench.meet()
    chance = random.Random(seed)
    truth = {0, *range(900, 960)}
    bench.spoil = lambda data: data + chance.randbytes(chance.randrange(200)) if chance.random() < 0.5 else data[: chance.randrange(40)]
    for count in range(60):
        bench.say(32, 900 + count)
        if said := bench.exchange():
            assert said.heartbeat in truth
            assert replace(said, heartbeat=0, told=True) == PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),))
    bench.spoil = lambda data: data
    bench.say(37, 42)
    bench.until(lambda said: said.triggers[-1].sequence == 42)


def test_a_pulled_cable_is_an_error_and_its_return_is_found(bench: Bench) -> None:
    bench.meet()
    bench.pull()
    assert [bench.exchange() for _ in range(3)] == [None] * 3
    bench.plug()
    bench.meet()


@to_the_simulated_one
def test_a_port_that_is_not_there_is_tried_with_growing_pauses(bench: Bench) -> None:
    bench.pull()
    bench.now_s = time.monotonic() + 1
    pauses_ms = []
    for _ in range(7):
        with pytest.raises(PlcError, match="cannot be opened"):
            bench.plc.exchange(IDLE)
        bench.now_s += 1e-6
        with pytest.raises(PlcError) as caught:
            bench.plc.exchange(IDLE)
        pauses_ms.append(int(str(caught.value).split("again in ")[1].split(" ms")[0]))
        bench.now_s += 10
    assert pauses_ms == [100, 200, 400, 800, 1600, 2000, 2000]


@to_the_simulated_one
def test_after_a_good_exchange_the_pauses_start_small_again(bench: Bench) -> None:
    bench.now_s = time.monotonic() + 1
    for _ in range(2):
        bench.pull()
        assert bench.exchange() is None
        for pause_ms in (100, 200, 400):
            with pytest.raises(PlcError, match=f"again in {pause_ms} ms"):
                bench.plc.exchange(IDLE)
            bench.now_s += 10
            if pause_ms < 400:
                assert bench.exchange() is None
        bench.plug()
        bench.meet()


@to_the_simulated_one
def test_the_port_is_opened_for_one_only(bench: Bench) -> None:
    bench.meet()
    second = bench.dialect.link(str(bench.port))
    with pytest.raises(PlcError, match="cannot be opened"):
        second.exchange(IDLE)
    second.close()
    bench.meet()


# The end.


def test_closing_leaves_the_plc_at_reject(bench: Bench) -> None:
    bench.meet()
    bench.until(lambda _: bench.registers[1] == 8 and bench.registers[23] == 42, SIGNALS)
    bench.plc.close()
    until_s = time.monotonic() + PATIENCE_S
    while bench.registers[1] != 1:
        assert time.monotonic() < until_s
    assert bench.registers[3:5] == [0, 0]
    bench.plc.close()


@to_the_simulated_one
def test_closing_a_dead_line_raises_nothing(bench: Bench) -> None:
    bench.meet()
    bench.pull()
    bench.plc.close()
    bench.plc.close()


# A whole shift of the simulated PLC.


class Parts:
    """A conveyor of numbered parts; every third is bad. Remembers the bins."""

    def __init__(self) -> None:
        self.bins: dict[str, bool] = {}
        self._made = 0

    def present(self, batch: int) -> str:
        self._made += 1
        return f"B{batch}-{self._made:04}"

    def sort(self, part_id: str, good: bool) -> None:
        self.bins[part_id] = good


def is_good(part_id: str) -> bool:
    return int(part_id[-4:]) % 3 != 0


class SmallStation:
    """The least that is a station: obeys, judges each part once by its id, and repeats its answer."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._signals = replace(IDLE, state=5, recipe_number=0, recipe_checksum=0)
        self._seen = PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),))
        self.judged: list[str] = []

    def turn(self) -> None:
        signals = replace(self._signals, heartbeat=self._signals.heartbeat + 1)
        said = self._bench.exchange(signals)
        if said is not None:
            signals = self._obey(signals, said.command)
            (trigger,) = said.triggers
            if trigger != self._seen.triggers[0] and signals.state == 8:
                self.judged.append(trigger.part_id)
                signals = replace(signals, result=self._judge(trigger, signals.recipe_number))
            self._seen = said
        self._signals = signals

    def _obey(self, signals: StationSignals, command: PlcCommand) -> StationSignals:
        if command.sequence == signals.command_echo:
            return signals if command.code else replace(signals, command_status=CommandStatus.IDLE)
        state = {Command.START_CONTINUOUS: 8, Command.STOP: 6}.get(Command(command.code), max(signals.state, 6))
        recipe = command.argument or signals.recipe_number
        done = replace(signals, state=state, command_echo=command.sequence, command_status=CommandStatus.DONE)
        return replace(done, recipe_number=recipe, recipe_checksum=CHECKSUMS[recipe])

    def _judge(self, trigger: Trigger, recipe: int) -> PlcResult:
        good = is_good(trigger.part_id)
        checksum = CHECKSUMS[recipe]
        return PlcResult(trigger.sequence, good, 1 if good else 2, 0, 0.9, 0, 0, (0, 0, 0, 0), 3, recipe, checksum)


def flipping(chance: random.Random, often: float) -> Callable[[bytes], bytes]:
    """Turns one bit of some bursts."""

    def spoil(data: bytes) -> bytes:
        if not data or chance.random() > often:
            return data
        spoilt = bytearray(data)
        spoilt[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(spoilt)

    return spoil


def run_shift(bench: Bench, first: int, second: int) -> Parts:
    """Two batches with a changeover between them; checks what must hold on any line."""
    parts = Parts()
    bench.program = PlcProgram([Batch(1, first), Batch(2, second)], parts, deadline_ms=1000, part_timeout_s=2.0, interval_s=0.0)
    station = SmallStation(bench)
    until_s = time.monotonic() + 60
    while not bench.program.finished:
        assert time.monotonic() < until_s, bench.program.counts
        station.turn()
    counts = bench.program.counts
    assert counts.violations == []
    assert len(parts.bins) == counts.triggers == first + second
    assert len(station.judged) == len(set(station.judged))
    assert [part for part, good in parts.bins.items() if good and not is_good(part)] == []
    return parts


def test_a_shift_of_two_batches_ends_with_every_part_in_its_bin(bench: Bench) -> None:
    first, second = (40, 20) if bench.dialect in SIMULATED else (8, 4)
    parts = run_shift(bench, first, second)
    assert bench.program
    counts = bench.program.counts
    assert parts.bins == {part: is_good(part) for part in parts.bins}
    assert (counts.answered, counts.acknowledged, counts.timeouts, counts.recoveries) == (first + second, first + second, 0, 0)
    assert counts.recipes == {1: first, 2: second}


@to_the_simulated_one
def test_no_bad_part_passes_on_a_noisy_line(bench: Bench) -> None:
    bench.spoil = flipping(random.Random(7), 0.05)
    run_shift(bench, 12, 6)


def one_late() -> Callable[[bytes], bytes]:
    """Keeps each answer back until the next one comes."""
    kept = b""

    def spoil(data: bytes) -> bytes:
        nonlocal kept
        if not data:
            return b""
        data, kept = kept, data
        return data

    return spoil


@pytest.mark.parametrize("bench", [SIMULATED[1]], ids=named, indirect=True)
def test_answers_that_are_each_taken_for_the_next_one_s_shift_no_result(bench: Bench) -> None:
    bench.spoil = one_late()
    parts = run_shift(bench, 12, 6)
    assert parts.bins == {part: is_good(part) for part in parts.bins}
