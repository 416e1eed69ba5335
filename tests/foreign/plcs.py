"""PLCs that others wrote, at the far end of a cable whose bytes a test may spoil: libmodbus, pymodbus, and lines from the page alone."""

import asyncio
import atexit
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterable
from functools import cache
from pathlib import Path
from typing import Any, overload

import pytest
from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.simulated.line import Terminal

REGISTERS = 46


class ForeignPlc:
    """The test's end of a cable to a foreign PLC; what comes to it is `receive`d, as from a simulated one. May be asked from any thread."""

    def __init__(self, port: Path) -> None:
        self._cable = Terminal(port)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Readable when the PLC has said something."""
        return self._cable.fileno()

    def receive(self, data: bytes, now_s: float) -> bytes:  # noqa: ARG002 - as the simulated ones
        """Passes bytes on and returns what came back until now."""
        if data:
            self._cable.write(data)
        return self._cable.read()

    def fetch(self) -> list[int]:
        """The PLC's 46 registers."""
        raise NotImplementedError

    def put(self, first: int, words: list[int]) -> None:
        """Sets registers from `first` on."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the PLC."""
        self._cable.close()

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        with self._lock:
            return self.fetch()[at]

    def __setitem__(self, at: slice, words: Iterable[int]) -> None:
        with self._lock:
            self.put(at.indices(REGISTERS)[0], list(words))


@cache
def _built(name: str, *libraries: str) -> Path:
    """Compiles a program of this folder, or skips the test where that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip(f"there is no C compiler for tests/foreign/{name}.c")
    flags: list[str] = []
    if libraries:
        asked = subprocess.run(["pkg-config", "--cflags", "--libs", *libraries], capture_output=True, text=True, check=False)
        if asked.returncode:
            pytest.skip(f"there is no {', '.join(libraries)} for tests/foreign/{name}.c (Debian: apt install libmodbus-dev pkg-config)")
        flags = asked.stdout.split()
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = Path(folder) / name
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-pthread", "-o", program, Path(__file__).with_name(f"{name}.c"), *flags], check=True
    )
    return program


class Program(ForeignPlc):
    """A program of this folder; see `pipe.h`."""

    def __init__(self, port: Path, name: str, *words: str, libraries: tuple[str, ...] = ()) -> None:
        if libraries and not shutil.which("pkg-config"):
            pytest.skip(f"there is no pkg-config to find {', '.join(libraries)} for tests/foreign/{name}.c")
        program = _built(name, *libraries)
        super().__init__(port)
        self._process = subprocess.Popen([program, *words, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def fetch(self) -> list[int]:
        return [*map(int, self._ask("r").split())]

    def put(self, first: int, words: list[int]) -> None:
        assert self._ask(f"w {first} {' '.join(map(str, words))}") == "ok\n"

    def close(self) -> None:
        self._process.communicate()
        super().close()

    def _ask(self, request: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


def libmodbus(port: Path, role: str) -> ForeignPlc:
    """libmodbus as `server`, `client` (FC16 and FC3) or `client23`."""
    return Program(port, "libmodbus_plc", role, libraries=("libmodbus",))


def ascii_lines(port: Path) -> ForeignPlc:
    """A PLC that speaks in lines."""
    return Program(port, "ascii_plc")


class PymodbusServer(ForeignPlc):
    """pymodbus' own serial server."""

    def __init__(self, port: Path) -> None:
        super().__init__(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        blocks = [SimData(0, count=REGISTERS, values=0, datatype=DataType.REGISTERS)]
        self._server = self._do(self._serve(SimDevice(1, simdata=blocks), str(port)))

    def fetch(self) -> list[int]:
        return list(self._do(self._server.async_getValues(1, 3, 0, REGISTERS)))

    def put(self, first: int, words: list[int]) -> None:
        self._do(self._server.async_setValues(1, 16, first, words))

    def close(self) -> None:
        self._do(self._server.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        super().close()

    async def _serve(self, device: SimDevice, port: str) -> ModbusSerialServer:
        server = ModbusSerialServer(device, port=port, baudrate=19200)
        await server.serve_forever(background=True)
        return server

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


class PymodbusClient(ForeignPlc):
    """pymodbus' own serial client, which polls without a pause: FC16 and FC3, or FC23."""

    def __init__(self, port: Path, *, fc23: bool = False) -> None:
        super().__init__(port)
        self._registers = [0] * REGISTERS
        self._fc23 = fc23
        self._ended = threading.Event()
        self._client = ModbusSerialClient(str(port), baudrate=115200, timeout=0.2, retries=0)
        assert self._client.connect()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def fetch(self) -> list[int]:
        return list(self._registers)

    def put(self, first: int, words: list[int]) -> None:
        self._registers[first : first + len(words)] = words

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()
        super().close()

    def _poll(self) -> None:
        while not self._ended.wait(0.001):
            words = self._registers[32:]
            try:
                if self._fc23:
                    answer = self._client.readwrite_registers(read_address=0, read_count=24, write_address=32, values=words)
                else:
                    self._client.write_registers(32, words)
                    answer = self._client.read_holding_registers(0, count=24)
            except ModbusException:
                self._client.connect()
                continue
            if not answer.isError() and len(answer.registers) == 24:
                self._registers[:24] = answer.registers
