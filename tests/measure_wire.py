"""How long an answer takes over a pseudo terminal, from the result in hand to its acknowledgement in hand: a table a dialect and role.

The PLC is the simulated one in a process of its own; it takes a result in the moment it sees it, and polls without a pause. A pseudo
terminal takes no time for bytes, so what is measured is the station's share, the silences of Modbus RTU at 115200 baud included.
"""

import multiprocessing
import select
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivers.ascii_line import AsciiLinePlc
from drivers.modbus_rtu import ModbusRtuPlc
from drivers.modbus_server import ModbusServerPlc
from drivers.plc import NO_RESULT, CommandStatus, Plc, PlcError, PlcInput, PlcResult, StationSignals
from drivers.simulated import rtu_client
from drivers.simulated.ascii_plc import AsciiPlc
from drivers.simulated.line import Terminal
from drivers.simulated.rtu_client import RtuClient
from drivers.simulated.rtu_server import RtuServer

RESULTS = 1_000
LINKS: dict[str, tuple[Callable[[str], Plc], Callable[[list[int]], Any]]] = {
    "Modbus client, FC16 + FC3": (
        lambda port: ModbusRtuPlc(port, baudrate=115_200),
        lambda registers: RtuServer(registers, writable=range(24)),
    ),
    "Modbus client, FC23": (
        lambda port: ModbusRtuPlc(port, baudrate=115_200, fc23=True),
        lambda registers: RtuServer(registers, writable=range(24)),
    ),
    "Modbus server, FC16 + FC3": (lambda port: ModbusServerPlc(port, baudrate=115_200), RtuClient),
    "Modbus server, FC23": (lambda port: ModbusServerPlc(port, baudrate=115_200), lambda registers: RtuClient(registers, fc23=True)),
    "ASCII lines": (lambda port: AsciiLinePlc(port, turn_s=0.005), AsciiPlc),
}


def be_plc(port: Path, name: str) -> None:
    """The PLC's process; ends when it is terminated."""
    rtu_client.POLL_S = 1e-6  # the next request goes out with the next scan
    registers = [0] * 46
    far_end = LINKS[name][1](registers)
    terminal = Terminal(port)
    while True:
        select.select([terminal], [], [], 0.01)
        said = far_end.receive(terminal.read(), time.monotonic())
        terminal.write(said)
        if registers[5] == registers[23]:
            registers[36] = registers[5]
        terminal.write(far_end.speak(time.monotonic()))


def exchange(plc: Plc, signals: StationSignals) -> PlcInput | None:
    try:
        return plc.exchange(signals)
    except PlcError:
        return None


def measure(name: str, folder: Path) -> list[float]:
    """Milliseconds of each result."""
    port = folder / "plc"
    process = multiprocessing.get_context("spawn").Process(target=be_plc, args=(port, name), daemon=True)
    process.start()
    while not port.is_symlink():
        time.sleep(0.01)
    plc = LINKS[name][0](str(port))
    times_ms: list[float] = []
    heartbeat = 0
    result = NO_RESULT
    for sequence in range(1, RESULTS + 1):
        begun_s = time.perf_counter()
        heard = None
        result = PlcResult(sequence, True, 1, 0, 0.99, 0, 0, (0, 0, 0, 0), 8, 1, 1)
        while heard is None or heard.acknowledged != sequence:
            heartbeat += 1
            heard = exchange(plc, StationSignals(8, heartbeat, 1, 1, result, 0, CommandStatus.IDLE, 0, 0))
        times_ms.append((time.perf_counter() - begun_s) * 1e3)
        time.sleep(0.003 + sequence % 7 / 1e3)
    plc.close()
    process.terminate()
    process.join()
    return sorted(times_ms[RESULTS // 10 :])


if __name__ == "__main__":
    print("| result in hand to acknowledged | p50 | p99 | max |\n|---|---|---|---|")
    for link in LINKS:
        with tempfile.TemporaryDirectory() as made:
            times = measure(link, Path(made))
        print(f"| {link} | {statistics.median(times):.2f} ms | {times[len(times) * 99 // 100]:.2f} ms | {times[-1]:.2f} ms |", flush=True)
