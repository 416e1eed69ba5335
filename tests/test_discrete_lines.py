"""The discrete lines: PASS and READY stand only for what was judged just now, and fall with whatever fails."""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import until
from hypothesis import given
from hypothesis import strategies as st

from drivers import lines_guard
from drivers.discrete_lines import DiscreteLines
from drivers.lines_guard import BEGINS_WITHIN_NS, NOT_READY, READY, Lines
from drivers.plc import NO_RESULT, CommandStatus, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals
from drivers.simulated.line import Terminal

MS = 1_000_000
VALID_NS = 40 * MS
SILENCE_NS = 700 * MS
PATIENCE_S = 10.0
HEARD = PlcInput(1, PlcCommand(0, 0, 0), 0, ())
RUNNING = StationSignals(8, 1, 12, 0x9F3A, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)
PASSED = PlcResult(42, True, 1, 0, 0.99, 0, 0, (0, 0, 0, 0), 87, 12, 0x9F3A)


# How the lines must stand.

T0 = 1_000_000_000_000


def test_nothing_stands_before_the_station_has_said_so() -> None:
    lines = Lines(VALID_NS, SILENCE_NS, T0)
    assert (lines.ready, lines.passed, lines.changes_ns) == (False, False, -1)
    lines.hear(READY, T0)
    assert (lines.ready, lines.passed) == (True, False)
    lines.hear(NOT_READY, T0 + 1)
    assert (lines.ready, lines.passed) == (False, False)


def passing(judged_ns: int = T0 + 1) -> Lines:
    lines = Lines(VALID_NS, SILENCE_NS, T0)
    lines.hear(judged_ns, T0 + 2)
    assert (lines.ready, lines.passed) == (True, True)
    return lines


def test_a_pulse_ends_in_time_however_often_it_is_told() -> None:
    lines = passing()
    for at_ns in range(T0 + 2, T0 + 2 + VALID_NS, 10 * MS):
        lines.hear(T0 + 1, at_ns)
        assert lines.passed
    assert lines.changes_ns == T0 + 2 + VALID_NS
    lines.turn(lines.changes_ns)
    assert (lines.ready, lines.passed) == (True, False)
    lines.hear(T0 + 1, T0 + 2 + VALID_NS + 1)
    assert (lines.ready, lines.passed) == (True, False)


@pytest.mark.parametrize("word", [READY, NOT_READY, T0])
def test_anything_else_ends_a_pulse_for_good(word: int) -> None:
    lines = passing()
    lines.hear(word, T0 + 3)
    assert (lines.ready, lines.passed) == (word != NOT_READY, False)
    lines.hear(T0 + 1, T0 + 4)
    assert (lines.ready, lines.passed) == (True, False)


def test_a_pass_that_comes_late_or_from_the_future_has_no_pulse() -> None:
    for judged_ns, passed in ((T0 + MS, True), (T0 + MS - 1, False), (T0 + MS + BEGINS_WITHIN_NS + 1, False)):
        lines = Lines(VALID_NS, SILENCE_NS, T0)
        lines.hear(judged_ns, T0 + MS + BEGINS_WITHIN_NS)
        assert lines.passed == passed


def test_what_was_judged_before_the_port_was_open_has_no_pulse() -> None:
    lines = Lines(VALID_NS, SILENCE_NS, T0)
    lines.hear(T0, T0 + 1)
    assert (lines.ready, lines.passed) == (True, False)


def test_two_parts_never_share_a_pulse() -> None:
    lines = passing()
    lines.hear(T0 + 10 * MS, T0 + 10 * MS)
    assert (lines.ready, lines.passed) == (True, False)
    lines.hear(T0 + 11 * MS, T0 + 11 * MS)
    assert lines.passed


def test_a_silent_station_is_not_ready() -> None:
    lines = passing()
    lines.turn(T0 + 2 + SILENCE_NS - 1)
    assert (lines.ready, lines.passed, lines.changes_ns) == (True, False, T0 + 2 + SILENCE_NS)
    lines.turn(T0 + 2 + SILENCE_NS)
    assert not lines.ready


@given(st.lists(st.tuples(st.integers(0, 150 * MS), st.one_of(st.just(READY), st.just(NOT_READY), st.integers(0, 160 * MS))), max_size=40))
def test_each_verdict_rises_once_soon_and_for_its_time(story: list[tuple[int, int]]) -> None:
    """Each step waits, lets fall what is over as the guard does, and says something; what is above READY is how old the verdict is."""
    lines = Lines(VALID_NS, SILENCE_NS, T0)
    now_ns, rose_ns, seen = T0, 0, set()
    for wait_ns, said in story:
        while 0 <= lines.changes_ns <= now_ns + wait_ns:
            lines.turn(lines.changes_ns)
        now_ns += wait_ns
        lines.turn(now_ns)
        stood = lines.passed
        word = max(now_ns - said, 1) if said > READY else said
        lines.hear(word, now_ns)
        assert lines.ready == (word != NOT_READY)
        if lines.passed and not stood:
            assert word not in seen
            assert word > T0
            assert now_ns - word <= BEGINS_WITHIN_NS
            rose_ns = now_ns
        seen.add(word)
        assert not lines.passed or (word > READY and now_ns - rose_ns < VALID_NS)


# The lines themselves.


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no compiler for tests/modem_lines.c")
    library = tmp_path_factory.mktemp("shim") / "modem_lines.so"
    source = Path(__file__).with_name("modem_lines.c")
    subprocess.run([compiler, "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Stand:
    """How the lines stood from a moment on."""

    at_ns: int
    ready: bool
    passed: bool


class Wires:
    """A port with modem lines, seen from the PLC's end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, folder / "lines"
        self.plug()

    def plug(self) -> None:
        self._terminal = Terminal(self.port)
        self._log = self.folder / self.port.readlink().name

    def pull(self) -> None:
        self._terminal.close()

    def history(self) -> list[Stand]:
        data = self._log.read_bytes() if self._log.exists() else b""
        records = struct.iter_unpack("=qii", data[: len(data) // 16 * 16])
        return [Stand(ns, bool(lines & termios.TIOCM_DTR), bool(lines & termios.TIOCM_RTS)) for ns, lines, _ in records]

    def pulses(self) -> list[int]:
        """How long PASS stood, each time that it was raised while READY stood alone, in ns; one that stands still is 0."""
        history = self.history()
        widths = []
        for at, stand in enumerate(history[1:], 1):
            if stand.passed and not history[at - 1].passed and history[at - 1].ready:
                ends = [later.at_ns for later in history[at:] if not later.passed]
                widths.append(ends[0] - stand.at_ns if ends else 0)
        return widths

    def held(self) -> bool:
        with self._log.open() as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @property
    def now(self) -> tuple[bool, bool]:
        """READY and PASS."""
        history = self.history()
        return (history[-1].ready, history[-1].passed) if history and self.held() else (False, False)


class Dialect:
    """A dialect that always works, unless it is told not to."""

    simulated = True

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.told: list[StationSignals] = []
        self.closed_while: tuple[bool, bool] | None = None
        self.on_exchange: Callable[[], None] = lambda: None
        self.wires: Wires | None = None

    def exchange(self, signals: StationSignals) -> PlcInput:
        self.on_exchange()
        if self.error:
            raise self.error
        self.told.append(signals)
        return HEARD

    def close(self) -> None:
        self.closed_while = self.wires.now if self.wires else None


class Bench:
    """The lines under test, their far end, and the dialect beside them."""

    def __init__(self, wires: Wires) -> None:
        self.wires, self.dialect = wires, Dialect()
        self.dialect.wires = wires
        self.plc = DiscreteLines(self.dialect, str(wires.port), valid_ns=VALID_NS, silence_ns=SILENCE_NS)

    def turn(self, signals: StationSignals = RUNNING) -> str:
        """One exchange; what was wrong with it."""
        try:
            assert self.plc.exchange(signals) == HEARD
        except PlcError as error:
            return str(error)
        return ""

    def turn_until(self, reached: Callable[[], bool], what: str, signals: StationSignals = RUNNING) -> list[str]:
        """Turns until it is so; what was said to be wrong meanwhile."""
        wrong: list[str] = []

        def turned() -> bool:
            wrong.append(self.turn(signals))
            return reached()

        until(turned, PATIENCE_S, what)
        return [text for text in wrong if text]

    def ready(self) -> None:
        self.turn_until(lambda: self.wires.now == (True, False) and not self.turn(), "READY")

    def guard(self) -> int:
        assert self.plc._guard is not None
        return self.plc._guard._process.pid


@pytest.fixture
def wires(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wires]:
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("MODEM_LINES_DIR", str(tmp_path))
    made = Wires(tmp_path)
    yield made
    with contextlib.suppress(OSError):
        made.pull()


@pytest.fixture
def bench(wires: Wires) -> Iterator[Bench]:
    made = Bench(wires)
    yield made
    made.plc.close()


def passed_now(**changes: object) -> StationSignals:
    return replace(RUNNING, result=replace(PASSED, judged_ns=time.monotonic_ns(), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "ready"), [(1, False), (2, False), (3, False), (5, False), (6, True), (7, True), (8, True)])
def test_ready_is_said_in_the_states_that_take_parts(bench: Bench, state: int, ready: bool) -> None:
    bench.ready()
    other = replace(RUNNING, state=1 if ready else 8)
    bench.turn_until(lambda: bench.wires.now == (not ready, False), "the other", other)
    bench.turn_until(lambda: bench.wires.now == (ready, False), f"state {state}", replace(RUNNING, state=state))


def test_a_part_that_passed_has_one_pulse_of_its_time(bench: Bench) -> None:
    bench.ready()
    signals = passed_now()
    bench.turn_until(lambda: len(bench.wires.pulses()) == 1 and bench.wires.pulses()[0] > 0, "the pulse", signals)
    for _ in range(20):
        bench.turn(signals)
    assert bench.turn(replace(signals, state=6)) == ""
    (width_ns,) = bench.wires.pulses()
    assert width_ns >= VALID_NS
    assert bench.wires.now == (True, False)


def test_the_pulse_ends_in_time_while_the_loop_is_at_the_next_part(bench: Bench) -> None:
    bench.ready()
    bench.turn(passed_now())
    until(lambda: len(bench.wires.pulses()) == 1 and bench.wires.pulses()[0] > 0, PATIENCE_S, "the end of the pulse")
    assert bench.wires.pulses()[0] >= VALID_NS


@pytest.mark.parametrize("changes", [{"passed": False}, {"passed": 1}, {"sequence": 0}, {"judged_ns": 0}, {"judged_ns": 1}], ids=str)
def test_everything_that_is_not_a_pass_has_no_pulse(bench: Bench, changes: dict[str, object]) -> None:
    bench.ready()
    signals = passed_now()
    signals = replace(signals, result=replace(signals.result, **changes))  # type: ignore[arg-type]
    for _ in range(5):
        bench.turn(signals)
    bench.plc.close()
    assert not bench.wires.pulses()


@pytest.mark.parametrize("state", [1, 3, 5, 6])
def test_a_pass_outside_execution_has_no_pulse(bench: Bench, state: int) -> None:
    bench.ready()
    for _ in range(5):
        bench.turn(replace(passed_now(), state=state))
    bench.plc.close()
    assert not bench.wires.pulses()


def test_a_repeated_answer_has_no_pulse_of_its_own(bench: Bench) -> None:
    bench.ready()
    signals = passed_now()
    bench.turn_until(lambda: bench.wires.pulses() not in ([], [0]), "the pulse", signals)
    bench.turn(replace(RUNNING, result=replace(PASSED, sequence=43, passed=False)))
    for _ in range(5):
        bench.turn(signals)
    bench.plc.close()
    assert len(bench.wires.pulses()) == 1


def test_pass_stands_before_the_dialect_tells_it(bench: Bench) -> None:
    """A slow wire does not hold the line back."""
    bench.ready()
    bench.dialect.on_exchange = lambda: until(lambda: bench.wires.pulses() != [], PATIENCE_S, "the pulse")
    bench.turn(passed_now())
    assert len(bench.wires.pulses()) == 1


def test_a_wire_that_fails_takes_both_lines_along(bench: Bench) -> None:
    bench.ready()
    bench.dialect.error = PlcError("no good answer")
    assert bench.turn(passed_now()) == "no good answer"
    until(lambda: bench.wires.now == (False, False), PATIENCE_S, "both lines down")
    for _ in range(3):
        assert bench.turn(passed_now()) == "no good answer"
    bench.dialect.error = ValueError("state -1 does not fit the wire")
    with pytest.raises(ValueError, match="does not fit"):
        bench.plc.exchange(RUNNING)
    assert len(bench.wires.pulses()) <= 1
    bench.dialect.error = None
    bench.ready()


def test_a_wire_that_fails_ends_a_pulse_at_once(wires: Wires) -> None:
    """Not when the silence of 3 s or the pulse of 20 s would end it."""
    bench = Bench(wires)
    bench.plc = DiscreteLines(bench.dialect, str(wires.port), valid_ns=20_000 * MS)
    bench.ready()
    bench.dialect.error = PlcError("no good answer")
    bench.turn(passed_now())
    until(lambda: wires.now == (False, False), PATIENCE_S, "both lines down")
    assert all(width_ns < 2_000 * MS for width_ns in wires.pulses())
    bench.plc.close()


def test_a_guard_that_heard_nothing_holds_both_lines_down(wires: Wires) -> None:
    guard = Path(lines_guard.__file__)
    words = [sys.executable, "-I", "-S", str(guard), str(wires.port), str(VALID_NS), str(SILENCE_NS)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        assert wires.held()
        assert wires.now == (False, False)
        process.communicate()
    assert process.returncode == 0
    assert wires.now == (False, False)


def test_close_drops_the_lines_before_the_dialect_says_goodbye(bench: Bench) -> None:
    bench.ready()
    bench.turn(passed_now())
    bench.plc.close()
    assert bench.dialect.closed_while == (False, False)
    assert (bench.wires.history()[-1].ready, bench.wires.history()[-1].passed) == (False, False)
    bench.plc.close()


def test_a_guard_that_is_killed_drops_both_lines_and_is_replaced(bench: Bench) -> None:
    bench.ready()
    bench.turn(passed_now())
    os.kill(bench.guard(), signal.SIGKILL)
    until(lambda: bench.wires.now == (False, False), PATIENCE_S, "both lines down")
    told = len(bench.dialect.told)
    wrong = bench.turn_until(lambda: bench.wires.now == (True, False), "READY again")
    assert str(bench.wires.port) in wrong[0]
    assert "lost the process that holds it" in wrong[0]
    assert len(bench.dialect.told) > told  # the dialect tells the error meanwhile


def test_a_guard_that_hangs_is_killed(bench: Bench) -> None:
    bench.ready()
    bench.turn(passed_now())
    until(lambda: bench.wires.now == (True, True) or bench.wires.pulses() != [], PATIENCE_S, "PASS")
    hung = bench.guard()
    os.kill(hung, signal.SIGSTOP)
    wrong = bench.turn_until(lambda: not bench.wires.held(), "the hung guard's end")
    assert "did not answer for" in wrong[0]
    assert bench.wires.now == (False, False)
    bench.ready()
    assert bench.guard() != hung


def test_a_port_that_is_gone_is_an_error_of_the_wire_until_it_is_back(bench: Bench) -> None:
    bench.ready()
    bench.wires.pull()
    wrong: list[str] = []

    def missed() -> bool:
        wrong.append(bench.turn())
        return "cannot be opened" in wrong[-1]

    until(missed, PATIENCE_S, "the error")
    assert any("was lost" in text for text in wrong)
    assert "check that it is plugged in" in wrong[-1]
    bench.wires.plug()
    bench.ready()


def test_a_port_without_modem_lines_or_in_use_is_refused_in_words(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = os.open(wires.port, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    used = Bench(wires)
    used.turn_until(lambda: "cannot be opened" in used.turn() and "Resource temporarily unavailable" in used.turn(), "the refusal")
    used.plc.close()
    os.close(holder)
    monkeypatch.delenv("LD_PRELOAD")
    bare = Bench(wires)
    bare.turn_until(lambda: "Inappropriate ioctl" in bare.turn(), "the refusal")
    bare.plc.close()


def test_only_the_first_opening_raises_the_lines_and_only_for_an_instant(wires: Wires) -> None:
    """What the kernel does with a port at a rate, it does not with one at rate 0, as a guard leaves it."""
    for opening in range(2):
        bench = Bench(wires)
        before = len(wires.history())
        bench.ready()
        since = wires.history()[before:]
        assert [stand.passed for stand in since if stand.passed] == [True, True] * (opening == 0)  # raised, and with READY fallen first
        bench.plc.close()
        assert wires.now == (False, False)


STATION = """
import sys, time
sys.path[:0] = sys.argv[3:]
from dataclasses import replace
from drivers import lines_guard
from drivers.discrete_lines import DiscreteLines
from drivers.plc import PlcError
from test_discrete_lines import Dialect, PASSED, RUNNING, SILENCE_NS
plc = DiscreteLines(Dialect(), sys.argv[1], valid_ns=int(sys.argv[2]), silence_ns=SILENCE_NS)
signals = RUNNING
while True:
    try:
        plc.exchange(signals)
        if signals is RUNNING and sys.stdin.readline():
            signals = replace(RUNNING, result=replace(PASSED, judged_ns=time.monotonic_ns()))
    except PlcError:
        pass
    time.sleep(0.005)
"""


@contextlib.contextmanager
def station(wires: Wires, valid_ms: int) -> Iterator[subprocess.Popen[str]]:
    """A station of which nothing runs but its exchanges. It passes one part at a word, and PASS stands."""
    tests = Path(__file__).parent
    words = [str(wires.port), str(valid_ms * MS), str(tests), str(tests.parent)]
    process = subprocess.Popen([sys.executable, "-c", STATION, *words], stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        for _ in range(3):
            process.stdin.write("\n")
        process.stdin.close()
        until(lambda: wires.history() != [] and wires.now == (True, True), PATIENCE_S, "PASS")
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_station_that_is_killed_drops_both_lines(wires: Wires) -> None:
    with station(wires, 20_000) as process:
        process.kill()
        until(lambda: wires.now == (False, False), PATIENCE_S, "both lines down")
    until(lambda: not wires.held(), PATIENCE_S, "the guard's end")


def test_a_station_that_is_stopped_ends_its_pulse_and_its_readiness(wires: Wires) -> None:
    with station(wires, 300) as process:
        process.send_signal(signal.SIGSTOP)
        until(lambda: wires.now == (True, False), PATIENCE_S, "the end of the pulse")
        until(lambda: wires.now == (False, False), PATIENCE_S, "the end of READY")
        process.send_signal(signal.SIGCONT)
        until(lambda: wires.now == (True, False), PATIENCE_S, "READY again")
        assert len(wires.pulses()) == 1
